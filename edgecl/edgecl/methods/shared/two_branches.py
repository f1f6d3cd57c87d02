"""Two branches: the frozen backbone beside one that was adapted on the first task."""

from abc import abstractmethod
from typing import Any, ClassVar

from edgecl.backbones.spec import BackboneSpec
from edgecl.methods.base import Pass
from edgecl.methods.shared.first_session import FirstSession
from edgecl.program.classifiers import CosinePrototypes
from edgecl.program.injectors import Injector


class TwoBranches(FirstSession):
    """APER (Zhou et al., IJCV 2024) with any injection; a method says which.

    The features of the two passes are concatenated raw (equation 7).
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2303.07338"
    family: ClassVar[str] = "two branches"
    passes: tuple[Pass, ...] = ("plain", "injected")

    def build(self, config: Any, spec: BackboneSpec) -> None:
        self.injector = self.adapted(config, spec)
        self.classifier = CosinePrototypes(spec.feature_dim, self.passes)

    @abstractmethod
    def adapted(self, config: Any, spec: BackboneSpec) -> Injector:
        """Return the injection of the second branch."""

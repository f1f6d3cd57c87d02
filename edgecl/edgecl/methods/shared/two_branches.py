"""Two branches: the frozen backbone and one that was adapted on the first task."""

from abc import abstractmethod
from typing import ClassVar

from edgecl.methods.base import Forgets
from edgecl.methods.config import ConfigT
from edgecl.methods.shared.first_session import FirstSession
from edgecl.program import Pass, Program
from edgecl.program.classifiers import CosinePrototypes
from edgecl.program.injectors import Injector


class TwoBranches(FirstSession[ConfigT]):
    """APER (Zhou et al., IJCV 2024) with any injection; `adapted` returns it.

    The features of the two passes are concatenated raw (equation 7).
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2303.07338"
    family: ClassVar[str] = "two branches"
    forgets: ClassVar[Forgets] = "rows"

    def build(self) -> Program:
        passes: tuple[Pass, ...] = ("plain", "injected")
        injector = self.adapted()
        return self.compose(
            injector=injector,
            classifier=CosinePrototypes(self.spec.feature_dim, passes),
            passes=passes,
            trained_once=tuple(injector.declare()),
        )

    @abstractmethod
    def adapted(self) -> Injector:
        """Return the injection of the second branch."""

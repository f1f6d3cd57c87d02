"""SimpleCIL (Zhou et al., IJCV 2024), https://arxiv.org/abs/2303.07338.

Injection:  none.
Matcher:    none.
Classifier: cosine to the mean feature of each class (equation 5).
Differs from the paper: nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import register
from edgecl.methods.base import Method, Pass, Status
from edgecl.program.classifiers import CosinePrototypes


@dataclass(frozen=True)
class SimpleCILConfig:
    """SimpleCIL has nothing to set."""


@register
class SimpleCIL(Method):
    """Class means of frozen features."""

    name: ClassVar[str] = "simplecil"
    title: ClassVar[str] = "SimpleCIL"
    paper: ClassVar[str] = "https://arxiv.org/abs/2303.07338"
    family: ClassVar[str] = "closed form"
    status: ClassVar[Status] = "compared"
    config_type: ClassVar[type] = SimpleCILConfig
    passes: tuple[Pass, ...] = ("plain",)

    def build(self, config: SimpleCILConfig, spec: BackboneSpec) -> None:
        self.classifier = CosinePrototypes(spec.feature_dim, self.passes)

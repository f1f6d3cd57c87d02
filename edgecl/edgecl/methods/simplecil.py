"""SimpleCIL (Zhou et al., IJCV 2024), https://arxiv.org/abs/2303.07338.

Injection:  none.
Matcher:    none.
Classifier: cosine to the mean feature of each class (equation 5).
Differs from the paper: nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.methods import register
from edgecl.methods.base import Forgets, Method, Status
from edgecl.methods.config import MethodConfig
from edgecl.program import Pass, Program
from edgecl.program.classifiers import CosinePrototypes


@dataclass(frozen=True)
class SimpleCILConfig(MethodConfig):
    """SimpleCIL has nothing to set."""


@register
class SimpleCIL(Method[SimpleCILConfig]):
    """Class means of frozen features."""

    name: ClassVar[str] = "simplecil"
    title: ClassVar[str] = "SimpleCIL"
    paper: ClassVar[str] = "https://arxiv.org/abs/2303.07338"
    family: ClassVar[str] = "closed form"
    forgets: ClassVar[Forgets] = "rows"
    status: ClassVar[Status] = Status(steps=2e-7, points=0.0)
    config_type: ClassVar[type[MethodConfig]] = SimpleCILConfig

    def build(self) -> Program:
        passes: tuple[Pass, ...] = ("plain",)
        return self.compose(
            classifier=CosinePrototypes(self.spec.feature_dim, passes), passes=passes
        )

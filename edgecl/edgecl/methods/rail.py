"""RAIL in its primal form (Xu et al., NeurIPS 2024), https://arxiv.org/abs/2406.18868.

Injection:  none.
Matcher:    none.
Classifier: p = softmax(CLIP's logits) over all names. Where its largest entry is of a learned
            class, 0.2 p + 0.8 r with the ridge scores r of relu(f W), from sums over all tasks, f
            the feature at length 1 and W fixed and random; r is 0 for classes that were not
            learned. Elsewhere p: zero-shot is kept exactly, and the gate's error too.
Differs from the paper: M is 2,000 (15,000 there), and W, nearly normal, comes from a generator that
            the device repeats bit for bit; lambda is scaled with the variance of W, so that 0.1
            means the same; the sums are in float64 and solved anew, which is what the recursion of
            the paper comes to; the temperature and the templates are those of the CLIP. The dual
            form, which keeps the feature of every image, is left out. A class that comes back in
            another domain owns several equal rows.
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Forgets, Status
from edgecl.methods.config import MethodConfig, SumsConfig
from edgecl.methods.shared.named_rows import LearnedBesideNames
from edgecl.methods.shared.text_method import TextMethodConfig, text_spec
from edgecl.program import Program
from edgecl.program.classifiers.gated import GatedRidge


@dataclass(frozen=True)
class RailConfig(TextMethodConfig, SumsConfig):
    """The texts, the projection, the ridge and the mixture."""

    size: int = 2000  # M, width of the projection
    ridge: float = 0.1  # lambda, for a W uniform within 1 / sqrt(f) as the public code draws it
    zero_shot: float = 0.2  # of CLIP's probabilities in a mixed score; the rest is the ridge's
    seed: int = 1993  # of the projection; it ships instead of the projection

    def __post_init__(self) -> None:
        at_least(1, "rail", size=self.size)
        at_least(0, "rail", seed=self.seed)
        if not (self.ridge > 0 and 0 <= self.zero_shot < 1):
            raise MethodError(
                "rail.ridge must be above 0 and rail.zero_shot in [0, 1), got "
                f"{self.ridge} and {self.zero_shot}. Use 0.1 and 0.2, or the method zero-shot."
            )


@register
class Rail(LearnedBesideNames[RailConfig]):
    """Ridge scores where CLIP names a learned class, CLIP alone elsewhere."""

    name: ClassVar[str] = "rail"
    title: ClassVar[str] = "RAIL"
    paper: ClassVar[str] = "https://arxiv.org/abs/2406.18868"
    family: ClassVar[str] = "vision-language"
    forgets: ClassVar[Forgets] = "sums"
    status: ClassVar[Status] = Status(steps=6e-7)
    config_type: ClassVar[type[MethodConfig]] = RailConfig
    options: ClassVar[tuple[str, ...]] = ("zero_shot",)

    def build(self) -> Program:
        config, width = self.config, self.spec.feature_dim
        self.head = GatedRidge(
            config.size,
            "plain",
            width=width,
            logit_scale=text_spec(self.spec).logit_scale,
            ridge=3 * width * config.ridge,  # W has variance 1, theirs 1 / 3f
            share=config.zero_shot,
            seed=config.seed,
        )
        return self.compose(classifier=self.head, passes=("plain",))

"""Shared-covariance discriminants: SLDA, KLDA, RanDumb, and GDA on a CLIP.

RanDumb (Prabhu et al., NeurIPS 2024), https://arxiv.org/abs/2402.08823, is SLDA (Hayes and Kanan,
CVPRW 2020, https://arxiv.org/abs/1909.01520) with another shrinkage on random Fourier features, as
KLDA (Momeni et al., AAAI 2025, https://arxiv.org/abs/2412.15571) is; GDA on a CLIP (Wang et al.,
ICLR 2024), https://arxiv.org/abs/2402.04087, adds the scores to those by name.

Injection:  none.
Matcher:    none.
Classifier: linear discriminants from sums over all tasks, w_c = S^-1 m_c and b_c = -m_c w_c / 2
            with the class means m_c and one covariance S, shrunk by `oas` (RanDumb) or `trace`
            (GDA, equation 4); with rff=D on D random Fourier features (RanDumb, KLDA). `clip-lda`
            adds 0.1 of it to 0.9 of the cosine to the class name, as BOFA's public code
            (https://arxiv.org/abs/2511.11421) does at test.
Differs from the paper: features have length 1 before anything else, so that gamma=1 means what the
            `scale` of RanDumb's code does, whatever the images are; directions come from a
            generator that the device repeats bit for bit, and a cosine and a sine of each replace
            random phases; S is that of all images so far, in float64 and solved anew, where RanDumb
            averages those of the classes, each shrunk, BOFA's code averages inverses, and KLDA's
            takes the pseudo-inverse, without shrinkage; `trace` has the scale of a covariance,
            whatever the number of images; classes have equal priors, so few images do no harm;
            scores are relative to the mean of the class means, where a class to come is taken to
            be, which on a CLIP keeps zero-shot. The share there is fixed (GDA searches it per data
            set). A class that comes back in another domain has a row and a mean in each.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Forgets, Method, Status
from edgecl.methods.config import MethodConfig, SumsConfig
from edgecl.methods.shared.named_rows import LearnedBesideNames
from edgecl.methods.shared.text_method import TextMethodConfig
from edgecl.program import Program
from edgecl.program.classifiers.discriminant import Discriminant, NamedDiscriminant, Shrinkage


@dataclass(frozen=True)
class LdaConfig(SumsConfig):
    """The covariance, and random Fourier features."""

    shrinkage: Shrinkage = "oas"
    rff: int = 0  # D, random Fourier features; 0: none
    gamma: float = 1.0  # of their kernel, exp(-gamma |f - g|^2) of features of length 1
    seed: int = 1993  # of their directions; it ships instead of them

    def __post_init__(self) -> None:
        at_least(0, "lda", rff=self.rff, seed=self.seed)
        if self.rff % 2 or not self.gamma > 0:
            raise MethodError(
                f"lda.rff must be even and lda.gamma above 0, got {self.rff} and {self.gamma}. "
                "Use 2000 and 1.0, or rff=0."
            )


@dataclass(frozen=True)
class ClipLdaConfig(TextMethodConfig, LdaConfig):
    """The texts, the share of the discriminants, their covariance and Fourier features."""

    shrinkage: Shrinkage = "trace"
    share: float = 0.1  # of the discriminants in a score; the rest is the cosine's

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise MethodError(
                f"clip-lda.share must be above 0 and at most 1, got {self.share}. Use 0.1, or the "
                "method zero-shot."
            )


def covariance(config: LdaConfig) -> dict[str, Any]:
    """Return what a discriminant is told of its covariance and its features."""
    names = LdaConfig.__dataclass_fields__.keys() - SumsConfig.__dataclass_fields__.keys()
    return {name: value for name, value in asdict(config).items() if name in names}


@register
class Lda(Method[LdaConfig]):
    """Linear discriminants of frozen features."""

    name: ClassVar[str] = "lda"
    title: ClassVar[str] = "LDA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2402.08823"
    family: ClassVar[str] = "closed form"
    forgets: ClassVar[Forgets] = "sums"
    status: ClassVar[Status] = Status(steps=6e-7)
    config_type: ClassVar[type[MethodConfig]] = LdaConfig
    options: ClassVar[tuple[str, ...]] = ("gamma",)

    def build(self) -> Program:
        classifier = Discriminant(self.spec.feature_dim, **covariance(self.config))
        return self.compose(classifier=classifier, passes=("plain",))


@register
class ClipLda(LearnedBesideNames[ClipLdaConfig]):
    """Class names, and linear discriminants of frozen features."""

    name: ClassVar[str] = "clip-lda"
    title: ClassVar[str] = "CLIP-LDA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2402.04087"
    family: ClassVar[str] = "vision-language"
    forgets: ClassVar[Forgets] = "sums"
    status: ClassVar[Status] = Status(steps=8e-7)
    config_type: ClassVar[type[MethodConfig]] = ClipLdaConfig
    options: ClassVar[tuple[str, ...]] = ("gamma",)

    def build(self) -> Program:
        config = self.config
        self.head = NamedDiscriminant(
            self.spec.feature_dim, share=config.share, **covariance(config)
        )
        return self.compose(classifier=self.head, passes=("plain",))

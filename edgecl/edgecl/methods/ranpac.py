"""RanPAC, random projections and pre-trained models (McDonnell et al., NeurIPS 2023).

https://arxiv.org/abs/2307.02251

Injection:  an AdaptFormer adapter parallel to every block's MLP, trained on the first task only,
            then frozen (phase 1 of algorithm 1); with `first_session` scales and shifts as in
            APER-SSF (ssf), rows before every block as in APER-VPT-Deep (vpt) or before the first
            alone as in APER-VPT-Shallow (vpt-shallow), or none.
Matcher:    none.
Classifier: ridge regression on relu(f W) with a fixed random W, from sums over all tasks; lambda is
            the one with the least squared error on a fifth of the current task. With truncate=25
            no lambda and no image held out: the pseudo-inverse of H'H whose smallest eigenvalues
            are cut after every task (LoRanPAC, Peng et al., ICLR 2025,
            https://arxiv.org/abs/2410.00645).
Differs from the paper: W comes from a generator that the device repeats bit for bit, nearly normal
            (a sum of twelve uniform integers), and M is smaller; the sums are in float64; the fifth
            is drawn at random rather than the last of the loader; a class that comes back in
            another domain owns several equal rows. Of LoRanPAC the rule at this M (100,000 there):
            as many eigenvalues stay as 75 % of the images so far, of M, at most 10,000; from the
            sums, which is its block update with a task as the block; the head is no cosine. What is
            cut is lost: the order of tasks shows, and no class can be subtracted.
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Forgets, Status
from edgecl.methods.config import MethodConfig, SumsConfig
from edgecl.methods.shared.first_session import OneBranch, SessionConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers.random_features import RandomFeatures
from edgecl.program.classifiers.ridge import Weight


@dataclass(frozen=True)
class RanPACConfig(SessionConfig, SumsConfig):
    """The projection, the first session and its schedule."""

    size: int = 2000  # M, width of the projection
    seed: int = 1993  # of the projection; it ships instead of the projection
    truncate: int = 0  # percent of the spectrum that is cut, as LoRanPAC; 0: ridge regression
    weight: Weight = "choose"  # how lambda is chosen; gcv: by generalised cross-validation
    schedule: TrainConfig = TrainConfig("sgd", lr=0.01, epochs=20, batch_size=48, weight_decay=5e-4)

    def __post_init__(self) -> None:
        at_least(1, "ranpac", size=self.size, rank=self.rank, length=self.length)
        at_least(0, "ranpac", seed=self.seed, truncate=self.truncate)
        if self.truncate >= 100 or (self.truncate and self.weight != "choose"):
            raise MethodError(
                "ranpac.truncate is a percentage below 100 and leaves no lambda to choose, got "
                f"{self.truncate} and weight={self.weight}. Use 25 with weight=choose, or 0."
            )


@register
class RanPAC(OneBranch[RanPACConfig]):
    """One branch, adapted on the first task, under a ridge head on random features."""

    name: ClassVar[str] = "ranpac"
    title: ClassVar[str] = "RanPAC"
    paper: ClassVar[str] = "https://arxiv.org/abs/2307.02251"
    family: ClassVar[str] = "closed form"
    forgets: ClassVar[Forgets] = "sums"
    status: ClassVar[Status] = Status(steps=9e-6, points=0.3)
    config_type: ClassVar[type[MethodConfig]] = RanPACConfig

    def build(self) -> Program:
        config, dim = self.config, self.spec.feature_dim
        return self.adapted(
            lambda on: RandomFeatures(
                config.size, on, dim, config.seed, config.truncate, weight=config.weight
            )
        )

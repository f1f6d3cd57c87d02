"""LayUP, multi-layer prototypes (Ahrens et al., TMLR 2024), https://arxiv.org/abs/2312.08888.

Injection:  an AdaptFormer adapter parallel to every block's MLP, trained on the first task only,
            then frozen; with `first_session` scales and shifts (ssf), rows before every block (vpt)
            or before the first alone (vpt-shallow), or none instead.
Matcher:    none.
Classifier: ridge regression on [CLS] after each of the last k blocks, side by side, raw and
            before the final norm, from sums over all tasks; lambda is the one with the best
            accuracy in a 4-fold cross-validation on the current task, the sums of the former tasks
            included.
Differs from the paper: the first session trains a fixed number of epochs (the public code may stop
            early, by test images; the epoch that is best on them it means to keep, but keeps the
            last) with Adam without decay (AdamW with 5e-4 there) and the cosine head of APER, whose
            scale is learned from 1 on (30 and fixed there: `head_scale=30`), so its gradients are
            weaker; its cosine does not lag by an epoch, and norms of adapted blocks keep their
            epsilon (1e-5 there); each block has rows of vpt of its own, from a random start (the
            public code's closure gives all blocks the last one's, from zero); sums in float64;
            folds deal the images of a class in turn, not in blocks; among equally good lambdas the
            largest is taken, not the first; all blocks are read where there are fewer than k; a
            class that comes back in another domain owns several equal rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Forgets, Status
from edgecl.methods.config import MethodConfig, SumsConfig
from edgecl.methods.shared.first_session import OneBranch, SessionConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.ridge import (
    ChoosingRidge,
    Rows,
    Sums,
    Weight,
    enrol_by_sums,
    heads_without,
    held_out_scores,
    one_hot,
)
from edgecl_deploy.format import Enrol

WEIGHTS = (1e-8, *(10.0 ** (-4 + step / 2) for step in range(15)))  # candidates for lambda
FOLDS = 4


@dataclass(frozen=True)
class LayUPConfig(SessionConfig, SumsConfig):
    """The taps, the first session and its schedule."""

    length: int = field(default=10, kw_only=True)  # p, rows of vpt before every block
    head_scale: float = 0.0  # of the first session's head; 0: learned from 1 on
    taps: int = 6  # k, blocks that are read
    weight: Weight = "choose"  # how lambda is chosen; gcv: by generalised cross-validation
    schedule: TrainConfig = TrainConfig("adam", lr=0.003, epochs=20, batch_size=48)

    def __post_init__(self) -> None:
        at_least(1, "layup", taps=self.taps, rank=self.rank, length=self.length)
        at_least(0, "layup", head_scale=self.head_scale)


@dataclass(frozen=True)
class Taps(ChoosingRidge):
    """Ridge regression on the taps side by side, the shallowest first."""

    width: int  # of one tap
    weights: ClassVar[tuple[float, ...]] = WEIGHTS
    chooses_alone: ClassVar[bool] = False

    def enrol(self) -> Enrol:
        return enrol_by_sums((self.size - self.width, self.size))

    def feature(self, encoded: Encoded) -> Float[Tensor, "b m"]:
        return encoded.taps(self.on).flatten(1)

    def choose(
        self,
        features: Float[Tensor, "n m"],
        classes: Int[Tensor, " n"],
        total: Sums,
        generator: torch.Generator,
    ) -> float:
        """Choose by accuracy; the images of a class are dealt to the folds in turn."""
        rows, targets = features.double(), one_hot(classes, total.moments.shape[1])
        part = self.deal(classes, generator)
        folds = [torch.nonzero(part == fold).flatten() for fold in range(FOLDS)]
        folds = [fold for fold in folds if len(fold)]
        best = [
            sum(
                int((scores.argmax(dim=1) == classes[fold]).sum())
                for scores, fold in zip(found, folds, strict=True)
            )
            for found in held_out_scores(total, rows, targets, folds, WEIGHTS)
        ]
        return max(zip(best, WEIGHTS, strict=True))[1]

    def deal(self, classes: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " n"]:
        order = classes.argsort(stable=True)
        counts = classes.bincount()
        rank = torch.empty_like(classes)  # inside the class
        rank[order] = torch.arange(len(classes)) - (counts.cumsum(0) - counts)[classes[order]]
        return rank % FOLDS

    def choose_by_parts(
        self, rows: Rows, part: Int[Tensor, " n"], sums: Sequence[Sums], total: Sums
    ) -> float:
        best = torch.zeros(len(WEIGHTS), dtype=torch.long)
        for fold, held in enumerate(sums):
            heads = heads_without(total, held, WEIGHTS)  # w m c
            for some, own in rows.blocks(torch.nonzero(part == fold).flatten()):
                right = (some @ heads).argmax(dim=-1) == own  # w b
                best += right.sum(dim=1).cpu()
        return max(zip(best.tolist(), WEIGHTS, strict=True))[1]


@register
class LayUP(OneBranch[LayUPConfig]):
    """One branch, adapted on the first task, under a ridge head on several blocks."""

    name: ClassVar[str] = "layup"
    title: ClassVar[str] = "LayUP"
    paper: ClassVar[str] = "https://arxiv.org/abs/2312.08888"
    family: ClassVar[str] = "closed form"
    status: ClassVar[Status] = Status(steps=8e-5)
    forgets: ClassVar[Forgets] = "sums"
    config_type: ClassVar[type[MethodConfig]] = LayUPConfig
    augmentation: ClassVar[str] = "layup"

    def build(self) -> Program:
        self.fixed_scale = self.config.head_scale
        taps = max(1, min(self.config.taps, self.spec.depth))
        width, weight = self.spec.width, self.config.weight
        return self.adapted(lambda on: Taps(taps * width, on, width, weight=weight), taps=taps)

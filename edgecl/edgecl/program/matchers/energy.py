"""Matchers that compare how confident the heads of all tasks are."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers.base import Match, NoMatcher
from edgecl.program.task_rows import owners, task_rows

COLDEST = 1e-3  # a temperature below it counts as this one
LOWEST = -1e4  # for "no row": finite in float16, below any logit


@dataclass(frozen=True)
class EnergyVote(NoMatcher):
    """The task that most temperatures choose by the free energy of its head (ESN).

    It needs the logits of all heads, so before the passes it matches nothing; a program that
    uses it has a `late_matcher` that calls `vote`, and `fit` appends the task's temperature. The
    score is the winner's energy, negated, at temperature 1.
    """

    name: ClassVar[str] = "energy-vote"

    def declare(self) -> dict[str, TensorSpec]:
        item = TensorSpec("t", {}, concat_axis="t", start={"t": 1}, half=False)
        return {"temperatures": item, **task_rows()}

    def vote(self, logits: Float[Tensor, "b c"], learned: Tensors) -> Match:
        """Take the mode of the temperatures' choices; among equals the oldest task.

        A temperature that several tasks have appended has one vote, as in the public code.
        """
        k = learned["temperatures"].clamp(min=COLDEST)
        position = torch.arange(k.shape[0], device=k.device)
        again = (k[:, None] == k) & (position[:, None] > position)
        first = (again.float().sum(dim=1) == 0).float()  # k: 1 where no older one is the same
        warmth = torch.cat([k, k.new_ones(1)])
        sure = confidence(logits, warmth, learned)  # b k+1 t
        tasks = torch.arange(sure.shape[-1], device=k.device)
        chosen = sure[:, :-1].argmax(dim=-1, keepdim=True) == tasks  # b k t
        votes = (chosen.float() * first[:, None]).sum(dim=1)  # b t
        index = votes.argmax(dim=-1, keepdim=True)
        return Match(index, sure[:, -1].gather(1, index))


def confidence(
    logits: Float[Tensor, "b c"], temperatures: Float[Tensor, " k"], learned: Tensors
) -> Float[Tensor, "b k t"]:
    """Return T log sum exp(h / T) over each task's rows: its free energy, negated.

    It is equation 9 of ESN (Wang et al., AAAI 2023).
    """
    tasks = torch.arange(learned["task_rows"].shape[0], device=logits.device)
    own = owners(logits.T, learned) == tasks[:, None]  # t c
    member = own.to(logits.dtype)
    top = torch.where(own, logits.unsqueeze(1), LOWEST).amax(dim=-1)  # b t
    below = (logits - top @ member).clamp(max=0)  # b c, under the best row of the same task
    share = (below.unsqueeze(1) / temperatures[:, None]).exp() @ member.T  # b k t
    return top.unsqueeze(1) + temperatures[:, None] * share.clamp(min=1).log()


def coolest_right(
    logits: Float[Tensor, "n c"], candidates: Float[Tensor, " k"], learned: Tensors
) -> Float[Tensor, ""]:
    """Return the temperature that assigns most images to the newest task; the first among equals.

    Args:
        logits: of the newest task's training images.
    """
    chosen = confidence(logits, candidates, learned).argmax(dim=-1)  # n k
    right = (chosen == learned["task_rows"].shape[0] - 1).sum(dim=0)
    return candidates[right.argmax()]

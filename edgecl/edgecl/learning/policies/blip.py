"""BLIP: bits of shared tensors that a task has found are kept by the tasks after it.

Shi et al., CVPR 2021, https://arxiv.org/abs/2105.04444; the public code was read (Yujun-Shi/BLIP).
A weight is a number of bits inside a bound around its start. After a task, the diagonal Fisher F
gives the bits that the task has found, log2((F + F_old (t+1)) / (F_old (t+2))) / 2, rounded up and
not below 0, on top of those of former tasks; F_old is the running mean, from a prior on. The weight
is rounded to its bits; a later task may move it by the bits that are left.

Differs from the public code, which trains whole networks of linear layers and convolutions: the
bits are of the way from the start, not of the weight, so no bits are the start and not a zero,
which would never leave a product of two. The unit is the standard deviation of the start there,
1 / sqrt(fan-in), and here; where a tensor starts constant, 1 / sqrt of the larger of its last two
sizes, and a sixth where it has one axis. The start is rounded to float16, in which packs in bits
hold it. Labels are drawn among the task's rows, for `IMAGES` images, one at a time; a tensor that
the scores do not depend on, such as a key that is pulled to images, has no Fisher and is left
alone. A head of all tasks is in it too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgecl.learning.policies import grown, named, read
from edgecl.program.learned import Tensors, TensorSpec

POLICY = "blip"
IMAGES = 256  # at most, that the Fisher of a task is of
GRID = 21  # bits of which packs hold whole steps
HALF = 2.0**-11  # of a value, or of the unit, is what rounding to float16 may change
BOUND = 6.0  # units that a weight may be from its start
# The public code's prior is 1e-15 times the fan-in. Its gradients are of the mean over a batch of
# 100, so its Fisher is 100^2 times smaller than that of single images.
PRIOR = 1e-15 * 100**2


@dataclass(eq=False)
class Bits:
    """The bits of what all tasks train, each set of tensors by name.

    Attributes:
        most: bits of a weight.
        task: from 0.
        start: before the first task.
        anchor: before this one.
        found: bits by former tasks, 0 to `most`.
        former: the running mean of the Fisher of former tasks and the prior.
    """

    most: int
    task: int
    start: Tensors
    anchor: Tensors
    found: Tensors
    former: Tensors

    @classmethod
    def begin(
        cls,
        most: int,
        task: int,
        state: Mapping[str, Tensor],
        shared: Tensors,
        declared: dict[str, TensorSpec],
        rows: Sequence[int] = (),
    ) -> "Bits":
        """Begin a task with what the former one kept.

        Args:
            state: that is it.
            most: bits of a weight, 1 or more.
            shared: the leaves of tensors that all tasks train, before the training.
            rows: of each new row of a head, the former one that it goes on from (`grown`).
        """
        anchor = {name: leaf.detach().clone() for name, leaf in shared.items()}
        kept = {what: read(state, POLICY, what) for what in ("start", "bits", "fisher")}

        def known(what: str, name: str, fresh: Tensor) -> Tensor:
            return grown(kept[what].get(name), fresh, declared[name], rows)

        start = {name: known("start", name, short(each)) for name, each in anchor.items()}
        found = {
            name: known("bits", name, torch.zeros_like(each, dtype=torch.uint8))
            for name, each in anchor.items()
        }
        prior = {
            name: torch.full_like(each, PRIOR / unit(start[name]) ** 2)
            for name, each in anchor.items()
        }
        former = {name: known("fisher", name, each) for name, each in prior.items()}
        return cls(most, task, start, anchor, found, former)

    @torch.no_grad()
    def clip(self, leaves: Tensors) -> None:
        """Put the leaves back to where their free bits reach, after a step."""
        for name, anchor in self.anchor.items():
            start, leaf = self.start[name], leaves[name]
            bound = BOUND * unit(start)
            room = bound * 0.5 ** self.found[name].to(leaf.dtype)
            leaf.copy_(leaf.clamp(anchor - room, anchor + room))
            whole = bound * (1 - 0.5**self.most)
            leaf.copy_(leaf.clamp(start - whole, start + whole))

    @torch.no_grad()
    def settle(self, leaves: Tensors, fisher: Tensors) -> Tensors:
        """Round the leaves to the bits that they have after the task; return what is kept.

        Args:
            fisher: the diagonal of this task's, of single images; what is absent stays as it is.
        """
        t = self.task
        for name, new in fisher.items():
            start, old = self.start[name], self.former[name]
            gain = ((new + old * (t + 1)) / (old * (t + 2))).log2() / 2
            bits = (self.found[name] + gain.ceil().clamp(min=0, max=self.most)).clamp(max=self.most)
            step = BOUND * unit(start) * 0.5**bits
            offset = torch.where(bits > 0, ((leaves[name] - start) / step).round() * step, 0)
            leaves[name].copy_(start + offset)
            self.found[name] = bits.to(torch.uint8)
            self.former[name] = (old * (t + 1) + new) / (t + 2)
        return {
            **named(POLICY, "start", self.start),
            **named(POLICY, "bits", self.found),
            **named(POLICY, "fisher", self.former),
        }


def short(start: Tensor) -> Tensor:
    """Return a start rounded to float16, as it is where that would change much of it."""
    rounded = start.half().float() + 0.0  # no -0, which does not come back from a step of 0
    near = torch.allclose(rounded, start, rtol=HALF, atol=HALF * unit(start))
    return rounded if near else start + 0.0


def step_of(start: Tensor) -> float:
    """Return the finest step of a tensor of at most `GRID` bits, a float32."""
    return float(torch.tensor(BOUND * unit(start))) * 0.5**GRID


def unit(start: Tensor) -> float:
    """Return the standard deviation that a tensor starts with, or what stands for it."""
    spread = float(start.std(correction=0))
    if spread > 0:
        return spread
    return float(max(start.shape[-2:])) ** -0.5 if start.ndim > 1 else 1 / BOUND

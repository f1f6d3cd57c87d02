"""BAdam: Bayesian Adam, whose weights have a mean and a spread that is kept from task to task.

Kessler et al., 2023, https://arxiv.org/abs/2309.08546. Of the paper the abstract was read; the
equations are those of one stored file of code, whose origin is not certain and which does not run
as it is (mended, its steps are equal to these). A weight is normal, with mean mu and standard
deviation sigma. A step draws K times w = mu + sigma e, and takes the means g of the gradients and h
of (gradient times e). With m and v, Adam's averages of g and g^2 over all n steps of the run:

    mu <- mu - eta sigma^2 sqrt(1 - b2^n) / (1 - b1^n) m / (sqrt(v) + 1e-10)
    sigma <- sigma sqrt(1 + (sigma h / 2)^2) - sigma^2 h / 2

so a weight whose spread a task has narrowed moves less in the next one.

Differs from that: eta is `lr` / `spread`^2, so `lr` is the rate at the first spread and what is
kept is sigma over it: with one draw and no spread the step is Adam's. Gradients are of the mean
over a batch; there they are of the sum (`summed`). Only tensors that all tasks train keep anything;
rows that a task appends begin with the first spread. n counts a tensor's own steps.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from edgecl.learning.policies import grown, named, read
from edgecl.optim import TrainConfig
from edgecl.program.learned import Tensors, TensorSpec

POLICY = "badam"
EPS = 1e-10  # outside the corrections of Adam's averages
KEPT = ("spread", "mean", "square", "steps")  # sigma over the first one, m, v, n


class BAdam(torch.optim.Optimizer):
    """Steps over leaves by name, in the place of Adam.

    Args:
        rates: factors on the learning rate, by name.
        state: of the run; what former tasks kept.
        declared: of the leaves that are learned; those that all tasks train go on from `state`.
        generator: of the draws.
        rows: of each new row of a head, the former one that it goes on from (`grown`).
    """

    def __init__(
        self,
        leaves: Tensors,
        schedule: TrainConfig,
        rates: Mapping[str, float],
        state: Mapping[str, Tensor],
        declared: dict[str, TensorSpec],
        generator: torch.Generator,
        rows: Sequence[int] = (),
    ):
        groups = [
            {"params": [leaf], "lr": schedule.lr * rates.get(name, 1.0)}
            for name, leaf in leaves.items()
        ]
        super().__init__(groups, {"lr": schedule.lr})
        self.leaves = leaves
        self.schedule = schedule
        self.generator = generator
        self.kept_names = {n for n in leaves if n in declared and declared[n].shared}
        self.moments: dict[str, Tensors] = {}
        for what, start in zip(KEPT, (1.0, 0.0, 0.0, 0.0), strict=True):
            former = read(state, POLICY, what)
            self.moments[what] = {
                name: grown(former.get(name), torch.full_like(leaf, start), declared[name], rows)
                if name in self.kept_names
                else torch.full_like(leaf, start)
                for name, leaf in ((n, each.detach()) for n, each in leaves.items())
            }

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Tensor], images: int = 1
    ) -> None:
        """Draw, and move the means and spreads by what the draws found.

        Args:
            closure: computes the loss of the batch with the leaves as they are.
            images: in the batch, of which it is the mean.
        """
        names = [name for name, leaf in self.leaves.items() if leaf.requires_grad]
        mean = {name: self.leaves[name].clone() for name in names}
        gradient = {name: torch.zeros_like(each) for name, each in mean.items()}
        pull = {name: torch.zeros_like(each) for name, each in mean.items()}
        count, first = self.schedule.draws, self.schedule.spread
        factor = images if self.schedule.summed else 1
        for _ in range(count):
            noise = {
                name: torch.randn(each.shape, generator=self.generator).to(each)
                for name, each in mean.items()
            }
            for name, each in mean.items():
                self.leaves[name].copy_(each + first * self.moments["spread"][name] * noise[name])
            self.zero_grad()
            with torch.enable_grad():
                (closure() * factor).backward()
            for name in names:
                found = self.leaves[name].grad
                if found is not None:
                    gradient[name] += found / count
                    pull[name] += found * noise[name] / count
        for name in names:
            self.leaves[name].copy_(mean[name]).grad = gradient[name]
        if self.schedule.clip is not None:
            leaves = [self.leaves[name] for name in names]
            torch.nn.utils.clip_grad_norm_(leaves, self.schedule.clip)
        rates = [group["lr"] for group in self.param_groups]
        for (name, leaf), rate in zip(self.leaves.items(), rates, strict=True):
            if leaf.requires_grad:
                self._move(name, gradient[name], pull[name], rate)

    def _move(self, name: str, gradient: Tensor, pull: Tensor, rate: float) -> None:
        """Move one tensor; `gradient` is g and `pull` is h."""
        b1, b2 = self.schedule.betas
        spread, m, v, n = (self.moments[what][name] for what in KEPT)
        n += 1
        m.lerp_(gradient, 1 - b1)
        v.lerp_(gradient.square(), 1 - b2)
        steps = n.double()  # 1 - b2^n loses its digits in float32
        corrected = ((1 - b2**steps).sqrt() / (1 - b1**steps)).to(m.dtype)
        self.leaves[name] -= rate * spread.square() * corrected * m / (v.sqrt() + EPS)
        half = self.schedule.spread * spread * pull / 2
        spread.copy_(spread * (1 + half.square()).sqrt() - spread * half)

    def kept(self) -> Tensors:
        """Return what the next task goes on from."""
        kept: Tensors = {}
        for what, tensors in self.moments.items():
            kept |= named(POLICY, what, {name: tensors[name] for name in self.kept_names})
        return kept

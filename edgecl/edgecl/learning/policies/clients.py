"""Simulated clients: each trains on a part of a task's images, and what they train is averaged.

FedAvg (McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629, algorithm 1), weighted by
images, in rounds of a number of batches, as the online protocol of Serra and Buettner (ICLR 2025,
https://openreview.net/forum?id=f65RuQgVlp; the public code was read, MLO-lab/online-FCL) has it. An
image is one client's in all epochs; the parts are drawn evenly.

Differs from that code: an optimiser begins anew in every round, and rounds begin with the first
batch (30 batches alone there, then one in 5); all clients are in every round that they have images
for, and the tasks of all are the same; what a method computes after its training sees the images of
all clients, as their sums would.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from edgecl.optim import TrainConfig
from edgecl.program.learned import Tensors


def parts_of(images: int, clients: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """Return the client of each image; no client has two more than another."""
    return torch.randperm(images, generator=generator) % clients


def rounds(
    order: Int[Tensor, " n"], client: Int[Tensor, " n"], schedule: TrainConfig
) -> Iterator[list[tuple[Int[Tensor, " b"], ...]]]:
    """Yield the batches of each client in every round of an epoch.

    Args:
        order: of all images.
        client: of each image, by its position.
    """
    batches = [
        order[client[order] == each].split(schedule.batch_size) for each in range(schedule.clients)
    ]
    for start in range(0, max(map(len, batches)), schedule.local_steps):
        some = [own[start : start + schedule.local_steps] for own in batches]
        yield [own for own in some if own and len(own[0])]


class ClientMean:
    """The mean of what clients train, by their images.

    Args:
        leaves: those without a gradient are left alone.
    """

    def __init__(self, leaves: Tensors):
        self._leaves = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        self._start = {name: leaf.detach().clone() for name, leaf in self._leaves.items()}
        self._sum = {name: torch.zeros_like(each) for name, each in self._start.items()}
        self._images = 0

    def restart(self) -> None:
        """Put the leaves to where the round began, for the next client."""
        self._set(self._start)

    def add(self, images: int) -> None:
        """Take in what a client has trained on so many images."""
        self._images += images
        for name, leaf in self._leaves.items():
            self._sum[name] += images * leaf.detach()

    def finish(self) -> None:
        """Put the leaves to the mean."""
        self._set({name: each / self._images for name, each in self._sum.items()})

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, leaf in self._leaves.items():
            leaf.copy_(values[name])

"""What APG remembers of former classes, and draws instead of their images.

A class is stored as the Gaussian of [CLS] where the prompt enters, the mean of its prompts and the
Gaussian of the feature. They are of the training images, by the model that its own task left.
"""

import torch

from edgecl.methods.batch import Batch
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors
from edgecl.program.statistics import (
    cholesky_factors,
    class_covariances,
    class_means,
    correlated_features,
)

DRAWN = "drawn_"  # before the names of draws in a training
JITTER = 1e-5  # added to the diagonal of a covariance, as the public code does for CIFAR-100


def remembered(found: Tensors, task: TaskContext) -> Tensors:
    """Return the statistics of a task's classes, a row for each.

    Args:
        found: of its images: `x`, [CLS] where the prompt enters, `prompt` and `feature`.
    """
    labels, classes = task.labels, task.classes
    stored = {"prompts": class_means(found["prompt"], labels, classes)}
    for name in ("x", "feature"):
        stored[f"{name}_means"] = class_means(found[name], labels, classes)
        stored[f"{name}_covariances"] = class_covariances(found[name], labels, classes)
    return stored


def appended(state: Tensors, newer: Tensors) -> Tensors:
    """Return the statistics of former classes and of a task's."""
    if not state:
        return newer
    return {name: torch.cat([state[name], rows]) for name, rows in newer.items()}


class Draws:
    """Draws from the Gaussians of all classes that are remembered."""

    def __init__(self, state: Tensors):
        self._prompts = state["prompts"]
        self._of = {
            name: (
                state[f"{name}_means"],
                cholesky_factors(state[f"{name}_covariances"], JITTER),
            )
            for name in ("x", "feature")
        }

    def take(self, count: int, generator: torch.Generator) -> Tensors:
        """Return `count` draws of every class, with its row and its mean prompt."""
        rows = torch.arange(len(self._prompts)).repeat_interleave(count)
        drawn = {
            name: correlated_features(*each, count, generator)[0] for name, each in self._of.items()
        }
        return {**drawn, "row": rows, "prompt": self._prompts[rows]}

    def for_images(self, images: int, count: int, generator: torch.Generator) -> Tensors:
        """Return `count` draws for every image, in a random order, of all classes as many to one.

        `drawn_of` reads them.
        """
        most = images * count
        drawn = self.take(-(-most // len(self._prompts)), generator)
        order = torch.randperm(len(drawn["row"]), generator=generator)[:most]
        return {DRAWN + name: rows[order].unflatten(0, (-1, count)) for name, rows in drawn.items()}


def drawn_of(batch: Batch) -> Tensors:
    """Return the draws that go with the images of a batch."""
    return {
        name.removeprefix(DRAWN): rows[batch.index].flatten(0, 1)
        for name, rows in batch.constants.items()
        if name.startswith(DRAWN)
    }

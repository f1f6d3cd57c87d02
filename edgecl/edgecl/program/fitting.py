"""What a method sees of a task beside gradients, and what it makes of it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from edgecl.backbones.text_encoder import TextEncoder
from edgecl.backbones.vit import Features
from edgecl.program.learned import Tensors


@dataclass(frozen=True, eq=False)
class TaskContext:
    """One task, in front of its training (`start`) or behind it (`fit`).

    Attributes:
        index: of the task, from 0.
        classes: how many rows the task adds to the classifier.
        class_rows: the class of every class row so far, this task's last; a class that comes back in
            another domain owns several.
        labels: each image's row inside the task; below 0 those that a memory adds in training.
        plain: the frozen features of the images, None where the method has no plain pass.
        features: in `constants`, of the method's teachers; in `fit`, what `Method.gather` made of
            the images; else empty.
        learned: of the former tasks; behind the training with what it brought, local tensors too.
        state: what the former task's `fit` kept.
        generator: of this task's random numbers.
        text: the text tower, of a method that needs one.
    """

    index: int
    classes: int
    class_rows: tuple[str, ...]
    labels: Int[Tensor, " n"]
    plain: Features | None
    features: Tensors
    learned: Tensors
    state: Tensors
    generator: torch.Generator
    text: TextEncoder | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the classes of the task's own rows."""
        return self.class_rows[len(self.class_rows) - self.classes :]


def continued(task: TaskContext, fresh: Tensors, *names: str) -> Tensors:
    """Let banks with one entry per task start each as a copy of the former task's."""
    if not task.index:
        return fresh
    return fresh | {name: task.learned[name][-1:].clone() for name in names}


class FitResult(NamedTuple):
    """What `fit` makes.

    Attributes:
        part: tensors of the task's part; they replace what the training left under their names.
        state: what the next task gets; it stays on the workstation, of any dtype.
    """

    part: Tensors
    state: Tensors

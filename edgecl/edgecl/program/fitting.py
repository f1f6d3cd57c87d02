"""What a method is given of a task, and what it computes of it without gradient."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgecl.backbones.text_encoder import ClassName, ClassText, TextEncoder
from edgecl.backbones.vit import Features
from edgecl.errors import MethodError
from edgecl.program.additive import CPU, ImageSums
from edgecl.program.learned import Tensors

Gather: TypeAlias = Callable[..., Tensors]  # of (Encoded, learned): tensors, one row per image
Encode: TypeAlias = Callable[..., Tensors]  # of a Gather, and of tensors instead of learned ones
RidgeWeight: TypeAlias = float | Literal["choose", "keep", "gcv"]

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


def no_images(gather: Gather, instead: Mapping[str, Tensor] = NOTHING) -> Tensors:
    """Replace the images of a task where they are not at hand.

    Raises:
        MethodError: always.
    """
    raise MethodError("Images are encoded in `begin_task` and in `fit` only.")


def no_features() -> None:
    """Return nothing: the method has no plain pass."""


def no_moments() -> Float[Tensor, "l d d"]:
    """Replace the moments of a task where its images are not at hand.

    Raises:
        MethodError: always.
    """
    raise MethodError("Second moments are at hand in `begin_task` and in `fit` only.")


@dataclass(frozen=True, eq=False)
class TaskContext:
    """One task, before its training (`begin_task`) or after it (`fit`).

    Attributes:
        index: of the task, from 0.
        classes: how many class rows the task adds to the classifier.
        class_rows: the class of every class row so far, this task's last; a class that comes back
            in another domain owns several.
        read_as: how a text tower reads the class of every class row; () where by its name alone.
        labels: each image's class row inside the task; below 0 those that a memory adds in
            training.
        plain: the frozen features of the images, None where the method has no plain pass, and
            where nobody has asked `look` for them.
        look: computes them.
        features: in `constants`, of the method's teachers; in a classifier's `fit`, its features of
            the images; else empty.
        learned: of the former tasks; after the training with the task's own tensors, local ones
            too.
        state: what the former task's `fit` left for this one.
        generator: of this task's random numbers.
        text_encoder: the text tower, of a method that needs one.
        row_images: of each class row of the former tasks, how many images it is of; 0 where it no
            longer counts.
        moves: a class that comes back brings more images of what is known: its row may move. Else
            it comes in another domain, and keeps its rows.
        weight: the lambda of a ridge head; `keep` is that of the former task, `choose` the rule of
            the method, `gcv` the one of generalised cross-validation.
        device: where sums over the images are computed.
        encode: in `begin_task` and in `fit`, runs the program over the task's images with
            `learned`, some tensors of it replaced by those that are given, and returns what a
            function of (Encoded, learned) makes of each batch, one row per image.
        moments: runs the program's injected pass over the task's images and returns the second
            moment of what enters the attention of every block, in float64; in `begin_task` as the
            former tasks left the model, in `fit` as this task did.
        sums: over the images, where they are all that is known of them: `labels` is empty then.
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
    text_encoder: TextEncoder | None = None
    row_images: tuple[int, ...] = ()
    moves: bool = False
    read_as: tuple[ClassText, ...] = ()
    weight: RidgeWeight = "choose"
    device: torch.device = CPU
    encode: Encode = no_images
    moments: Callable[[], Float[Tensor, "l d d"]] = no_moments
    sums: ImageSums | None = None
    look: Callable[[], Features | None] = no_features

    @property
    def counts(self) -> Int[Tensor, " k"]:
        """Return how many images each of the task's own class rows has."""
        if self.sums is not None:
            return self.sums.counts
        return self.labels.bincount(minlength=self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the classes of the task's own class rows."""
        return self.class_rows[len(self.class_rows) - self.classes :]

    @property
    def former_rows(self) -> tuple[int, ...]:
        """Return, of each of the task's own class rows, the row that was its class's so far.

        -1 of a new class, and of one that comes in another domain.
        """
        rows = self.class_rows[: len(self.class_rows) - self.classes]
        found = {name: row for row, name in enumerate(rows) if self.moves and self.row_images[row]}
        return tuple(found.get(name, -1) for name in self.names)

    def apart(self, empty: Tensors) -> "TaskContext":
        """Return the task as if it were the first, under its own number.

        A method whose tasks have no part in each other trains it so: products of as many rows are
        rounded alike, whatever was learned before.

        Args:
            empty: the learned tensors before the first task.
        """
        read_as = self.read_as[len(self.class_rows) - self.classes :]
        return replace(
            self, class_rows=self.names, read_as=read_as, learned=empty, state={}, row_images=()
        )

    @property
    def row_texts(self) -> tuple[ClassName, ...]:
        """Return how a text tower reads the class of every class row so far."""
        return self.read_as or self.class_rows

    @property
    def texts(self) -> tuple[ClassName, ...]:
        """Return how a text tower reads the classes of the task's own class rows."""
        return self.row_texts[len(self.class_rows) - self.classes :]

    @property
    def text(self) -> TextEncoder:
        """Return the text tower.

        Raises:
            MethodError: if the method did not ask for one (`needs_text`).
        """
        if self.text_encoder is None:
            raise MethodError("The task has no text tower. Set needs_text = True in the method.")
        return self.text_encoder

    @property
    def queries(self) -> Tensor:
        """Return the frozen [CLS] feature of each image, [n, d].

        Raises:
            MethodError: if the program has no plain pass.
        """
        plain = self.look() if self.plain is None else self.plain
        if plain is None:
            raise MethodError('The task has no frozen features. Give the program the pass "plain".')
        return plain.cls


def continued(task: TaskContext, fresh: Tensors, *names: str) -> Tensors:
    """Let banks with one entry per task start each as a copy of the former task's."""
    if not task.index:
        return fresh
    return fresh | {name: task.learned[name][-1:].clone() for name in names}


@dataclass(frozen=True, eq=False)
class FitResult:
    """What `fit` returns.

    Attributes:
        part: tensors of the task's part; they replace what the training left under their names.
        state: what the next task gets; it stays on the workstation, of any dtype.
        moved: known classes whose rows of former tasks no longer count: their rows in `part` are of
            all of their images.
        sums: of the images of the task alone (`classifiers.task_sums`), where the rows come from
            sums; a run may keep them.
        feature: of the task's images, [n, f], where it was asked for.
    """

    part: Tensors = field(default_factory=dict)
    state: Tensors = field(default_factory=dict)
    moved: tuple[str, ...] = ()
    sums: Tensors = field(default_factory=dict)
    feature: Tensor | None = None

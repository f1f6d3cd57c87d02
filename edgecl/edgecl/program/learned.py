"""What a method learns: declared tensors, stored as one part per task.

A part is exactly what the task's pack holds: the new rows of appended tensors, the whole of
replaced ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from edgecl.program.generated import Generated
from edgecl_deploy.manifest.canonical import canonical, digest

Tensors: TypeAlias = dict[str, Tensor]
Ships: TypeAlias = Literal["never", "once", "appended", "replaced"]
Init: TypeAlias = Callable[[tuple[int, ...], torch.Generator], Tensor]


def zeros(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Start at zero."""
    return torch.zeros(shape)


def ones(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Start at one."""
    return torch.ones(shape)


def uniform(bound: float) -> Init:
    """Start uniform in [-bound, bound]."""

    def init(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) * bound

    return init


def normal(spread: float) -> Init:
    """Start normal with mean 0."""

    def init(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator) * spread

    return init


@dataclass(frozen=True)
class TensorSpec:
    """The declaration of one learned tensor.

    Attributes:
        axes: names of its axes, as in "c s d".
        sizes: the axes whose size every program fixes; the others are dynamic.
        concat_axis: the axis on which tasks are appended; None where a task's tensor replaces the
            former one.
        start: sizes of dynamic axes at the first task; "c" is the task's number of classes, and
            "t" that of the tasks where it is not named here.
        least: smallest sizes of dynamic axes, 1 where absent.
        init: the tensor, or its new rows, before training.
        trained: by gradient; otherwise computed by `start` or `fit`.
        once: the first task's stays; no later task trains, replaces or ships it.
        counts: holds the number of rows that the task adds to the classifier; the training loop
            sets it.
        half: survives float16 in a pack.
        generated: made by a generator before the first task, and never changed; it is in no
            part, and its pack holds the seed only.
    """

    axes: str
    sizes: Mapping[str, int]
    concat_axis: str | None = None
    start: Mapping[str, int] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=dict)
    init: Init = zeros
    trained: bool = False
    once: bool = False
    counts: bool = False
    half: bool = True
    generated: Generated | None = None

    @property
    def axis_names(self) -> tuple[str, ...]:
        return tuple(self.axes.split())

    @property
    def dim(self) -> int | None:
        """Return the position of the axis on which tasks are appended."""
        return None if self.concat_axis is None else self.axis_names.index(self.concat_axis)

    @property
    def whole(self) -> bool:
        """Return whether every task replaces all class rows (a ridge head)."""
        return self.dim is None and "c" in self.axis_names

    @property
    def shared(self) -> bool:
        """Return whether all tasks train it, so that a later one moves what a former one found."""
        return self.trained and self.concat_axis is None and not self.once

    @property
    def ships(self) -> Ships:
        """Return when a tensor is in a pack."""
        if self.generated is not None:
            return "never"
        if self.once:
            return "once"
        return "replaced" if self.concat_axis is None else "appended"

    def shape(self, classes: int, former: int = 0, task: int = 0) -> tuple[int, ...]:
        """Return the shape of one task's part.

        Args:
            former: rows of the tasks before it, which a replaced head has too.
            task: from 0; a replaced tensor with the axis t grows by one on it in every task.
        """
        rows = classes + former if self.whole else classes
        sizes = {"c": rows, "t": task + 1, **self.start, **self.sizes}
        return tuple(sizes[axis] for axis in self.axis_names)

    def shipped(self, task: int) -> bool:
        """Return whether the part of a task (from 0) holds the tensor."""
        return self.generated is None and not (self.once and task)

    def count(self, classes: int) -> Tensor:
        """Return the part of a tensor that counts, for a task of so many classes."""
        return torch.full(self.shape(classes), float(classes))

    def to_json(self) -> dict[str, object]:
        return {
            "axes": list(self.axis_names),
            "sizes": dict(self.sizes),
            "concat_axis": self.concat_axis,
            "dtype": "float32",
        }


def train_once(declared: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Mark tensors as trained and shipped in the first task only.

    Appended ones are unaffected: their older entries never change.
    """
    return {
        name: item if item.concat_axis is not None else replace(item, once=True)
        for name, item in declared.items()
    }


def join(declared: Mapping[str, TensorSpec], parts: Sequence[Tensors]) -> Tensors:
    """Return the learned tensors that the parts of all tasks make: appended, or the last one.

    A tensor that no part holds yet is absent from the result, an appended one excepted: it has
    zero rows. Generated tensors are always there.
    """
    joined: Tensors = {}
    for name, declaration in declared.items():
        held = [part[name] for part in parts if name in part]
        if declaration.generated is not None:
            joined[name] = declaration.generated.make(declaration.shape(0))
        elif declaration.dim is None:
            if held:
                joined[name] = held[-1]
        elif held:
            joined[name] = torch.cat(held, dim=declaration.dim)
        else:
            none = list(declaration.shape(0))
            none[declaration.dim] = 0  # what starts with rows of its own (t, m) has none either
            joined[name] = torch.zeros(none)
    return joined


def start_part(
    declared: dict[str, TensorSpec],
    prior: Tensors,
    classes: int,
    generator: torch.Generator,
    trained: bool,
) -> Tensors:
    """Return a new task's tensors before training: fresh rows, or the former tensor.

    A replaced head keeps the rows of the former tasks and gets fresh ones; what is trained once is
    in the first task's part only.
    """
    part: Tensors = {}
    for name, item in declared.items():
        if item.counts:
            part[name] = item.count(classes)
        if not (item.trained and trained) or (item.once and name in prior):
            continue
        if item.dim is None and name in prior:
            rows = [item.init(item.shape(classes), generator)] if item.whole else []
            axis = item.axis_names.index("c") if item.whole else 0
            part[name] = torch.cat([prior[name], *rows], dim=axis)
        else:
            part[name] = item.init(item.shape(classes), generator)
    return part


def with_part(declared: dict[str, TensorSpec], prior: Tensors, part: Tensors) -> Tensors:
    """Return the learned tensors that the former tasks and this part make."""
    learned = dict(prior)
    for name, tensor in part.items():
        dim = declared[name].dim
        learned[name] = tensor if dim is None else torch.cat([prior[name], tensor], dim=dim)
    return learned


def interface_digest(
    method: str, config: Mapping[str, object], declared: Mapping[str, TensorSpec], backbone: str
) -> str:
    """Return the digest that binds packs to programs: what shapes the graph, and the backbone.

    Args:
        config: the part of the method's configuration that shapes the graph (top-k, scales), not
            its schedule.
    """
    identity = {
        "method": method,
        "config": dict(config),
        "learned": {name: item.to_json() for name, item in declared.items()},
        "backbone": backbone,
    }
    return digest(canonical(identity))

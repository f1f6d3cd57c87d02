"""What a loss is given of a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jaxtyping import Int
from torch import Tensor

from edgecl.errors import MethodError
from edgecl.program.classifiers import Encoded
from edgecl.program.learned import Tensors


def no_batch(instead: Tensors) -> Encoded:
    """Replace the images of a batch where they are not at hand.

    Raises:
        MethodError: always.
    """
    raise MethodError("A batch is encoded once more in a training only.")


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of the current task, as a loss is given it.

    Attributes:
        labels: counted from the task's first class row.
        classes: of the task.
        constants: what the former task's `fit` left as state, and what `constants` returned.
        index: the positions of the images among all that train the task.
        encode: runs the program over the same images once more, without a gradient, some learned
            tensors replaced by those that are given.
    """

    encoded: Encoded
    labels: Int[Tensor, " b"]
    classes: int
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    index: Int[Tensor, " b"] | None = None
    encode: Callable[[Tensors], Encoded] = no_batch

"""What methods on a CLIP share whose class rows hold its own embeddings of the names."""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.text_encoder import ClassName, TextEncoder
from edgecl.methods.shared.text_method import TextConfigT, TextMethod
from edgecl.program import Tensors
from edgecl.program.fitting import TaskContext


class NamedRows(TextMethod[TextConfigT]):
    """A method that embeds the names of a task's classes by the text tower as it is."""

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Return the text embeddings of the task's classes."""
        return {**fresh, "texts": task.text.zero_shot(task.texts, self.config.templates)}


class NamedHead(Protocol):
    """A classifier that scores by name and by what was learned."""

    def unlearned(self, texts: Float[Tensor, "c f"]) -> Tensors:
        """Return the rows of classes that are known by name alone."""


class LearnedBesideNames(NamedRows[TextConfigT]):
    """A method whose head has something learned next to the embeddings.

    Attributes:
        head: what `build` made.
    """

    head: NamedHead

    def zero_shot_rows(
        self, text: TextEncoder, names: Sequence[ClassName], learned: Tensors
    ) -> Tensors:
        """Return CLIP's own embeddings, and a head that knows nothing of these classes."""
        return self.head.unlearned(super().zero_shot_rows(text, names, learned)["texts"])

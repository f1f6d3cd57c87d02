"""The base of the methods' configurations."""

from dataclasses import dataclass
from typing import TypeVar

from edgecl.optim import TrainConfig


@dataclass(frozen=True)
class MethodConfig:
    """The base of all configurations: frozen dataclasses whose fields all have defaults."""

    @property
    def schedule(self) -> TrainConfig | None:
        """Return how a task is trained; a field of methods that train by gradient."""
        return None

    @property
    def memory(self) -> int:
        """Return the bytes of training images that the run may remember, 0 if none.

        A field of methods with rehearsal. A remembered image's label in a batch is below 0: all
        labels are counted from the task's first class row.
        """
        return 0


ConfigT = TypeVar("ConfigT", bound=MethodConfig)

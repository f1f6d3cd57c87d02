"""The base of the methods' configurations."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

from edgecl.errors import MethodError
from edgecl.optim import TrainConfig
from edgecl.program.classifiers.task_sums import KeptSums

MemoryBy: TypeAlias = Literal["mean", "uncertainty"]


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

    @property
    def memory_by(self) -> MemoryBy:
        """Return what decides which images are remembered."""
        return "mean"

    @property
    def sums(self) -> KeptSums:
        """Return of what a run keeps the sums; a field of methods whose head is made of sums."""
        return "total"


@dataclass(frozen=True)
class SumsConfig(MethodConfig):
    """What a run keeps of the sums of a head that is made of sums."""

    sums: KeptSums = field(default="task", kw_only=True)  # task: those of each, for `forget`


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


def check_policies(
    name: str, config: MethodConfig, shared: bool, averages: bool, trains: bool
) -> None:
    """Check that there is something that the policies of a schedule act on.

    Args:
        name: of the method.
        shared: it has tensors that every task trains.
        averages: it replaces what gradients train by a moving average.
        trains: images by gradient.

    Raises:
        MethodError: if not.
    """
    train = config.schedule
    if train is not None and train.clients > 1 and (averages or not trains):
        why = "averages its steps" if averages else "trains no images"
        raise MethodError(
            f"schedule.clients needs a method that trains images and ships its last step, {name} "
            f"{why}. Use --set schedule.clients=1."
        )
    if train is None or not (train.bits or train.optimizer == "badam"):
        return
    if not shared:
        raise MethodError(
            f"schedule.bits and badam act on tensors that every task trains, {name} has none. "
            "Leave them out, or use a method with such tensors: l2p, dualprompt, dap."
        )
    if train.bits and averages:
        raise MethodError(
            f"schedule.bits needs tensors that gradients train, {name} also averages them. "
            "Use --set schedule.bits=0."
        )


def check_later(name: str, config: MethodConfig, trained: bool) -> None:
    """Check that later tasks are trained, if a schedule has something for them.

    Args:
        name: of the method.
        trained: it trains tasks after the first.

    Raises:
        MethodError: if not.
    """
    train = config.schedule
    if train is not None and train.of(1) is not train and not trained:
        raise MethodError(
            f"schedule.later needs a method that trains every task, got {name}, which trains the "
            "first alone. Leave it out: the schedule is the first task's."
        )

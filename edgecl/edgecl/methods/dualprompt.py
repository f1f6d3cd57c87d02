"""DualPrompt (Wang et al., ECCV 2022), https://arxiv.org/abs/2204.04799.

Injection:  a prefix G, shared by all tasks and trained on in each, at the first blocks; a prefix E
            per task at the blocks after them; both concatenated to keys and values.
Matcher:    cosine of the frozen [CLS] feature with one learned key per task, the nearest; in
            training the task's own.
Classifier: linear on [CLS]; logits of other tasks are masked in training.
Differs from the paper: no batch voting, so a prediction depends on its image alone; keys and values
            are split where they belong (PyTorch ports mix images here); a task's E starts as the
            former task's and its key anew, as in the original's configuration; sizes, lambda = 1
            and the schedule are the original's for CIFAR-100, its learning rate for batches of 24;
            prompts and keys start from U(-1, 1) as in the PyTorch port (the original's from
            U(0, 0.01), so keys turn faster there);
            on a backbone of fewer than five blocks E takes what G leaves, at least the last one.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Batch, Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Linear
from edgecl.program.fitting import TaskContext, continued
from edgecl.program.injectors import Joined, SharedPrefix, TaskPrefixes
from edgecl.program.learned import Tensors
from edgecl.program.matchers import TaskKeys


@dataclass(frozen=True)
class DualPromptConfig(MethodConfig):
    """Lengths and blocks of the prefixes, the weight of the pull and the schedule."""

    shared_blocks: int = 2  # that G enters, from block 0 on; 0 leaves G out
    shared_length: int = 5  # L_g, rows of the keys of G, and as many of the values
    task_blocks: int = 3  # that E enters, after those of G
    task_length: int = 5  # L_e
    pull: float = 1.0  # lambda, pulls the task's key to the query
    schedule: TrainConfig = TrainConfig(
        "adam", lr=0.0028125, epochs=5, batch_size=24, cosine=False, clip=1.0
    )

    def __post_init__(self) -> None:
        at_least(0, "dualprompt", shared_blocks=self.shared_blocks)
        at_least(1, "dualprompt", task_blocks=self.task_blocks, task_length=self.task_length)
        at_least(1, "dualprompt", shared_length=self.shared_length)


@register
class DualPrompt(Method[DualPromptConfig]):
    """What all tasks share in the first blocks, what is a task's own after them."""

    name: ClassVar[str] = "dualprompt"
    title: ClassVar[str] = "DualPrompt"
    paper: ClassVar[str] = "https://arxiv.org/abs/2204.04799"
    family: ClassVar[str] = "prefixes per task"
    status: ClassVar[Status] = Status(steps=3e-7, points=3.2)
    config_type: ClassVar[type[MethodConfig]] = DualPromptConfig
    augmentation: ClassVar[str] = "l2p"
    trains: Trains = "every"

    def build(self) -> Program:
        config, spec = self.config, self.spec
        first = max(0, min(config.shared_blocks, spec.depth - 1))  # the first block of E
        own = tuple(range(first, min(first + config.task_blocks, spec.depth)))
        task = TaskPrefixes(spec.width, own, config.task_length)
        shared = SharedPrefix(spec.width, tuple(range(first)), config.shared_length)
        return self.compose(
            injector=Joined((shared, task)) if first else task,
            matcher=TaskKeys(spec.feature_dim),
            classifier=Linear(spec.feature_dim, on="cls"),
            passes=("plain", "injected"),
        )

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Start the task's E as the former task's.

        Its key starts anew: a key that goes on collects the pull of all tasks so far, and becomes
        the nearest to every image.
        """
        return continued(task, fresh, "task_prefixes")

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy over the task's rows, minus the pull of its key."""
        pull = batch.encoded.match.score.mean()
        return super().loss(batch, learned) - self.config.pull * pull

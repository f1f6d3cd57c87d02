"""DAP, domain-adaptive prompts (Jung et al., ICCV 2023).

https://openaccess.thecvf.com/content/ICCV2023/papers/Jung_Generating_Instance-level_Prompts_for_Rehearsal-free_Continual_Learning_ICCV_2023_paper.pdf

Injection:  rows after [CLS] before every block, dropped after it, that the block generates
            from its own tokens: a norm, weighted sums over the tokens (trained in the first task),
            a scale and a shift (FiLM), linear in the embedding of the matched task.
Matcher:    cosine of the frozen [CLS] feature with one learned key per task, the nearest; in
            training the task's own.
Classifier: linear on [CLS]; logits of other tasks are masked in training only.
Differs from the paper: no batch voting, and no logit is masked by the matched task, so a prediction
            depends on its image alone and all classes compete. Sizes and schedule are those of the
            public code for CIFAR-100, whose learning rate is constant as it runs; but Adam keeps
            its usual averages (0.9 and 0.999, no amsgrad), every task has a new optimiser, the pull
            of an image counts once (there as often as its batch has images, so 128 lambda for one),
            and the head starts as timm's. In the form `generated`, the paper's, the map to the
            scales and shifts and the norms go on training, so the prompts of older tasks drift. The
            form `snapshot` is ours: it trains the norms in the first task only and the map anew in
            every task, and ships the scales and shifts that the map ends with, so nothing of an
            older task moves.

The weighted sums have one weight per token: what is trained at one image size fits no other one.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.methods import register
from edgecl.methods.base import Batch, Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Linear
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import FilmPrompts, FilmSnapshots
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import TaskKeys


@dataclass(frozen=True)
class DAPConfig(MethodConfig):
    """The form, the sizes, the weight of the pull and the schedule."""

    form: Literal["generated", "snapshot"] = "generated"
    length: int = 10  # N_p, rows before a block
    embedding: int = 16  # d_e, of a task
    pull: float = 0.1  # lambda, pulls the task's key to the query
    schedule: TrainConfig = TrainConfig(
        "adam", lr=0.01, epochs=5, batch_size=128, cosine=False, clip=1.0
    )

    def __post_init__(self) -> None:
        at_least(1, "dap", length=self.length, embedding=self.embedding)


@register
class DAP(Method[DAPConfig]):
    """Prompts that every block generates from its tokens, in the manner of the matched task."""

    name: ClassVar[str] = "dap"
    title: ClassVar[str] = "DAP"
    paper: ClassVar[str] = (
        "https://openaccess.thecvf.com/content/ICCV2023/papers/Jung_Generating_Instance-level_"
        "Prompts_for_Rehearsal-free_Continual_Learning_ICCV_2023_paper.pdf"
    )
    family: ClassVar[str] = "generated prompts"
    status: ClassVar[Status] = Status(steps=3e-6)
    config_type: ClassVar[type[MethodConfig]] = DAPConfig
    trains: Trains = "every"

    def build(self) -> Program:
        config, spec = self.config, self.spec
        kind = FilmSnapshots if config.form == "snapshot" else FilmPrompts
        sizes = (spec.width, spec.tokens, spec.depth, config.length, config.embedding)
        self.injector = kind(*sizes)
        # As VPT starts prompts, for patches of 16 x 16 pixels; the cosine forgets the length, but
        # it decides how far a step turns the key.
        bound = (6 / (3 * 16**2 + spec.feature_dim)) ** 0.5
        return self.compose(
            injector=self.injector,
            matcher=TaskKeys(spec.feature_dim, bound=bound),
            classifier=Linear(spec.feature_dim, on="cls"),
            passes=("plain", "injected"),
        )

    def local(self) -> dict[str, TensorSpec]:
        """Declare what only the training of a snapshot needs."""
        if not isinstance(self.injector, FilmSnapshots):
            return {}
        return {**self.injector.film_map(), **self.injector.embeddings()}

    def parametrize(self, leaves: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        """Return the snapshot of the task."""
        if not isinstance(self.injector, FilmSnapshots):
            return {}
        return self.injector.taken(leaves)

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy over the task's rows, minus the pull of its key."""
        pull = batch.encoded.match.score.mean()
        return super().loss(batch, learned) - self.config.pull * pull

"""L2P, Learning to Prompt (Wang et al., CVPR 2022), https://arxiv.org/abs/2112.08654.

Injection:  the chosen prompts, after [CLS] before block 0, carried to the end (equation 4).
Matcher:    cosine of the frozen [CLS] feature with one learned key per prompt, top k per image
            (equation 3).
Classifier: linear on the mean over the prompt rows after the final norm; logits of other tasks
            are masked in training.
Differs from the paper: the paper's optional table that spreads the choice over tasks is not used;
            no batch voting, so a prediction depends on its image alone; sizes, schedule, the
            start of the head and the position embedding on prompts are those of the PyTorch port
            (5 rows, 5 of 10 prompts, lambda 0.1) rather than of the original (10 rows, 4 of 10,
            lambda 1).
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Batch, Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Linear
from edgecl.program.injectors import PromptPool
from edgecl.program.learned import Tensors
from edgecl.program.matchers import TopK


@dataclass(frozen=True)
class L2PConfig(MethodConfig):
    """Sizes of the pool, the weight of the pull and the schedule."""

    pool: int = 10  # M, prompts in the pool
    length: int = 5  # L_p, rows of a prompt
    top_k: int = 5  # N, prompts per image
    pull: float = 0.1  # lambda, pulls the chosen keys to the query
    schedule: TrainConfig = TrainConfig(
        "adam", lr=0.001875, epochs=5, batch_size=16, cosine=False, clip=1.0
    )

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.pool:
            raise MethodError(
                f"l2p.top_k must be in [1, l2p.pool={self.pool}], got {self.top_k}. "
                "Lower l2p.top_k or raise l2p.pool."
            )
        at_least(1, "l2p", length=self.length)


@register
class L2P(Method[L2PConfig]):
    """A pool of prompts, chosen per image."""

    name: ClassVar[str] = "l2p"
    title: ClassVar[str] = "L2P"
    paper: ClassVar[str] = "https://arxiv.org/abs/2112.08654"
    family: ClassVar[str] = "prompt pools"
    status: ClassVar[Status] = Status(steps=2e-5, points=-2.3)
    config_type: ClassVar[type[MethodConfig]] = L2PConfig
    augmentation: ClassVar[str] = "l2p"
    trains: Trains = "every"
    options: ClassVar[tuple[str, ...]] = ("top_k",)

    def build(self) -> Program:
        config, spec = self.config, self.spec
        return self.compose(
            injector=PromptPool(spec.width, config.pool, config.length, config.top_k),
            matcher=TopK(spec.feature_dim, config.pool, config.top_k),
            classifier=Linear(spec.feature_dim, on="prompt"),
            passes=("plain", "injected"),
        )

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy over the task's rows, minus the pull of the chosen keys (equation 5)."""
        pull = batch.encoded.match.score.sum(dim=-1).mean()
        return super().loss(batch, learned) - self.config.pull * pull

"""CODA-Prompt (Smith et al., CVPR 2023), https://arxiv.org/abs/2211.13218.

Injection:  the weighted sum of all components as a prefix at the first blocks: the first half of
            its rows are keys, the second half values, concatenated.
Matcher:    cosine of the frozen [CLS] feature, times a component's attention vector, with its key:
            a weight per block and component, without softmax or choice.
Classifier: linear on [CLS]; logits of other tasks are masked in training.
Differs from the paper: no orthogonality penalty, as the public code runs it (weight 0) with new
            components that start orthogonal to the old ones by Gram-Schmidt; a task adds a fixed
            number of components, so the number of tasks need not be known; at most as many blocks
            as the backbone has; the rate falls to zero by half a cosine, where the public code has
            two full epochs and most of a quarter (`schedule.quarter`): rates that sum up to 30 %
            more over 20 epochs.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Linear
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import MixedPrefixes
from edgecl.program.learned import Tensors
from edgecl.program.matchers import AttendedKeys


@dataclass(frozen=True)
class CODAPromptConfig(MethodConfig):
    """Sizes of the bank and the schedule."""

    components: int = 10  # M, that each task adds
    rows: int = 8  # L_p of a component: half of them keys, half values
    blocks: int = 5  # that take a prefix, from block 0 on
    schedule: TrainConfig = TrainConfig("adam", lr=0.001, epochs=20, batch_size=128)

    def __post_init__(self) -> None:
        if self.rows < 2 or self.rows % 2:
            raise MethodError(
                "coda-prompt.rows must be even, half keys and half values, and at least 2, got "
                f"{self.rows}. Use {max(2, self.rows + 1)}."
            )
        at_least(1, "coda-prompt", components=self.components, blocks=self.blocks)


@register
class CODAPrompt(Method[CODAPromptConfig]):
    """A bank that grows by task, of which every image takes a mixture."""

    name: ClassVar[str] = "coda-prompt"
    title: ClassVar[str] = "CODA-Prompt"
    paper: ClassVar[str] = "https://arxiv.org/abs/2211.13218"
    family: ClassVar[str] = "mixed prompts"
    status: ClassVar[Status] = Status(steps=1e-6, points=4.5)
    config_type: ClassVar[type[MethodConfig]] = CODAPromptConfig
    augmentation: ClassVar[str] = "coda"
    trains: Trains = "every"

    def build(self) -> Program:
        config, spec = self.config, self.spec
        blocks = tuple(range(min(config.blocks, spec.depth)))
        return self.compose(
            injector=MixedPrefixes(
                spec.width, blocks, config.rows // 2, components=config.components
            ),
            matcher=AttendedKeys(spec.feature_dim, len(blocks), config.components),
            classifier=Linear(spec.feature_dim, on="cls"),
            passes=("plain", "injected"),
        )

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Start the new components, keys and attentions orthogonal to the old, block by block."""
        begun = {}
        for name in ("components", "component_keys", "component_attention"):
            new, old = fresh[name].flatten(2), task.learned[name].flatten(2)  # m l f
            pairs = zip(new.unbind(1), old.unbind(1), strict=True)
            rows = torch.stack([orthogonal_rows(*pair) for pair in pairs], dim=1)
            begun[name] = rows.reshape(fresh[name].shape)
        return fresh | begun


def orthogonal_rows(
    fresh: Float[Tensor, "m f"], former: Float[Tensor, "n f"]
) -> Float[Tensor, "m f"]:
    """Return the fresh rows at length 1, orthogonal to the former ones and to each other.

    Gram-Schmidt in float64, each row freed twice of what it shares with the others. A row that has
    no direction left to go, as all are taken, keeps its own.
    """
    basis = torch.linalg.qr(former.double().T).Q.T
    rows = []
    for row in fresh.double():
        rest = row / row.norm()
        for _ in range(2):
            rest = rest - basis.T @ (basis @ rest)
        if rest.norm() > 1e-6:
            rest = rest / rest.norm()
            basis = torch.cat([basis, rest[None]])
        else:
            rest = row / row.norm()
        rows.append(rest)
    return torch.stack(rows).float()

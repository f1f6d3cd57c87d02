"""SD-LoRA, scalable decoupled low-rank adaptation (Wu et al., ICLR 2025).

https://arxiv.org/abs/2501.13198

Injection:  a product a b of a small rank per task, added to the queries and values of every block:
            the sum over tasks k of m_k a_k b_k / (|a_k| |b_k|). A task trains its own direction,
            a_k b_k, and the magnitudes m of all directions so far; former directions are frozen.
Matcher:    none.
Classifier: linear on [CLS]; logits of other tasks are masked in training.
Differs from the paper: its abstract, a caption and its public code were read. As in the code, the
            norm of a direction is the product of its factors' Frobenius norms; magnitudes are one
            number per task, whatever the block; all of them start at 0.8 in every task, so that
            former tasks leave their directions only; and the newest direction is not divided by its
            norms while it trains (b starts at zero). It ships at norm 1, with the norms in what
            multiplies it. The variants of falling rank (RR) and distilled directions (KD) are left
            out. The head starts as timm's.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.sites import Target
from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Method, Status, Trains
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig
from edgecl.program import Program
from edgecl.program.classifiers import Linear
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.injectors import GrowingLora
from edgecl.program.learned import Tensors, TensorSpec

TARGETS: tuple[Target, ...] = ("q", "v")
MAGNITUDES = "magnitudes"
TINY = 1e-12  # below it, a factor is zero


@dataclass(frozen=True)
class SDLoRAConfig(MethodConfig):
    """The rank, where magnitudes start and the schedule of every task."""

    rank: int = 10  # r, of one task
    magnitude: float = 0.8  # m, of every direction at the start of a task
    schedule: TrainConfig = TrainConfig("sgd", lr=0.008, epochs=20, batch_size=128, cosine=False)

    def __post_init__(self) -> None:
        at_least(1, "sd-lora", rank=self.rank)
        if self.magnitude <= 0:
            raise MethodError(f"sd-lora.magnitude must be above 0, got {self.magnitude}. Use 0.8.")


@register
class SDLoRA(Method[SDLoRAConfig]):
    """Directions that stay, under magnitudes that every task learns anew."""

    name: ClassVar[str] = "sd-lora"
    title: ClassVar[str] = "SD-LoRA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2501.13198"
    family: ClassVar[str] = "low-rank terms"
    status: ClassVar[Status] = Status(steps=1e-6)
    config_type: ClassVar[type[MethodConfig]] = SDLoRAConfig
    augmentation: ClassVar[str] = "pilot"
    trains: Trains = "every"

    def build(self) -> Program:
        spec = self.spec
        self.lora = GrowingLora(spec.width, spec.depth, self.config.rank, TARGETS, scaled=True)
        return self.compose(
            injector=self.lora,
            classifier=Linear(spec.feature_dim, on="cls"),
            passes=("injected",),
        )

    def magnitudes(self, tasks: int) -> Float[Tensor, " t"]:
        """Return where the magnitudes of so many directions start."""
        return torch.full((tasks,), self.config.magnitude)

    def local(self) -> dict[str, TensorSpec]:
        """Return the magnitudes, which ship as a part of what multiplies each product."""
        return {
            MAGNITUDES: TensorSpec(
                "t", {}, start={"t": 1}, init=lambda *_: self.magnitudes(1), trained=True
            )
        }

    def parametrize(self, leaves: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        """Return what multiplies each product; in the end the task's direction has norm 1."""
        blocks = self.spec.depth
        scale = leaves[MAGNITUDES][:, None, None].expand(-1, blocks, len(TARGETS))  # t l m
        if not final:
            return {"lora_scale": scale}
        ships: Tensors = {}
        norms = []
        for target in TARGETS:
            a, b = leaves[f"lora_{target}_a"], leaves[f"lora_{target}_b"]
            of_a, of_b = (each.norm(dim=(-2, -1)) for each in (a, b))  # 1 l
            ships[f"lora_{target}_a"] = a / of_a.clamp(min=TINY)[..., None, None]
            ships[f"lora_{target}_b"] = b / of_b.clamp(min=TINY)[..., None, None]
            norms.append(of_a * of_b)
        newest = scale[-1:] * torch.stack(norms, dim=-1)
        return ships | {"lora_scale": torch.cat([scale[:-1], newest])}

    def fit(self, task: TaskContext) -> FitResult:
        """Let the next task start with a magnitude for each direction."""
        return FitResult({}, {MAGNITUDES: self.magnitudes(task.index + 2)})

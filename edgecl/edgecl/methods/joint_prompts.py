"""Joint prompt tuning: the prompts of CGIL on the features of all images so far, an upper bound.

Frascaroli et al., BMVC 2024, https://arxiv.org/abs/2407.15793

Injection:  none.
Matcher:    none.
Classifier: as CGIL's, but the prompts are trained on the frozen image features of all tasks so far,
            which the run keeps on the workstation and counts: no continual method may.
Differs from the paper: as CGIL does; after every task the prompts of all classes go on from the
            former task's.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.methods import register
from edgecl.methods.base import Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.class_prompts import ClassPrompts, PromptsConfig
from edgecl.methods.shared.vae import picked
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors


@dataclass(frozen=True)
class JointPromptsConfig(PromptsConfig):
    """The prompts."""


@register
class JointPrompts(ClassPrompts[JointPromptsConfig]):
    """Text prompts trained on the image features of all tasks."""

    name: ClassVar[str] = "joint-prompts"
    title: ClassVar[str] = "Joint prompt tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2407.15793"
    family: ClassVar[str] = "vision-language"
    status: ClassVar[Status] = Status(steps=9e-7)
    config_type: ClassVar[type[MethodConfig]] = JointPromptsConfig

    def remember(self, task: TaskContext) -> Tensors:
        """Return the features of all images so far, and the row of each."""
        rows = task.labels + len(task.class_rows) - task.classes
        new = {"image_features": task.features["feature"], "image_rows": rows}
        if not task.index:
            return new
        return {name: torch.cat([task.state[name], some]) for name, some in new.items()}

    def draw(
        self, memory: Tensors, count: int, generator: torch.Generator
    ) -> Float[Tensor, "c m f"]:
        rows = memory["image_rows"].cpu()
        return memory["image_features"][picked(rows, int(rows.max()) + 1, count, generator)]

"""CLIP fine-tuned in both towers: low-rank changes of its weights that all tasks train.

The image tower's ship; the text tower's stay on the workstation, and every task ships the
embeddings that they give to the classes of all rows so far.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.sites import Target
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.methods.base import Pass, Teacher
from edgecl.methods.shared.every_task import EveryTask
from edgecl.methods.shared.text_method import TextMethod, text_spec
from edgecl.program.classifiers import Texts
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import LoraStack
from edgecl.program.learned import Tensors, TensorSpec

TARGETS: tuple[Target, ...] = ("q", "k", "v", "proj")
TEXT = "text_"  # in front of the names of the text tower's tensors


class TwoTowerLora(EveryTask, TextMethod):
    """LoRA in the attention of both towers; its configuration has a `schedule`, `rank`, `models`.

    A task ends with the mean of the weights that its training passed through: those at its start
    and at most `models` more, at equal distances (ZSCL, Zheng et al., ICCV 2023, section 4.2).
    Weights are averaged and compared as such, a b, never their factors.
    """

    family: ClassVar[str] = "vision-language"
    passes: tuple[Pass, ...] = ("injected",)
    teachers: ClassVar[tuple[Teacher, ...]] = ("initial",)
    warm_start: ClassVar[bool] = True
    injector: LoraStack

    def build(self, config: Any, spec: BackboneSpec) -> None:
        text = text_spec(spec)
        widest = min(spec.width, text.width)
        if not 1 <= config.rank <= widest or config.models < 1:
            raise MethodError(
                f"{self.name}.rank must be in [1, {widest}], the width of the narrower tower, and "
                f"{self.name}.models at least 1, got {config.rank} and {config.models}. Change it."
            )
        self.injector = LoraStack(spec.width, spec.depth, config.rank, TARGETS)
        self.text_lora = LoraStack(text.width, text.depth, config.rank, TARGETS)
        self.classifier = Texts(spec.feature_dim, text.logit_scale, on="injected", replaced=True)
        both = (*self.injector.declare(), *self.local())
        self.weights = tuple(name.removesuffix("_a") for name in both if name.endswith("_a"))

    def local(self) -> dict[str, TensorSpec]:
        return {TEXT + name: item for name, item in self.text_lora.declare().items()}

    def embed(
        self,
        text: TextEncoder,
        names: Sequence[str],
        tensors: Tensors,
        templates: int | None = None,
    ) -> Float[Tensor, "c f"]:
        """Return embeddings by the text tower as it is fine-tuned.

        Args:
            tensors: its changes, among others.
            templates: how many, from the first on; None for all.
        """
        if not names:
            return torch.zeros(0, self.spec.feature_dim)
        slots = {name: tensors[TEXT + name].to(text.device) for name in self.text_lora.declare()}
        injection = self.text_lora.sites(slots)
        used = (self.config.templates or text.clip.templates)[:templates]
        return text.averaged(names, used, injection)

    def parametrize(self, leaves: Tensors, task: TaskContext) -> Tensors:
        """Return the texts: in training those of the task's rows, under the first template."""
        assert task.text is not None, "the method needs text"
        if torch.is_grad_enabled():
            return {"texts": self.embed(task.text, task.names, leaves, 1)}
        return {"texts": self.embed(task.text, task.class_rows, leaves)}

    @torch.no_grad()
    def unseen(self, text: TextEncoder, names: Sequence[str], learned: Tensors) -> Tensors:
        """Return embeddings by the text tower as it is fine-tuned."""
        return {"texts": self.embed(text, names, learned).cpu()}

    def changes(self, tensors: Tensors) -> Tensors:
        """Return what is added to each weight, [l, i, o], in float32."""
        with torch.autocast(tensors[f"{self.weights[0]}_a"].device.type, enabled=False):
            return {name: tensors[f"{name}_a"] @ tensors[f"{name}_b"] for name in self.weights}

    def constants(self, task: TaskContext) -> Tensors:
        """Return the teachers' features and the weights of the former model, which the mean has."""
        if task.index:
            former = self.changes(task.learned | task.state)
        else:
            stacks = {"": self.injector, TEXT: self.text_lora}
            former = {
                f"{tower}lora_{target}": torch.zeros(stack.depth, stack.width, stack.width)
                for tower, stack in stacks.items()
                for target in TARGETS
            }
        schedule = self.config.schedule
        steps = schedule.epochs * math.ceil(len(task.labels) / schedule.batch_size)
        return {
            **{teacher: F.normalize(rows, dim=-1) for teacher, rows in task.features.items()},
            **{f"former_{name}": change for name, change in former.items()},
            **{f"mean_{name}": change.clone() for name, change in former.items()},
            "distance": torch.tensor(max(1, math.ceil(steps / self.config.models))),
            "steps": torch.tensor(0),
        }

    def after_step(self, task: int, part: Tensors) -> None:
        """Let the mean of the weights run."""
        part["steps"] += 1
        seen, rest = divmod(int(part["steps"]), int(part["distance"]))
        if not rest:
            for name, change in self.changes(part).items():
                part[f"mean_{name}"].lerp_(change, 1 / (seen + 1))

    def settle(self, task: int, part: Tensors) -> None:
        """End with the nearest weights that the rank allows (Eckart and Young, 1936)."""
        for name in self.weights:
            change = self.connected(task, part[f"mean_{name}"], part[f"former_{name}"])
            left, values, right = torch.linalg.svd(change.double(), full_matrices=False)
            rank = self.config.rank
            # The way down keeps norm 1, so that a change of a smaller rank can grow again.
            part[f"{name}_a"].copy_(left[..., :rank])
            part[f"{name}_b"].copy_((values[..., None] * right)[..., :rank, :])

    def connected(
        self, task: int, mean: Float[Tensor, "l i o"], former: Float[Tensor, "l i o"]
    ) -> Float[Tensor, "l i o"]:
        """Return the weights that a task (0-based) ends with."""
        return mean


def distilled(
    teacher: Float[Tensor, "b k"], student: Float[Tensor, "b k"], temperature: float
) -> Float[Tensor, " b"]:
    """Return each row's soft cross-entropy times temperature^2 (Hinton et al., 2015)."""
    wanted = (teacher / temperature).softmax(dim=-1)
    return temperature**2 * F.cross_entropy(student / temperature, wanted, reduction="none")

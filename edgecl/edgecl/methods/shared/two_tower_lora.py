"""CLIP fine-tuned in both towers: low-rank changes of its weights that all tasks train.

The image tower's ship; the text tower's stay on the workstation, and every task ships the
embeddings that they give to the classes of all rows so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.sites import Target
from edgecl.backbones.text_encoder import ClassName, TextEncoder
from edgecl.errors import MethodError
from edgecl.methods.base import Teacher, Trains
from edgecl.methods.shared.text_method import TextMethod, TextMethodConfig, text_spec
from edgecl.program import Program
from edgecl.program.classifiers import Texts
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import LoraStack
from edgecl.program.learned import Tensors, TensorSpec

TARGETS: tuple[Target, ...] = ("q", "k", "v", "proj")
TEXT = "text_"  # before the names of the text tower's tensors


@dataclass(frozen=True)
class TwoTowerConfig(TextMethodConfig):
    """The rank and the members of the mean."""

    rank: int = 8  # r
    models: int = 10  # members of a task's mean besides the start, at most


TwoTowerConfigT = TypeVar("TwoTowerConfigT", bound=TwoTowerConfig)


class TwoTowerLora(TextMethod[TwoTowerConfigT]):
    """LoRA in the attention of both towers.

    A task ends with the mean of the weights that its training passed through: those at its start
    and at most `models` more, at equal distances (ZSCL, Zheng et al., ICCV 2023, section 4.2).
    Weights are averaged and compared as such, a b, never their factors.
    """

    family: ClassVar[str] = "vision-language"
    trains: Trains = "every"
    teachers: ClassVar[tuple[Teacher, ...]] = ("initial",)
    warm_start: ClassVar[bool] = True
    augmentation: ClassVar[str] = "zscl"

    def build(self) -> Program:
        config, spec, text = self.config, self.spec, text_spec(self.spec)
        widest = min(spec.width, text.width)
        if not 1 <= config.rank <= widest or config.models < 1:
            raise MethodError(
                f"{self.name}.rank must be in [1, {widest}], the width of the narrower tower, and "
                f"{self.name}.models at least 1, got {config.rank} and {config.models}. Change it."
            )
        self.image_lora = LoraStack(spec.width, spec.depth, config.rank, TARGETS)
        self.text_lora = LoraStack(text.width, text.depth, config.rank, TARGETS)
        self.texts = Texts(spec.feature_dim, text.logit_scale, on="injected", replaced=True)
        both = (*self.image_lora.declare(), *self.local())
        self.weights = tuple(name.removesuffix("_a") for name in both if name.endswith("_a"))
        return self.compose(injector=self.image_lora, classifier=self.texts, passes=("injected",))

    def local(self) -> dict[str, TensorSpec]:
        """Return the changes of the text tower."""
        return {TEXT + name: item for name, item in self.text_lora.declare().items()}

    def embed(
        self,
        text: TextEncoder,
        names: Sequence[ClassName],
        tensors: Tensors,
        *,
        training: bool = False,
    ) -> Float[Tensor, "c f"]:
        """Return embeddings by the text tower as it is fine-tuned.

        Args:
            tensors: its changes, among others.
            training: under the first template, with a gradient; else the mean over all.
        """
        if not names:
            return torch.zeros(0, self.spec.feature_dim)
        slots = {name: tensors[TEXT + name].to(text.device) for name in self.text_lora.declare()}
        injection = self.text_lora.sites(slots)
        templates = self.config.templates
        return text.averaged(names, templates, injection, training=training, first=training)

    def parametrize(self, leaves: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        """Return the texts of all class rows; in a step those of the task only."""
        names = task.row_texts if final else task.texts
        return {"texts": self.embed(task.text, names, leaves, training=not final)}

    @torch.no_grad()
    def zero_shot_rows(
        self, text: TextEncoder, names: Sequence[ClassName], learned: Tensors
    ) -> Tensors:
        """Return embeddings by the text tower as it is fine-tuned."""
        return {"texts": self.embed(text, names, learned).cpu()}

    def changes(self, tensors: Tensors) -> Tensors:
        """Return what is added to each weight, [l, i, o], in float32."""
        with torch.autocast(tensors[f"{self.weights[0]}_a"].device.type, enabled=False):
            return {name: tensors[f"{name}_a"] @ tensors[f"{name}_b"] for name in self.weights}

    def teacher_rows(self, features: Tensors) -> Tensors:
        """Return the teachers' features, of length 1."""
        return {teacher: F.normalize(each, dim=-1) for teacher, each in features.items()}

    def constants(self, task: TaskContext) -> Tensors:
        """Return the teachers' features and the weights of the former model."""
        if task.index:
            former = self.changes(task.learned | task.state)
        else:
            stacks = {"": self.image_lora, TEXT: self.text_lora}
            former = {
                f"{tower}lora_{target}": torch.zeros(stack.depth, stack.width, stack.width)
                for tower, stack in stacks.items()
                for target in TARGETS
            }
        return {
            **self.teacher_rows(task.features),
            **{f"former_{name}": change for name, change in former.items()},
        }

    def average(self, task: TaskContext, constants: Tensors) -> "MeanOfWeights":
        """Return the mean over the weights, which begins with those of the former model."""
        train = self.schedule(task.index).train
        images = len(task.labels)
        steps = train.epochs_for(images) * math.ceil(images / train.batch_size)
        former = {name: constants[f"former_{name}"] for name in self.weights}
        distance = max(1, math.ceil(steps / self.config.models))
        return MeanOfWeights(self, task.index, former, distance)

    def connected(
        self, task: int, mean: Float[Tensor, "l i o"], former: Float[Tensor, "l i o"]
    ) -> Float[Tensor, "l i o"]:
        """Return the weights that a task (from 0) ends with."""
        return mean


class MeanOfWeights:
    """The running mean of the weights of one training; it ends as factors of the rank.

    Args:
        former: the weights that the training starts from, the first member.
        distance: steps from one member to the next.
    """

    def __init__(self, method: "TwoTowerLora[Any]", task: int, former: Tensors, distance: int):
        self.method = method
        self.task = task
        self.former = former
        self.mean = {name: change.clone() for name, change in former.items()}
        self.distance = distance
        self.steps = 0

    def update(self, tensors: Tensors) -> None:
        """Take in the weights where the distance is reached."""
        self.steps += 1
        members, rest = divmod(self.steps, self.distance)
        if not rest:
            for name, change in self.method.changes(tensors).items():
                self.mean[name].lerp_(change, 1 / (members + 1))

    def finish(self, tensors: Tensors) -> None:
        """End with the nearest weights that the rank allows (Eckart and Young, 1936)."""
        rank = self.method.config.rank
        for name, mean in self.mean.items():
            change = self.method.connected(self.task, mean, self.former[name])
            left, values, right = torch.linalg.svd(change.double(), full_matrices=False)
            # The way down keeps norm 1, so that a change of a smaller rank can grow again.
            tensors[f"{name}_a"].copy_(left[..., :rank])
            tensors[f"{name}_b"].copy_((values[..., None] * right)[..., :rank, :])


def distilled(
    teacher: Float[Tensor, "b k"], student: Float[Tensor, "b k"], temperature: float
) -> Float[Tensor, " b"]:
    """Return each row's soft cross-entropy times temperature^2 (Hinton et al., 2015)."""
    wanted = (teacher / temperature).softmax(dim=-1)
    return temperature**2 * F.cross_entropy(student / temperature, wanted, reduction="none")

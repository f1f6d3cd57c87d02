"""The gradient loop of one task: methods bring the loss, the rest is here."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.vit import Features
from edgecl.errors import MethodError
from edgecl.learning.activations import Activations
from edgecl.learning.augment.views import Views
from edgecl.learning.policies.badam import BAdam
from edgecl.learning.policies.blip import IMAGES, Bits
from edgecl.learning.policies.clients import ClientMean, parts_of, rounds
from edgecl.methods.base import Batch, Method
from edgecl.optim import Schedule, check_finite, descend, make_annealing, make_optimizer
from edgecl.program import BackboneModel, Encoded
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors, with_part
from edgecl_deploy.progress import Reporter


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute."""

    device: torch.device
    bfloat16: bool = False  # autocast in training; evaluation and features are float32

    @property
    def processor(self) -> str:
        """Return what features are not mixed between: `cpu`, or the model of the GPU."""
        if self.device.type != "cuda":
            return self.device.type
        model = torch.cuda.get_device_name(self.device)
        return "cuda-" + re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """On a CPU, sum in one order: prompts picked by several images get theirs from threads."""
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(before or self.device.type == "cpu")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


@dataclass(eq=False)
class TaskTraining:
    """What one task's training holds: each set of tensors by name, on the device.

    Attributes:
        leaves: what is trained, local tensors included.
        own: the names of those leaves that are part of what the task learns.
        prior: the learned tensors of the former tasks with what the task does not train.
        constants: what the former task left as state, and what the method computed once.
        plain: the frozen features of the images as they are seen now, None where the method has no
            plain pass.
    """

    method: Method[Any]
    task: TaskContext
    leaves: Tensors
    own: frozenset[str]
    prior: Tensors
    constants: Tensors
    plain: Features | None

    def __post_init__(self) -> None:
        self.declared = self.method.program.declare()
        self.matching = frozenset(self.method.program.matcher.declare())

    @property
    def going_on(self) -> tuple[int, ...]:
        """Return, of each class row of the task, the former one that it goes on from, else -1."""
        return self.task.former_rows if self.method.goes_on else ()

    @classmethod
    def begin(
        cls, method: Method[Any], task: TaskContext, start: Tensors, device: torch.device
    ) -> "TaskTraining":
        """Make leaves of what the task trains; the rest of its tensors is fixed."""
        declared = method.program.declare()
        own = {name: tensor for name, tensor in start.items() if declared[name].trained}
        local = {
            name: task.state[name].clone()
            if name in task.state
            else item.init(item.shape(task.classes), task.generator)
            for name, item in method.local().items()
        }
        leaves = {name: t.to(device).requires_grad_() for name, t in (own | local).items()}
        fixed = {name: tensor for name, tensor in start.items() if name not in own}
        prior = with_part(declared, task.learned, fixed)
        with torch.no_grad():
            constants = task.state | method.constants(task)
        return cls(
            method, task, leaves, frozenset(own), on_device(prior, device),
            on_device(constants, device), task.plain,
        )  # fmt: skip

    def see(self, plain: Features | None, teachers: Tensors, device: torch.device) -> None:
        """Go on with another view of the images.

        Args:
            plain: its frozen features.
            teachers: its features by the method's teachers.
        """
        self.plain = plain
        rows = self.method.teacher_rows(teachers)
        self.constants = self.constants | on_device(rows, device)

    def freeze(self, frozen_epochs: Mapping[str, int], epoch: int) -> None:
        """Switch the gradients of what the task learns on or off for an epoch (from 0)."""
        for name in self.own:
            self.leaves[name].requires_grad_(epoch >= frozen_epochs.get(name, 0))

    def learned(self) -> Tensors:
        """Return all learned tensors as they are at this step."""
        own = {name: leaf for name, leaf in self.leaves.items() if name in self.own}
        made = self.method.parametrize(self.leaves, self.task, final=False)
        return with_part(self.declared, self.prior, own | made)

    def match_is_constant(self, learned: Tensors) -> bool:
        """Return whether no tensor of the matcher is trained, so images match what they matched."""
        return not any(learned[name].requires_grad for name in self.matching & learned.keys())

    def batch(self, activations: Activations, index: Int[Tensor, " b"], learned: Tensors) -> Batch:
        """Run some of the images."""
        task, device = self.task, activations.device
        plain = self.plain
        if plain is not None:
            plain = plain.select(index).map(lambda feature: feature.to(device))

        def run(tensors: Tensors, match_is_constant: bool = False) -> Encoded:
            return self.method.program.encode(
                activations.of(index, match_is_constant),
                activations.no_pixels(index),
                tensors,
                plain,
                training=True,
                branch=self.method.trained_branch,
            )

        @torch.no_grad()
        def again(instead: Tensors) -> Encoded:
            return run({**learned, **instead})

        encoded = run(learned, self.match_is_constant(learned))
        labels = task.labels[index].to(device)
        return Batch(encoded, labels, task.classes, self.constants, index, again)

    def loss(self, activations: Activations, index: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Return the loss of some of the images with the leaves as they are."""
        learned = self.learned()
        local = {name: leaf for name, leaf in self.leaves.items() if name not in self.own}
        return self.method.loss(self.batch(activations, index, learned), learned | local)

    def scored(self, schedule: Schedule) -> Tensors:
        """Return the leaves that all tasks train, if the schedule asks for bits of them.

        Raises:
            MethodError: if the scores of the task's classes are not computed in its training.
        """
        if not schedule.train.bits:
            return {}
        learned, rows = self.learned(), len(self.task.class_rows)
        for name, item in self.declared.items():
            if "c" not in item.axis_names:
                continue
            there = learned[name].shape[item.axis_names.index("c")] if name in learned else 0
            if there != rows:
                raise MethodError(
                    f"schedule.bits asks for the scores of a task in its training, but "
                    f"{self.method.name} computes {name} after it. Use --set schedule.bits=0."
                )
        return {name: self.leaves[name] for name in sorted(self.own) if self.declared[name].shared}

    def fisher(self, activations: Activations, compute: Compute, names: Sequence[str]) -> Tensors:
        """Return the diagonal Fisher of some leaves, of images one at a time.

        The label of an image is drawn from what the task's rows give it. A tensor that the scores
        do not depend on, such as a key, is absent.
        """
        leaves = [self.leaves[name].requires_grad_() for name in names]
        total: Tensors = {}
        if not names:
            return total
        generator = self.task.generator
        chosen = torch.randperm(len(self.task.labels), generator=generator)[:IMAGES]
        for index in chosen.split(1):
            learned = self.learned()
            with compute.autocast():
                batch = self.batch(activations, index, learned)
                logits = self.method.current_logits(batch, learned).float()
            label = torch.multinomial(logits.detach().cpu().softmax(-1), 1, generator=generator)
            loss = F.cross_entropy(logits, label[:, 0].to(logits.device))
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
            for name, gradient in zip(names, found, strict=True):
                if gradient is not None:
                    total[name] = total.get(name, 0) + gradient.square() / len(chosen)
        return total

    def finish(self, start: Tensors) -> Tensors:
        """Return the task's part and the ends of the local tensors, on the CPU."""
        with torch.no_grad():
            ends = self.leaves | self.method.parametrize(self.leaves, self.task, final=True)
        fixed = {name: tensor for name, tensor in start.items() if name not in self.own}
        return fixed | {name: tensor.detach().cpu() for name, tensor in ends.items()}


def on_device(tensors: Tensors, device: torch.device) -> Tensors:
    """Return the tensors on a device."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def train_task(
    method: Method[Any],
    backbone: BackboneModel,
    normalise: Callable[[Tensor], Tensor],
    task: TaskContext,
    start: Tensors,
    images: UInt8[Tensor, "n h w 3"],
    compute: Compute,
    reporter: Reporter,
    views: Views | None = None,
    kept: Mapping[str, Tensor] | None = None,
) -> Tensors:
    """Train one task and return its part, the ends of local tensors and what policies keep.

    Class rows and entries of former tasks are not leaves: no gradient, no decay and no stale moment
    of an optimiser can change them. A training that diverges is a MethodError.

    Args:
        task: before its training.
        start: the task's tensors; those that are not declared as trained stay as they are.
        images: the task's, preprocessed, and those that the run remembers.
        views: what the epochs see of them instead.
        kept: by policies, after the former task.
    """
    schedule = method.schedule(task.index)
    lr_setting = method.config.schedule.lr_setting(task.index)
    training = TaskTraining.begin(method, task, start, compute.device)
    leaves = training.leaves
    optimizer = optimizer_of(training, schedule, kept or {})
    bits = bits_of(training, schedule, kept or {})
    count = len(task.labels)
    epochs = schedule.train.epochs_for(count)
    annealing = make_annealing(optimizer, schedule.train, epochs)
    activations = Activations(backbone, normalise, images, compute.device, compute.bfloat16, views)
    average = method.average(task, training.constants)
    clients = schedule.train.clients
    client = parts_of(count, clients, task.generator) if clients > 1 else None
    with (
        compute.repeatable(),
        reporter.bar(f"training, {epochs} epochs", epochs * count) as advance,
    ):

        def train_on(index: Tensor, own: torch.optim.Optimizer) -> None:
            def loss() -> Tensor:
                with compute.autocast():
                    return training.loss(activations, index)

            take_step(own, loss, schedule.train.clip, len(index))
            if bits is not None:
                bits.clip(leaves)
            if average is not None:
                with torch.no_grad():
                    average.update(leaves)
            advance(len(index))

        for epoch in range(epochs):
            configured = epoch * schedule.train.epochs // epochs  # which `min_steps` may stretch
            training.freeze(schedule.frozen_epochs, configured)
            if views is not None:
                activations.show(view := views.number(epoch))
                training.see(*views.seen(view), compute.device)
            order = torch.randperm(count, generator=task.generator)
            train_epoch(training, schedule, optimizer, order, client, train_on)
            check_finite(leaves, method.name, schedule.train.lr, lr_setting)
            annealing.step()
        keeps = kept_of(optimizer)
        if bits is not None:
            fisher = training.fisher(activations, compute, list(bits.anchor))
            keeps = bits.settle(leaves, fisher) | keeps
    if average is not None:
        with torch.no_grad():
            average.finish(leaves)
    return training.finish(start) | {name: each.cpu() for name, each in keeps.items()}


def train_epoch(
    training: TaskTraining,
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    order: Int[Tensor, " n"],
    client: Int[Tensor, " n"] | None,
    train_on: Callable[[Tensor, torch.optim.Optimizer], None],
) -> None:
    """Go once through the images of a task.

    Args:
        optimizer: where there are clients, only its rates count.
        order: of the images.
        client: of each image, by its position; None where nobody is simulated.
        train_on: takes a step down the loss of a batch.
    """
    if client is None:
        for index in order.split(schedule.train.batch_size):
            train_on(index, optimizer)
        return
    for batches in rounds(order, client, schedule.train):
        mean = ClientMean(training.leaves)
        for own in batches:
            mean.restart()
            fresh = optimizer_of(training, schedule, {})
            for mine, ours in zip(fresh.param_groups, optimizer.param_groups, strict=True):
                mine["lr"] = ours["lr"]
            for index in own:
                train_on(index, fresh)
            mean.add(sum(map(len, own)))
        mean.finish()
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()  # without a gradient it moves nothing, but what changes the rate expects it


def take_step(
    optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], clip: float | None, images: int
) -> None:
    """Take one step down the loss of a batch, which BAdam computes several times."""
    if isinstance(optimizer, BAdam):
        optimizer.step(loss, images)
    else:
        descend(loss(), optimizer, clip)


def kept_of(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return what an optimiser goes on from in the next task."""
    return optimizer.kept() if isinstance(optimizer, BAdam) else {}


def bits_of(training: TaskTraining, schedule: Schedule, kept: Mapping[str, Tensor]) -> Bits | None:
    """Begin the bits of a task's leaves, None if the schedule has none.

    Args:
        kept: by policies, after the former task.
    """
    if not schedule.train.bits:
        return None
    shared, index = training.scored(schedule), training.task.index
    bits, rows = schedule.train.bits, training.going_on
    return Bits.begin(bits, index, kept, shared, training.declared, rows)


def optimizer_of(
    training: TaskTraining, schedule: Schedule, kept: Mapping[str, Tensor]
) -> torch.optim.Optimizer:
    """Make the optimiser of a task's leaves.

    Args:
        kept: by policies, after the former task.
    """
    leaves, task = training.leaves, training.task
    if schedule.train.optimizer == "badam":
        return BAdam(
            leaves, schedule.train, schedule.rates, kept, training.declared, task.generator,
            training.going_on,
        )  # fmt: skip
    rates = [schedule.rates.get(name, 1.0) for name in leaves]
    return make_optimizer(schedule.train, list(leaves.values()), rates)

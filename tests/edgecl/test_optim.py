"""Schedules of training: rates by epoch, the least number of steps, what is refused."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from edgecl.backbones import Backbone
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning import training
from edgecl.learning.learner import Learner
from edgecl.methods import build_method, methods
from edgecl.methods.shared import class_prompts, feature_training
from edgecl.optim import Later, TrainConfig, make_annealing, make_optimizer
from edgecl.session import learn_stream
from edgecl.streams import Stream


def rates(schedule: TrainConfig, epochs: int) -> list[float]:
    """Return the learning rate of every epoch."""
    leaf = torch.zeros(1, requires_grad=True)
    optimizer = make_optimizer(schedule, [leaf])
    annealing = make_annealing(optimizer, schedule, epochs)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        leaf.grad = torch.ones(1)
        optimizer.step()
        annealing.step()
    return found


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"cosine": False}, lambda _: 1.0),
        ({}, lambda e: (1 + math.cos(math.pi * e / 10)) / 2),
        ({"lr_min": 0.2}, lambda e: 0.2 + 0.8 * (1 + math.cos(math.pi * e / 10)) / 2),
        ({"quarter": True}, lambda e: math.cos(99 * math.pi * max(0, e - 1) / (200 * 9))),
        ({"cosine": False, "milestones": (3, 7)}, lambda e: 0.1 ** ((e >= 3) + (e >= 7))),
        ({"cosine": False, "milestones": (5,), "gamma": 0.5}, lambda e: 0.5 ** (e >= 5)),
        ({"cosine": False, "warm_up": 4}, lambda e: min(1.0, (e + 1) / 5)),
        (
            {"warm_up": 2},
            lambda e: (e + 1) / 3 if e < 2 else (1 + math.cos(math.pi * (e - 2) / 8)) / 2,
        ),
    ],
)
def test_the_rate_of_every_epoch(options: dict[str, Any], want: Callable[[int], float]) -> None:
    schedule = TrainConfig(lr=1.0, epochs=10, **options)
    assert rates(schedule, 10) == pytest.approx([want(epoch) for epoch in range(10)])


def test_a_quarter_is_that_of_coda_prompts_scheduler() -> None:
    """Its counter t is 0 for two epochs; the rate is cos(99 pi t / (200 (K - 1))), here K = 4."""
    schedule = TrainConfig(lr=2.0, epochs=4, quarter=True)
    assert rates(schedule, 4) == pytest.approx([2.0, 2.0, 1.737263, 1.018083], abs=1e-6)


def test_more_epochs_stretch_the_schedule() -> None:
    schedule = TrainConfig(lr=1.0, epochs=4, cosine=False, milestones=(2,))
    assert rates(schedule, 8) == pytest.approx([1.0] * 4 + [0.1] * 4)


def test_later_tasks_have_otherwise_what_is_given() -> None:
    plain = TrainConfig(lr=1.0, epochs=4, weight_decay=0.1, batch_size=8)
    assert plain.of(0) is plain.of(1) is plain
    schedule = replace(plain, later=Later(lr=0.5, epochs=0, weight_decay=0.0))
    assert schedule.of(0) is schedule
    assert schedule.of(1) == TrainConfig(lr=0.5, epochs=0, weight_decay=0.0, batch_size=8)


@pytest.mark.parametrize(
    ("images", "epochs", "min_steps", "want"),
    [
        (96, 5, 0, 5),
        (96, 5, 10, 5),
        (96, 5, 100, 50),
        (97, 5, 100, 34),
        (96, 0, 100, 0),
        (0, 5, 9, 5),
    ],
)
def test_a_task_gets_the_least_number_of_steps(
    images: int, epochs: int, min_steps: int, want: int
) -> None:
    assert TrainConfig(epochs=epochs, min_steps=min_steps).epochs_for(images) == want


def test_adamw_takes_its_options() -> None:
    schedule = TrainConfig("adamw", lr=0.1, weight_decay=0.3, betas=(0.5, 0.6), amsgrad=True)
    optimizer = make_optimizer(schedule, [torch.zeros(1, requires_grad=True)])
    assert type(optimizer) is torch.optim.AdamW
    options = optimizer.param_groups[0]
    assert (options["weight_decay"], options["betas"], options["amsgrad"]) == (
        0.3,
        (0.5, 0.6),
        True,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"betas": (0.9,)}, "betas two numbers"),
        ({"lr": 0.1, "lr_min": 0.2}, r"lr_min in \[0, lr\]"),
        ({"quarter": True, "cosine": False}, "quarter false without cosine"),
        ({"milestones": (3,)}, "beside cosine=false"),
        ({"milestones": (3, 3), "cosine": False}, "rising epochs"),
        ({"milestones": (2,), "cosine": False, "warm_up": 2}, "after the warm-up"),
        ({"lr_min": 0.001, "cosine": False}, "0 without cosine"),
        ({"warm_up": -1}, "warm_up >= 0"),
        ({"momentum": -0.1}, r"momentum in \[0, 1\), got -0.1"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay >= 0"),
        ({"clip": -1.0}, "clip > 0 or none"),
        ({"clip": 0.0}, "clip > 0 or none"),
        ({"lr": math.nan}, "lr > 0, got nan"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"min_steps": -1}, "min_steps >= 0"),
        ({"gamma": 0.0}, "gamma > 0"),
        ({"later": Later(lr=-1.0)}, "lr > 0, got -1.0"),
        ({"later": Later(milestones=(3,))}, "beside cosine=false"),
        ({"lr": 0.0, "epochs": -1}, r"epochs >= 0, got -1; lr > 0, got 0.0"),
    ],
)
def test_a_schedule_that_means_nothing_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(MethodError, match=f"{words}.*Set them with --set schedule"):
        TrainConfig(**options)


TRAINED = [
    name for name, kind in methods().items() if "schedule" in kind.config_type.__dataclass_fields__
]


@pytest.mark.parametrize("name", TRAINED)
def test_every_trained_method_takes_the_least_number_of_steps(
    name: str,
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 8 images in batches of 4 an epoch is two steps; of drawn features it is one."""
    steps = counted_steps(monkeypatch)
    stream = make_stream(((0, 1),))
    schedule = {"epochs": 1, "batch_size": 4, "min_steps": 7}
    learn_stream(make_learner(name, stream, config={"schedule": schedule}), stream)
    assert sorted(steps.values()) in ([0, 0, 7], [0, 0, 8])
    assert (steps[class_prompts] + steps[feature_training] > 0) == (steps[training] == 0)


@pytest.mark.parametrize(
    "name", ["vpt-shallow", "lae", "acmap", "slca", "joint-prompts", "bofa", "rapf"]
)
def test_later_tasks_are_trained_by_their_schedule(
    name: str,
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One epoch and then three: of two steps each, of drawn features one."""
    steps = counted_steps(monkeypatch)
    stream = make_stream(((0, 1), (2, 3)))
    schedule = {"epochs": 1, "batch_size": 4, "min_steps": 0, "later": {"epochs": 3}}
    learn_stream(make_learner(name, stream, config={"schedule": schedule}), stream)
    aligned = 20 if name == "slca" else 0  # on drawn features, after its training on images
    trained = 4 if steps[class_prompts] else 8
    assert sorted(steps.values()) == sorted([0, aligned, trained])


def test_a_first_session_has_no_later_tasks(tiny_backbone: Backbone) -> None:
    schedule = {"schedule": {"later": {"lr": 0.1}}}
    with pytest.raises(MethodError, match=r"got ranpac, which trains the first alone\. Leave it"):
        build_method("ranpac", BackboneSpec.of(tiny_backbone), schedule)


def test_a_training_that_diverges_names_its_own_rate(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream]
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    schedule = {"epochs": 1, "batch_size": 4, "later": {"lr": 1e38}}
    learner = make_learner("vpt-shallow", stream, config={"schedule": schedule})
    with pytest.raises(MethodError, match=r"Lower it: --set schedule\.later\.lr="):
        learn_stream(learner, stream)


def counted_steps(monkeypatch: pytest.MonkeyPatch) -> dict[Any, int]:
    """Count the steps of every module that takes some."""
    steps = dict.fromkeys((training, class_prompts, feature_training), 0)
    for module in steps:
        monkeypatch.setattr(module, "descend", counting(steps, module))
    return steps


def counting(steps: dict[Any, int], module: Any) -> Callable[..., None]:
    descend = module.descend

    def counted(*arguments: Any) -> None:
        steps[module] += 1
        descend(*arguments)

    return counted


def test_a_frozen_start_keeps_its_share_of_a_stretched_task(
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LAE freezes what it injects for a part of the epochs that are configured."""
    seen: list[int] = []
    freeze = training.TaskTraining.freeze

    def watched(self: Any, frozen: Any, epoch: int) -> None:
        seen.append(epoch)
        freeze(self, frozen, epoch)

    monkeypatch.setattr(training.TaskTraining, "freeze", watched)
    stream = make_stream(((0, 1),))
    schedule = {"epochs": 2, "batch_size": 4, "min_steps": 8}
    learn_stream(make_learner("lae", stream, config={"schedule": schedule}), stream)
    assert seen == [0, 0, 1, 1]

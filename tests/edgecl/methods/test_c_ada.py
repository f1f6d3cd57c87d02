"""C-ADA: units that add up, what is frozen when, and the orthogonality loss; all as decided."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from edgecl.backbones import Backbone
from edgecl.backbones.sites import Adapter
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.c_ada import CAdaConfig, overlap
from edgecl.program import Program
from edgecl.program.injectors import GrowingAdapters
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def test_the_units_of_two_tasks_are_two_adapters(tiny_backbone: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    injector = GrowingAdapters(192, 2, rank=3, scale=0.5)
    tasks = [
        {
            "adapter_down": torch.randn(2, 192, 3, generator=generator),
            "adapter_up": torch.randn(2, 3, 192, generator=generator),
        }
        for _ in range(2)
    ]
    both = {name: torch.cat([t[name] for t in tasks], dim=axis) for name, axis in
            (("adapter_down", 2), ("adapter_up", 1))}  # fmt: skip
    separate = tuple(
        Adapter(
            task["adapter_down"][block], torch.zeros(3), task["adapter_up"][block],
            torch.zeros(192), block, 0.5,
        )
        for task in tasks for block in range(2)
    )  # fmt: skip
    pixels = torch.randn(2, 3, 32, 32, generator=generator)
    with torch.no_grad():
        one = tiny_backbone.model(pixels, injector.sites(both)).cls
        two = tiny_backbone.model(pixels, separate).cls
        plain = tiny_backbone.model(pixels).cls
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert (one - plain).abs().max() > 0.1


def test_the_slots_have_room_for_the_units_of_so_many_tasks(tiny_backbone: Backbone) -> None:
    method = build_method("c-ada", BackboneSpec.of(tiny_backbone), {"rank": 3})
    assert method.program.capacity == Program.capacity
    for tasks in (Program.capacity, 4):
        slots = replace(method.program, capacity=tasks).slots()
        grown = {slot.capacity for slot in slots.values() if slot.pad_axis == "r"}
        assert grown == {3 * tasks}
        assert not any(slot.masked for slot in slots.values())
    shared = {name for name, slot in slots.items() if slot.pad_axis is None}
    assert shared == {name for name in slots if name.startswith("ssf_")}


def test_before_training_all_is_as_without(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("c-ada", stream, config={"schedule": {"epochs": 0}})
    learn_stream(learner, stream)
    images = learner.load(stream.tasks[0].test, "").images
    with torch.no_grad():
        plain = learner.backbone.model(learner.normalise(torch.from_numpy(images[:]))).cls
    torch.testing.assert_close(learner.predict(images).feature, plain, rtol=1e-6, atol=1e-6)


def test_scales_and_shifts_are_trained_and_shipped_with_the_first_task_only(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("c-ada", stream)
    learn_stream(learner, stream)
    new = {"adapter_down", "adapter_up", "head_weight", "head_bias"}
    first, *later = learner.run.parts()
    shifts = first.keys() - new
    assert shifts
    assert all(name.startswith("ssf_") for name in shifts)
    assert all(first[name].abs().max() > 0 for name in shifts)
    assert [part.keys() for part in later] == [new] * 2
    learned = learner.learned()
    assert all(torch.equal(learned[name], first[name]) for name in shifts)
    assert learned["adapter_down"].shape == (2, 192, 3 * 8)
    assert learned["adapter_up"].shape == (2, 3 * 8, 192)


def test_the_overlap_is_of_cosines_with_older_units() -> None:
    down = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    total = sum(
        F.cosine_similarity(down[block, :, old], down[block, :, new], dim=0) ** 2
        for block in range(2) for old in range(4) for new in (4, 5)
    )  # fmt: skip
    torch.testing.assert_close(overlap(down, 2), total / 4)
    torch.testing.assert_close(overlap(3 * down, 2), overlap(down, 2))
    assert overlap(down, 6) == 0, "the first task has no older units"


def test_new_units_are_kept_off_the_older_ones(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    found = []
    for weight in (0.0, 100.0):
        learner = make_learner(
            "c-ada", stream, out=f"run-{weight}",
            config={"orthogonal": weight, "schedule": {"epochs": 10, "batch_size": 4}},
        )  # fmt: skip
        learn_stream(learner, stream)
        found.append(overlap(learner.learned()["adapter_down"], 8).item())
    assert found[1] < found[0] / 2


def test_a_size_of_zero_is_refused() -> None:
    with pytest.raises(MethodError, match=r"c-ada.rank must be at least 1, got 0. Raise it"):
        CAdaConfig(rank=0)

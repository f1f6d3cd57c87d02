"""Programs with several injected passes: one run of all in the fused form, a loop in the staged."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.deploy.support import world as world_module
from tests.deploy.support.world import FLOAT, MEAN, node, scoring, write_graph

from edgecl_deploy import Classifier, errors, programs
from edgecl_deploy.format import Bundle, LearnedSpec, Program, SlotSpec, parse_bundle
from edgecl_deploy.manifest import limits as _limits

FORMS = (("fused", "dynamic"), ("staged", "dynamic"), ("staged", "fixed"))


@pytest.fixture
def branched(world, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program `pool` made again: a shift per task, and the largest shifted colour of all."""
    monkeypatch.setitem(world_module.KINDS, "injected_cls", (FLOAT, ["b", "t", 3]))
    folder, pool = world.bundle_path, world.bundle.programs["pool"]
    encode = write_graph(
        folder / "pool.encode.onnx",
        [
            *MEAN,
            node("ReduceSum", "shift axis_0", "shift_sum", keepdims=0),
            node("Add", "colour shift_sum", "shifted"),
            node("Identity", "shifted", "cls"),
            node("Identity", "shifted", "prompt"),
        ],
        "image shift",
        "cls prompt",
    )
    flat = [
        node("ReduceMin", "colour axis_1", "low", keepdims=1),
        node("Sub", "low low", "nought"),
        node("Cast", "nought", "match", to=7),
        node("Exp", "nought", "match_score"),
    ]
    monkeypatch.setitem(world_module.KINDS, "shift", (FLOAT, ["t", "r", 3]))
    fused = write_graph(
        folder / "pool.fused.onnx",
        [
            *MEAN,
            *flat,
            node("ReduceSum", "shift axis_1", "shifts", keepdims=0),
            node("ReduceMax", "shifts axis_0", "largest", keepdims=0),
            node("Add", "colour largest", "best"),
            *scoring("best"),
        ],
        "image prototypes shift",
        "scores feature match match_score",
    )
    classify = write_graph(
        folder / "pool.classify.onnx",
        [node("ReduceMax", "injected_cls axis_1", "best", keepdims=0), *scoring("best")],
        "injected_cls prototypes",
        "scores feature",
    )
    program = replace(
        pool,
        learned={
            "prototypes": pool.learned["prototypes"],
            "shift": LearnedSpec(("t", "r", "d"), {"d": 3}, "t"),
        },
        passes=("injected",),
        slots={"shift": SlotSpec(("r", "d"), {"d": 3}, "r", 2, False, "learned")},
        matcher="none",
        fused=fused,
        staged=replace(
            pool.staged, match=None, encode_dynamic=encode, encode_fixed=encode, classify=classify
        ),
        branches="t",
    )
    world.bundle = replace(world.bundle, programs={**world.bundle.programs, "pool": program})
    (world.bundle_path / "bundle.json").write_bytes(world.bundle.to_bytes())
    return program


def release_of(world, shifts: list[list[float]], t: int = 1) -> Any:
    """A release with one class per task; a task's shift moves the three colours."""
    packs = [
        world.pack(
            task, (name,), program="pool",
            tensors={
                "prototypes": np.array([world_module.COLOURS[name]], np.float32),
                "shift": np.tile(np.array(shift, np.float32)[None, None] / 2, (t, 2, 1)),
            },
        )
        for task, (name, shift) in enumerate(zip(world_module.COLOURS, shifts, strict=False))
    ]  # fmt: skip
    return world.made(*packs).write(world.fresh())


@pytest.mark.parametrize(("form", "slots"), FORMS)
@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_every_branch_has_its_pass(world, branched, form: str, slots: str, tasks: int) -> None:
    shifts = [[0.5, 0, 0], [0, 0.25, 0], [0, 0, 0.125]][:tasks]
    device = Classifier.open(world.bundle_path, release_of(world, shifts), form=form, slots=slots)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    best = images.mean((1, 2)) / 255 + np.max(shifts, axis=0)
    got = device.scores(images)
    np.testing.assert_allclose(got.feature, best, atol=1e-5)
    np.testing.assert_allclose(got.scores, best[:, :tasks], atol=1e-5)
    assert got.match.tolist() == [[0]] * 5


def test_the_fused_form_bounds_images_times_branches(
    world, branched, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = release_of(world, [[0.5, 0, 0], [0, 0.25, 0], [0, 0, 0.125]])
    device = Classifier.open(world.bundle_path, release, form="fused")
    images = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)
    whole = device.scores(images)
    sizes: list[int] = []
    once = programs._BoundFused._once

    def counted(self: Any, some: np.ndarray) -> Any:
        sizes.append(len(some))
        return once(self, some)

    monkeypatch.setattr(programs._BoundFused, "_once", counted)
    again = device.scores(images)
    assert sizes == [10, 10, 3]
    for name in ("scores", "feature", "match", "match_score"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


@pytest.mark.parametrize("form", ["fused", "staged"])
def test_too_many_branches(world, branched, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_limits, "MAX_BRANCHES", 2)
    few = release_of(world, [[0.5, 0, 0], [0, 0.25, 0]])
    Classifier.open(world.bundle_path, few, form=form)
    many = release_of(world, [[0.5, 0, 0]], t=3)
    with pytest.raises(errors.LimitError, match=r"1 to 2 injected passes.*3.*fewer tasks"):
        Classifier.open(world.bundle_path, many, form=form)


def test_a_program_without_branches_is_written_as_before(world) -> None:
    data = world.bundle.to_bytes()
    assert b"branches" not in data
    assert parse_bundle(data).programs["pool"].branches is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passes": ("plain",)}, "absent where nothing is injected"),
        ({"slots": {}}, "absent where nothing is injected"),
        ({"branches": "r"}, "the first axis of the learned tensor of each slot"),
        ({"learned": {"shift": LearnedSpec(("r", "d"), {"d": 3}, None)}}, "the first axis of"),
    ],
)
def test_branches_that_no_slot_has(world, branched, changes: dict[str, Any], message: str) -> None:
    assert parse_bundle(world.bundle.to_bytes()).programs["pool"] == branched
    strange: Bundle = replace(world.bundle, programs={"pool": replace(branched, **changes)})
    with pytest.raises(errors.ManifestError, match=message):
        parse_bundle(strange.to_bytes())


def test_branches_of_two_sizes(world, branched) -> None:
    slot = branched.slots["shift"]
    bank = {
        f"shift_{count}": LearnedSpec(("t", "r", "d"), {"t": count, "d": 3}, None)
        for count in (2, 3)
    }
    strange = replace(branched, learned=bank, slots=dict.fromkeys(bank, slot))
    with pytest.raises(errors.ManifestError, match="one size in all tensors"):
        parse_bundle(replace(world.bundle, programs={"pool": strange}).to_bytes())

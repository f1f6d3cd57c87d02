"""PyTorch against the device's runtime: every method, form, slot mode and task count."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecl.backbones import Backbone
from edgecl.learning.runs import Run
from edgecl.methods import methods
from edgecl.program import Outputs
from edgecl.program.learned import join
from edgecl.session import program_of
from edgecl_deploy import Classifier, Scores
from edgecl_deploy.engines import Graph, make_engine
from edgecl_deploy.files import read_bundle, read_release
from edgecl_deploy.programs import fill_slot
from edgecl_export.pack import export_packs
from edgecl_export.parity import random_learned, relative_error, scale_of
from edgecl_export.release import export_release
from edgecl_export.verification import FORMS

FIELDS = ("scores", "feature", "match", "match_score")
TIE = 1e-4

every_method = pytest.mark.parametrize("name", methods())
every_form = pytest.mark.parametrize(("form", "slots"), FORMS)


def in_batches(device: Classifier, images: np.ndarray, batch: int) -> Scores:
    parts = [device.scores(images[i : i + batch]) for i in range(0, len(images), batch)]
    return Scores(*(np.concatenate([getattr(part, field) for part in parts]) for field in FIELDS))


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / max(1.0, np.abs(want).max()))


def score_error(got: np.ndarray, want: np.ndarray) -> float:
    """Hold errors against the best scores: rows that a method refuses would hide them."""
    return float(np.abs(got - want).max() / scale_of(want))


def assert_same(got: Scores, want: Outputs) -> None:
    for field in FIELDS:
        mine, theirs = getattr(got, field), getattr(want, field).numpy()
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        if field == "match":
            np.testing.assert_array_equal(mine, theirs)
        else:
            measure = score_error if field == "scores" else error
            assert measure(mine, theirs) <= 1e-5, field
    np.testing.assert_array_equal(got.scores.argmax(axis=1), want.scores.argmax(dim=-1).numpy())


@pytest.fixture(scope="module")
def wanted(
    world: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, int | None], tuple[Path, Outputs]]:
    """Return a function: a release of a method's first tasks, and what PyTorch answers with it."""

    @functools.lru_cache(maxsize=6)  # those of one method
    def wanted(name: str, kind: str, tasks: int | None) -> tuple[Path, Outputs]:
        shipped = getattr(world, kind)[name]
        release = tmp_path_factory.mktemp("released") / "release"
        export_release(shipped.packs["float32"], release, world.bundle, tasks=tasks)
        learner = shipped.learner
        learned = join(learner.declared, learner.run.parts()[:tasks])
        return release, learner.predict(world.images, learned)

    return wanted


@pytest.mark.parametrize(
    ("kind", "tasks"),
    [("wild", 1), ("wild", 2), ("wild", None), ("trained", None)],
    ids=["1 task", "2 tasks", "all tasks", "trained"],
)
@every_form
@every_method
def test_the_device_says_what_torch_says(
    world: Any, wanted: Any, name: str, form: str, slots: str, kind: str, tasks: int | None
) -> None:
    release, want = wanted(name, kind, tasks)
    device = Classifier.open(world.bundle, release, form=form, slots=slots)
    for batch in (1, 2, 7):
        assert_same(in_batches(device, world.images, batch), want)


@every_form
@every_method
def test_six_tasks(
    world: Any, make_run: Callable[..., Run], tmp_path: Path, name: str, form: str, slots: str
) -> None:
    run = make_run(name, tasks=6, classes=1, seed=2)
    export_packs(run, tmp_path / "packs", dtype="float32")
    export_release(tmp_path / "packs", tmp_path / "release", world.bundle)
    learner = world.wild[name].learner
    want = learner.predict(world.images, join(learner.declared, run.parts()))
    device = Classifier.open(world.bundle, tmp_path / "release", form=form, slots=slots)
    assert_same(in_batches(device, world.images, 7), want)


@every_form
@every_method
def test_a_prediction_is_a_function_of_one_image(
    world: Any, name: str, form: str, slots: str
) -> None:
    device = Classifier.open(
        world.bundle, world.wild[name].release["float32"], form=form, slots=slots
    )
    alone = in_batches(device, world.images, 1)
    order = np.random.default_rng(1).permutation(len(world.images))
    together = device.scores(world.images[order])
    repeated = device.scores(np.repeat(world.images[:1], 7, axis=0))
    for field, measure in (("scores", score_error), ("feature", error), ("match_score", error)):
        assert measure(getattr(together, field), getattr(alone, field)[order]) <= 1e-5
        assert measure(getattr(repeated, field), getattr(alone, field)[[0] * 7]) <= 1e-5
    np.testing.assert_array_equal(together.match, alone.match[order])


@every_method
def test_every_task_matters_on_the_device(world: Any, name: str, tmp_path: Path) -> None:
    """The guard of the tests above: the random run moves scores far beyond their tolerance."""
    shipped = world.wild[name]
    scores = {}
    for tasks in (1, 2):
        out = tmp_path / str(tasks)
        export_release(shipped.packs["float32"], out, world.bundle, tasks=tasks)
        scores[tasks] = Classifier.open(world.bundle, out).scores(world.images).scores
    assert scores[1].shape[1] == 2
    assert scores[2].shape[1] == 4
    reached = scores[2].max(axis=0) > scores[2].max() - 100  # not refused for every image
    assert reached.any()
    assert np.ptp(scores[2][:, reached], axis=0).min() > 1e-2, "a row says the same of every image"
    assert np.ptp(scores[2], axis=1).min() > 1e-2, "an image that says the same of every row"


@pytest.mark.parametrize("kind", ["trained", "wild"])
@every_method
def test_float32_packs_decide_as_the_run(world: Any, name: str, kind: str) -> None:
    shipped = getattr(world, kind)[name]
    want = shipped.learner.predict(world.images).scores.numpy()
    got = Classifier.open(world.bundle, shipped.release["float32"]).scores(world.images).scores
    two = np.sort(want, axis=1)
    decided = two[:, -1] - two[:, -2] > TIE
    assert decided.any()
    np.testing.assert_array_equal(got.argmax(axis=1)[decided], want.argmax(axis=1)[decided])


@pytest.mark.parametrize("kind", ["trained", "wild"])
@every_method
def test_float16_packs_stay_near_the_float32_run(world: Any, name: str, kind: str) -> None:
    shipped = getattr(world, kind)[name]
    want = shipped.learner.predict(world.images)
    got = Classifier.open(world.bundle, shipped.release["float16"]).scores(world.images)
    same = (got.match == want.match.numpy()).all(axis=1)  # rounded keys may choose another prompt
    assert same.mean() > 0.8
    scores = want.scores.numpy()
    assert score_error(got.scores[same], scores[same]) < 5e-3
    two = np.sort(scores, axis=1)
    decided = same & (two[:, -1] - two[:, -2] > 2e-2 * scale_of(scores))
    np.testing.assert_array_equal(
        got.scores.argmax(axis=1)[decided], scores.argmax(axis=1)[decided]
    )


# -- the check at export --


def test_errors_are_held_against_the_best_scores() -> None:
    scores = np.array([[3.0, -1e4], [-1e4, -5.0]], np.float32)
    assert scale_of(scores) == 5
    assert scale_of(np.full((2, 1), 0.1, np.float32)) == 1
    feature, match = np.zeros((2, 3), np.float32), np.zeros((2, 1), np.int64)
    wrong = scores + np.array([[0.05, 0], [0, 0]], np.float32)
    want = Outputs(*map(torch.from_numpy, (scores, feature, match, feature[:, :1])))
    got = Scores(wrong, feature, match, feature[:, :1])
    assert relative_error(got, want) == pytest.approx(0.01, rel=1e-3)


@every_method
def test_the_check_at_export_looks_at_every_row_of_every_task(
    tiny_backbone: Backbone, make_run: Callable[..., Run], name: str
) -> None:
    """In some rotation some image gives each row a score that is not far below all others."""
    program = program_of(make_run(name, tasks=0))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 32, 32, 3), generator=generator, dtype=torch.uint8)
    pixels = tiny_backbone.preprocess.normalise(images)
    near = []
    for learned in random_learned(program, generator):
        with torch.no_grad():
            scores = program.infer(tiny_backbone.model, pixels, learned).scores.numpy()
        near.append((scores > scores.max(axis=1, keepdims=True) - 100).any(axis=0))
    assert np.stack(near).any(axis=0).all()


# -- slots --


def slot_values(
    slots: Mapping[str, Any], batch: int, part: float, seed: int
) -> dict[str, np.ndarray]:
    """Return random values, `part` of every capacity long; zeros where part is 0."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, slot in slots.items():
        shape = slot.shape(batch, int(part * slot.capacity))
        scale = (1.0 if len(shape) < 2 else shape[-2] ** -0.5) if all(shape) else 0.0
        values[name] = (rng.standard_normal(shape) * scale * (part > 0)).astype(np.float32)
    return values


@pytest.mark.parametrize("part", [0, 0.4, 1], ids=["neutral", "shorter", "exact capacity"])
@pytest.mark.parametrize("batch", [1, 3])
@every_method
def test_slots_inject_what_torch_injects(world: Any, name: str, part: float, batch: int) -> None:
    """Empty or all padding is the plain backbone; a short slot is padded without a trace."""
    files = read_bundle(world.bundle)
    entry = files.bundle.program(name)
    engine = make_engine("onnxruntime")
    program, backbone = world.trained[name].learner.program, world.backbone
    images = world.images[:batch]
    values = slot_values(entry.slots, batch, part, seed=batch)
    pixels = backbone.preprocess.normalise(torch.from_numpy(images))
    tensors = {key: torch.from_numpy(value) for key, value in values.items()}
    with torch.no_grad():
        asked = {"taps": program.taps, "tokens": program.reads_tokens}
        plain = backbone.model(pixels, **asked)
        sites = program.injector.sites(tensors)
        want = backbone.model(pixels, sites, **asked) if part else plain
    if part and entry.slots:
        assert error(want.cls.numpy(), plain.cls.numpy()) > 1e-2, "the injection does nothing"
    for fixed, ref in (
        (False, entry.staged.encode_dynamic),
        (True, entry.staged.encode_fixed),
    ):
        session = engine.load(Graph(world.bundle / ref.file))
        feeds: dict[str, np.ndarray] = {"image": images}
        for key, slot in entry.slots.items():
            feeds |= fill_slot(key, slot, values[key], fixed=fixed)
        got = session.run({key: feeds[key] for key in session.inputs})
        if program.reads_tokens:  # padded rows are zeros, and no others
            got["tokens"] = got["tokens"][:, np.abs(got["tokens"]).max(axis=(0, 2)) > 0]
        for field, tensor in want.named().items():
            if field == "prompt" and not part:
                continue  # no prompt rows to average: never read
            assert error(got[field], tensor.numpy()) <= 1e-5, (field, fixed)


@every_method
def test_a_release_names_its_run_in_every_pack(world: Any, name: str) -> None:
    files = read_release(world.trained[name].release["float16"])
    learner = world.trained[name].learner
    assert [pack.classes for pack in files.packs] == learner.run.class_rows()
    assert {pack.interface for pack in files.packs} == {learner.method.program.interface}
    assert {pack.backbone for pack in files.packs} == {world.backbone.digest}

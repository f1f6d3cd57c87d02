"""A class that a device enrols is the class that the workstation learns from the same images."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.methods import build_method, methods
from edgecl.session import learn_statistics, learn_task
from edgecl.streams import Stream
from edgecl_deploy import Classifier
from edgecl_deploy.enrol.enrolling import Wish
from edgecl_deploy.format import parse_statistics
from edgecl_export.errors import PackError
from edgecl_export.pack import Dtype, export_packs
from edgecl_export.release import export_release

QUICK = ("simplecil", "ranpac", "lda")  # the others take as long each
KINDS = ("mean", "ridge", "discriminant")
DTYPES: tuple[tuple[Dtype, float], ...] = (("float32", 1e-4), ("float16", 5e-4))
NEW = "hue-4"


@dataclass
class Case:
    """A run of two tasks, its release on a device, and the images of a further class."""

    learner: Learner
    stream: Stream
    bundle: Path
    root: Path

    @property
    def kind(self) -> str:
        enrol = self.learner.method.program.enrol
        assert enrol is not None
        return enrol.kind

    def head(self, device: Classifier) -> np.ndarray:
        learned = device.loaded.learned
        if self.kind == "mean":
            return learned["prototypes"][-1]
        return learned["head_weight"][-1] * learned["head_scale"][-1]

    def device(self, dtype: Dtype) -> Classifier:
        packs, release = self.root / f"packs-{dtype}", self.root / f"release-{dtype}"
        if not release.exists():
            export_packs(self.learner.run, packs, dtype=dtype)
            run = self.learner.run.path if self.kind != "mean" else None
            export_release(packs, release, self.bundle, enrolment=run)
        folder = self.root / f"local-{len(list(self.root.glob('local-*')))}"
        folder.mkdir()
        return Classifier.open(self.bundle, release, local=folder, threads=1)

    def images(self, *, test: bool) -> np.ndarray:
        tasks = self.stream.tasks if test else self.stream.tasks[-1:]
        sets = [task.test if test else task.train for task in tasks]
        return np.concatenate([self.learner.load(each, "").images for each in sets])


def enrol(device: Classifier, images: np.ndarray, name: str = NEW) -> None:
    device._own().enrol(device, name, list(images), Wish(force=True))


def enrolling() -> list[object]:
    """The programs that take a class from images; a new one is tested without a new line."""
    return [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in methods()
        if name not in NOT_FROM_IMAGES
    ]


@pytest.fixture
def case(
    request: pytest.FixtureRequest,
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    programs: Any,
    tmp_path: Path,
) -> Case:
    stream = make_stream(((0, 1), (2, 3), (4,)), test=4)
    learner = make_learner(request.param, stream)
    for task in stream.tasks[:2]:
        learn_task(learner, task, stream.classes)
    return Case(learner, stream, programs.bundle, tmp_path)


FROM_IMAGES = ("simplecil", "aper-adapter", "aper-finetune", "aper-ssf", "aper-vpt-deep",
               "aper-vpt-shallow", "ranpac", "layup", "lda")  # fmt: skip
NOT_FROM_IMAGES = set(methods()) - set(FROM_IMAGES)


def test_all_programs_of_these_kinds_are_compared(tiny_clip: Clip) -> None:
    for name in methods():
        enrol = build_method(name, BackboneSpec.of(tiny_clip)).program.enrol
        # acmap trains with every task: a device adds a row to what there is, and learns less.
        compared = name in FROM_IMAGES or name == "acmap"
        assert (enrol is not None and enrol.kind in KINDS) == compared


@pytest.mark.parametrize("case", enrolling(), indirect=True)
def test_a_device_and_the_workstation_agree(case: Case) -> None:
    images, tests = case.images(test=False), case.images(test=True)
    devices = {dtype: case.device(dtype) for dtype, _ in DTYPES}
    before = devices["float32"].scores(tests).scores
    labels_before = devices["float32"].loaded.predict(tests, 5)
    for device in devices.values():
        enrol(device, images)
    keep: Any = "keep" if case.kind == "ridge" else "choose"
    learn_task(case.learner, case.stream.tasks[2], case.stream.classes, weight=keep)
    wanted = case.learner.predict(tests).scores.numpy()
    for dtype, atol in DTYPES:
        found = devices[dtype].scores(tests).scores
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)
        best = np.sort(wanted, axis=1)
        sure = best[:, -1] - best[:, -2] > 2 * atol
        assert (found.argmax(axis=1) == wanted.argmax(axis=1))[sure].all()

    device = devices["float32"]
    if case.kind == "mean":
        np.testing.assert_array_equal(device.scores(tests).scores[:, : before.shape[1]], before)
    row = case.head(device).astype(np.float64)
    for order in list(permutations(range(len(images))))[1:24:7]:
        other = case.device("float32")
        enrol(other, images[list(order[:1])])
        enrol(other, images[list(order[1:])])
        found = case.head(other)
        np.testing.assert_allclose(found, row, rtol=0, atol=2e-6 * np.abs(row).max())
    device.unenrol(NEW)
    assert device.loaded.predict(tests, 5) == labels_before
    np.testing.assert_array_equal(device.scores(tests).scores, before)


@pytest.mark.parametrize("case", QUICK, indirect=True)
def test_what_devices_send_is_learned_as_their_pictures_are(case: Case) -> None:
    images, tests = case.images(test=False), case.images(test=True)
    files = []
    for half, dtype in ((images[::2], "float32"), (images[1::2], "float16")):
        device = case.device(dtype)  # type: ignore[arg-type]
        enrol(device, half)
        files.append(parse_statistics(device.statistics(device=dtype)))
    copy = case.root / "copy"
    shutil.copytree(case.learner.run.path, copy)
    whole = replace(case.learner, run=Run.open(copy))
    keep: Any = "keep" if case.kind == "ridge" else "choose"
    learn_task(whole, case.stream.tasks[2], case.stream.classes, weight=keep)
    learn_statistics(case.learner, files, "more", leave_stream=True)
    found, wanted = (each.predict(tests).scores.numpy() for each in (case.learner, whole))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert len(export_packs(case.learner.run, case.root / "packs-float32", dtype="float32")) == 3
    export_release(case.root / "packs-float32", case.root / "merged", case.bundle)


@pytest.mark.parametrize("case", ["ranpac", "lda"], indirect=True)
def test_a_factor_is_that_of_the_packs(
    case: Case, make_learner: Callable[..., Learner], make_stream: Callable[..., Stream]
) -> None:
    def release(run: Path, tasks: int | None = None) -> None:
        export_release(packs, case.root / "refused", case.bundle, tasks=tasks, enrolment=run)

    packs, own = case.root / "packs", case.learner.run.path
    export_packs(case.learner.run, packs)
    with pytest.raises(PackError, match="release all of them"):
        release(own, tasks=1)
    other = make_learner(case.learner.method.name, case.stream, out="other")
    for task in case.stream.tasks[:2]:
        learn_task(other, task, case.stream.classes)
    with pytest.raises(PackError, match="Export its packs again"):
        release(other.run.path)
    assert not (case.root / "refused").exists()
    learn_task(case.learner, case.stream.tasks[2], case.stream.classes)
    with pytest.raises(PackError, match="Export its packs again"):
        release(own)
    means = make_learner("simplecil", case.stream, out="means")
    learn_task(means, case.stream.tasks[0], case.stream.classes)
    export_packs(means.run, case.root / "means-packs")
    with pytest.raises(PackError, match="needs nothing"):
        export_release(
            case.root / "means-packs", case.root / "none", case.bundle, enrolment=means.run.path
        )

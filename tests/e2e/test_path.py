"""Images in, labels out: what the learner says is what the device says."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.kinds import KINDS

from edgecl.backbones import Clip, load_backbone
from edgecl.learning.learner import Learner
from edgecl.methods import methods
from edgecl.session import learn_folder, learn_stream, open_learner
from edgecl.streams import ImageSet, Task, load_stream
from edgecl_deploy import Classifier, Prediction
from edgecl_deploy.commands import edgecl
from edgecl_deploy.files import read_bundle
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release
from edgecl_export.verification import verify

Labels = Callable[[Learner, ImageSet], tuple[list[str], list[bool]]]
every_method = pytest.mark.parametrize("name", methods())


def assert_labels(
    device: Classifier, sources: list[Any], want: tuple[list[str], list[bool]]
) -> None:
    """Compare labels where they are decided by more than a tie."""
    names, decided = want
    assert sum(decided) > len(decided) / 2
    got = [prediction.label for prediction in device.predict(sources)]
    assert len(got) == len(names)
    assert [(g, n) for g, n, sure in zip(got, names, decided, strict=True) if sure and g != n] == []


@every_method
def test_labels_of_the_device_are_the_learners(site: Any, labels: Labels, name: str) -> None:
    """From paths, bytes, PIL images and arrays, which the device decodes and prepares itself."""
    shipped = site.shipped[name]
    device = Classifier.open(site.bundle, shipped.releases[-1])
    assert device.classes == site.stream.classes
    for task in site.stream.tasks:
        want = labels(shipped.learner, task.test)
        paths = [Path(text) for text in task.test.names]
        opened = [Image.open(path) for path in paths]
        assert_labels(device, paths, want)
        assert_labels(device, [path.read_bytes() for path in paths], want)
        assert_labels(device, opened, want)
        assert_labels(device, [np.asarray(each.convert("RGBA")) for each in opened], want)
        for each in opened:
            each.close()


def test_the_colours_are_learned(site: Any) -> None:
    """The comparison above is of something: SimpleCIL tells the colours apart."""
    device = Classifier.open(site.bundle, site.shipped["simplecil"].releases[-1])
    right = total = 0
    for task in site.stream.tasks:
        for prediction, label in zip(
            device.predict(task.test.names), task.test.labels, strict=True
        ):
            right += prediction.label == site.stream.classes[label]
            total += 1
    assert right / total > 0.8


@every_method
def test_every_release_knows_the_tasks_so_far(site: Any, name: str) -> None:
    digest = read_bundle(site.bundle).digest
    device = Classifier.open(site.bundle, site.shipped[name].releases[0])
    for count, release in enumerate(site.shipped[name].releases, 1):
        assert device.swap(release) == count
        assert device.classes == site.stream.classes[: 2 * count]
    assert read_bundle(site.bundle).digest == digest


def torn(found: list[Prediction], reference: dict[int, list[Prediction]]) -> Iterator[str]:
    """Say where predictions of one call are not those of the release that the first one names."""
    for got, want in zip(found, reference[found[0].release], strict=True):
        near = got.score is not None and want.score is not None
        if not near or (got.label, got.match, got.release) != (
            want.label,
            want.match,
            want.release,
        ):
            yield f"{got}, not {want}"
        elif abs(got.score - want.score) > 1e-6:
            yield f"{got.score}, not {want.score}"


@every_method
def test_swaps_under_load_give_no_torn_prediction(site: Any, name: str) -> None:
    """While every task's release arrives, each prediction is that of the release it names."""
    releases = site.shipped[name].releases
    images = [Path(text) for task in site.stream.tasks for text in task.test.names[:2]]
    reference = {
        number: Classifier.open(site.bundle, release, threads=1).predict(images)
        for number, release in enumerate(releases, 1)
    }
    device = Classifier.open(site.bundle, releases[0], threads=1)
    stop = threading.Event()
    seen: set[int] = set()
    wrong: list[str] = []

    def predict() -> None:
        while not stop.is_set():
            found = device.predict(images)
            seen.add(found[0].release)
            wrong.extend(torn(found, reference))

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        for release in (*releases[1:], releases[0]):
            device.swap(release)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seen <= set(reference)


@every_method
def test_a_task_from_a_folder_reaches_the_device(
    site: Any,
    tiny_clip: Clip,
    labels: Labels,
    writing: Callable[..., None],
    name: str,
    tmp_path: Path,
) -> None:
    """None of the old images is needed; one more pack, the same bundle, two more classes."""
    former = site.shipped[name].learner
    path = shutil.copytree(former.run.path, tmp_path / "run")
    learner = open_learner(path, device="cpu", backbone=tiny_clip, cache=former.cache)
    export_packs(learner.run, tmp_path / "packs", dtype="float32")
    digest = read_bundle(site.bundle).digest
    before = sorted((tmp_path / "packs" / "packs").iterdir())
    writing(tmp_path / "later", ("teal", "white"), 5)
    record = learn_folder(learner, tmp_path / "later", "later")
    assert record.classes == ("teal", "white")
    export_packs(learner.run, tmp_path / "packs", dtype="float32")
    assert len(set((tmp_path / "packs" / "packs").iterdir()) - set(before)) == 1
    export_release(tmp_path / "packs", tmp_path / "release", site.bundle)
    device = Classifier.open(site.bundle, site.shipped[name].releases[-1])
    assert device.swap(tmp_path / "release") == 4
    assert device.classes == (*site.stream.classes, "teal", "white")
    assert read_bundle(site.bundle).digest == digest
    stream = load_stream(str(tmp_path / "later"), increment=2, test_fraction=0.0)
    want = labels(learner, stream.tasks[0].train)
    assert_labels(device, list(stream.tasks[0].train.names), want)
    if name == "simplecil":
        known = [prediction.label for prediction in device.predict(stream.tasks[0].train.names)]
        truth = [Path(path).parent.name for path in stream.tasks[0].train.names]
        assert np.mean([a == b for a, b in zip(known, truth, strict=True)]) > 0.8
    if name in KINDS:
        verify(learner, site.bundle, tmp_path / "release")


def test_a_class_that_comes_again_in_another_domain(
    site: Any, shipping: Callable[..., Any], writing: Callable[..., None], tmp_path: Path
) -> None:
    """A domain-incremental stream: a class owns a row per task, the device counts its best."""
    for index, first in enumerate((0, 50)):
        writing(tmp_path / "images" / f"task_{index:02d}", ("red", "blue"), 5, first)
    stream = load_stream(str(tmp_path / "images"), protocol="dil")
    learner = site.make_learner(tmp_path / "run", "simplecil", stream)
    learn_stream(learner, stream)
    shipped = shipping(learner, tmp_path, site.bundle)
    device = Classifier.open(site.bundle, shipped.releases[-1])
    assert device.classes == stream.classes
    assert len(device.loaded.rows) == 4
    task: Task = stream.tasks[1]
    pixels = learner.load(task.test, "").images
    rows = [name for names in learner.run.class_rows() for name in names]
    want = [rows[row] for row in learner.predict(pixels).scores.argmax(dim=-1).tolist()]
    assert [each.label for each in device.predict(task.test.names)] == want
    verify(learner, site.bundle, shipped.releases[-1])


@pytest.mark.parametrize("name", ["simplecil", "layup"])
def test_more_images_of_a_known_class_reach_the_device(
    site: Any, shipping: Callable[..., Any], writing: Callable[..., None], name: str, tmp_path: Path
) -> None:
    """One pack more, the older ones as they were; the device counts the rows that count."""
    writing(tmp_path / "images" / "task_00", ("red", "blue"), 5, 0)
    writing(tmp_path / "images" / "task_01", ("green",), 5, 0)
    writing(tmp_path / "later", ("teal", "blue"), 5, 50)
    stream = load_stream(str(tmp_path / "images"))
    learner = site.make_learner(tmp_path / "run", name, stream)
    learn_stream(learner, stream)
    before = export_packs(learner.run, tmp_path / "packs", dtype="float32")
    record = learn_folder(learner, tmp_path / "later")
    assert (record.classes, record.known) == (("blue", "teal"), ("blue",))
    ids = export_packs(learner.run, tmp_path / "packs", dtype="float32")
    assert ids[: len(before)] == before
    export_release(tmp_path / "packs", tmp_path / "release", site.bundle)
    device = Classifier.open(site.bundle, tmp_path / "release")
    assert device.classes == (*stream.classes, "teal")
    known = learner.run.knowledge()
    moves = name == "simplecil"
    assert known.live_rows.count(False) == int(moves)
    images = [*stream.tasks[0].test.names, *map(str, sorted(tmp_path.glob("later/*/*")))]
    pixels = [learner.backbone.preprocess(Image.open(path)) for path in images]
    scores = learner.predict(np.stack(pixels)).scores.numpy()
    scores[:, ~np.array(known.live_rows)] = -np.inf
    want = [known.classes[row] for row in scores.argmax(axis=1)]
    assert [each.label for each in device.predict(images)] == want
    verify(learner, site.bundle, tmp_path / "release")


def test_a_cnn_learns_ships_and_classifies(
    site: Any, labels: Labels, shipping: Callable[..., Any], tmp_path: Path
) -> None:
    """A backbone without sites serves closed-form methods, from training to the device."""
    backbone = load_backbone("efficientnet-lite0", image_size=64, random_seed=0)
    learner = site.make_learner(tmp_path / "run", "simplecil", site.stream, backbone)
    learn_stream(learner, site.stream)
    shipped = shipping(learner, tmp_path, tmp_path / "bundle")
    for form, slots in (("fused", "dynamic"), ("staged", "fixed")):
        device = Classifier.open(tmp_path / "bundle", shipped.releases[-1], form=form, slots=slots)
        for task in site.stream.tasks:
            pixels = learner.load(task.test, "").images
            want = learner.predict(pixels).scores.numpy()
            np.testing.assert_allclose(device.scores(pixels).scores, want, atol=1e-5)
            names, decided = labels(learner, task.test)
            for got, name, sure in zip(
                device.predict(task.test.names), names, decided, strict=True
            ):
                assert got.label == name or not sure


# -- processes --

BARE = """
import json, sys
from edgecl_deploy import Classifier
found = Classifier.open(sys.argv[1], sys.argv[2]).predict(sys.argv[3:])
names = ("torch", "torchvision", "timm", "onnx", "edgecl", "edgecl_export", "scipy")
heavy = [name for name in names if name in sys.modules]
print(json.dumps({"labels": [each.label for each in found], "heavy": heavy}))
"""


def test_a_device_process_has_no_torch(site: Any, labels: Labels) -> None:
    shipped = site.shipped["l2p"]
    test = site.stream.tasks[0].test
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(site.bundle), str(shipped.releases[-1]), *test.names],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["heavy"] == []
    names, decided = labels(shipped.learner, test)
    for got, name, sure in zip(found["labels"], names, decided, strict=True):
        assert got == name or not sure


@pytest.mark.parametrize("script", ["edgecl device", "edgecl-device"])
def test_both_commands_classify(site: Any, script: str) -> None:
    release = site.shipped["simplecil"].releases[-1]
    images = list(site.stream.tasks[1].test.names)
    arguments = ["classify", str(site.bundle), str(release), *images, "--json"]
    if script == "edgecl device":
        result = CliRunner().invoke(edgecl, ["device", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        lines = result.stdout
    else:
        command = Path(sys.executable).with_name(script)
        done = subprocess.run([command, *arguments], check=True, capture_output=True, text=True)
        assert done.stderr == ""
        lines = done.stdout
    found = [json.loads(line) for line in lines.splitlines()]
    want = Classifier.open(site.bundle, release).predict(images)
    assert [each["image"] for each in found] == images
    assert [each["label"] for each in found] == [each.label for each in want]
    assert {each["release"] for each in found} == {3}

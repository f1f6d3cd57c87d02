"""Sums over images: who has the images adds, who has the run learns, and both get the same."""

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgecl import session
from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.cli import learn
from edgecl.cli.statistics import enrolled, read_statistics, stats
from edgecl.errors import MethodError
from edgecl.learning import sums
from edgecl.learning.learner import Learner, LearnerError
from edgecl.learning.own_scores import reference_of
from edgecl.learning.runs import Run, RunError
from edgecl.learning.sums import AlreadyMergedError, FeatureSpaceError, StatisticsError
from edgecl.methods import build_method, methods
from edgecl.program.additive import ImageSums, total
from edgecl.session import learn_folder, learn_statistics, learn_task, statistics_of, undo
from edgecl.streams import Stream
from edgecl_deploy.enrol.local import Kept
from edgecl_deploy.enrol.overlay import ACTIVE, Facts, Judged
from edgecl_deploy.enrol.records import Entry
from edgecl_deploy.enrol.statistics import added
from edgecl_deploy.format import Statistics, SummedClass, parse_statistics

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
MakeFolders = Callable[..., Path]
RIDGES = {"ranpac", "layup", "rail"}
ADDITIVE = ("simplecil", "aper-ssf", "ranpac", "layup", "lda", "rail", "clip-lda")
QUICK = {"simplecil", "ranpac", "lda"}  # the others are as these
HUES = {"hue-1": 1, "hue-5": 5, "hue-7": 7}  # the first is known


@pytest.fixture
def begun(make_learner: MakeLearner, make_stream: MakeStream) -> Callable[..., Learner]:
    """Return a function that makes a run of one task, the same one each time."""

    def make(name: str, out: str = "run", **options: object) -> Learner:
        stream = make_stream(((0, 1, 2),))
        learner = make_learner(name, stream, out=out, **options)
        learn_task(learner, stream.tasks[0], stream.classes)
        learner.run.change(stream_tasks=1)
        return learner

    return make


def halves(root: Path) -> list[Path]:
    """Split a folder of class folders into two, of an uneven number of images."""
    found = [root.parent / f"half-{number}" for number in range(2)]
    for image in sorted(root.rglob("*.png")):
        to = found[int(image.stem) % 3 == 0] / image.parent.name / image.name
        to.parent.mkdir(parents=True, exist_ok=True)
        os.link(image, to)
    return found


# -- one definition


def test_every_closed_form_of_sums_is_tested_here(
    tiny_clip: Clip, small_config: Callable[..., dict[str, object]]
) -> None:
    found = []
    for name in methods():
        method = build_method(name, BackboneSpec.of(tiny_clip), small_config(name))
        with suppress(StatisticsError):
            sums.additive(method, 1)
            found.append(name)
    assert {name for name in found if not name.startswith("aper-")} < set(ADDITIVE)
    assert set(ADDITIVE) < set(found)


def twin(learner: Learner) -> Learner:
    """Return a learner with a copy of the run."""
    copy = learner.run.path.with_name("twin")
    shutil.copytree(learner.run.path, copy)
    return replace(learner, run=Run.open(copy))


@pytest.mark.parametrize(
    "name",
    [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in ADDITIVE],
)
def test_the_sums_of_others_are_learned_as_their_images_are(
    name: str, begun: Callable[..., Learner], make_folders: MakeFolders
) -> None:
    """Of two folders; then of ten devices, whose own code adds up."""
    images = make_folders(HUES, count=10)
    parts = begun(name)
    whole = twin(parts)
    wanted = learn_folder(whole, images, "more", weight="keep" if name in RIDGES else "choose")
    files = [
        parse_statistics(statistics_of(parts, half).to_bytes()) for half in reversed(halves(images))
    ]
    found = learn_statistics(parts, files, "more")
    assert (found.classes, found.known) == (wanted.classes, wanted.known)
    assert (found.class_images, found.moved) == (wanted.class_images, wanted.moved)
    assert len(found.sources) == 4
    assert len(parts.run.canary(1)) == 0
    check_told(parts, whole)
    probe = parts.load(session.new_task(parts, images, []).train, "").images
    all_scores = whole.predict(probe).scores
    torch.testing.assert_close(parts.predict(probe).scores, all_scores, rtol=0, atol=1e-5)
    kept, whole_kept = parts.run.state(), whole.run.state()
    assert kept.keys() == whole_kept.keys()
    for key, tensor in kept.items():
        torch.testing.assert_close(tensor, whole_kept[key], rtol=1e-9, atol=1e-9)
    undo(parts.run)
    if parts.program.enrol is None:
        learn_statistics(parts, files, "again")
        return
    features = features_of(parts, images)
    sent_by = [
        sent(parts, {n: rows[number::10] for n, rows in features.items()}, number)
        for number in range(10)
    ]
    random.Random(0).shuffle(sent_by)  # noqa: S311
    learn_statistics(parts, sent_by, "more")
    torch.testing.assert_close(parts.predict(probe).scores, all_scores, rtol=0, atol=1e-4)
    check_told(parts, whole)


def check_told(parts: Learner, whole: Learner) -> None:
    """Without images none is scored, but each class has the row that its images give."""
    found, wanted = parts.run.scores(1), whole.run.scores(1)
    assert found is not None
    assert wanted is not None
    assert found.count.tolist() == [0, 0, 0]
    assert (found.mean is None) == (wanted.mean is None)
    if found.mean is not None:
        np.testing.assert_allclose(found.mean, wanted.mean, rtol=0, atol=1e-3)  # of float16
    rows = parts.program.own_rows
    assert reference_of(rows, parts.run.knowledge(), parts.learned()) is not None


@pytest.mark.parametrize("parts", [1, 2, 7, 20])
def test_any_split_gives_the_same_sums(parts: int) -> None:
    draw = torch.Generator().manual_seed(parts)
    rows = torch.randn(40, 6, generator=draw)
    labels = torch.arange(40) % 3
    whole = ImageSums.of(rows, labels, 3, torch.Tensor.exp, squares=True, normed=(1, 4))
    units = [torch.nn.functional.normalize(row, dim=0) for row in rows[:, 1:4].double()]
    wanted = torch.stack([torch.stack(units[label::3]).sum(dim=0) for label in range(3)])
    torch.testing.assert_close(whole.normed, wanted, rtol=1e-12, atol=1e-12)
    order = torch.randperm(40, generator=draw)
    found = total(
        ImageSums.of(rows[some], labels[some], 3, torch.Tensor.exp, squares=True, normed=(1, 4))
        for some in order.chunk(parts)
    )
    assert found.counts.tolist() == whole.counts.tolist()
    torch.testing.assert_close(found.sums, whole.sums, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gram, whole.gram, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.normed, whole.normed, rtol=1e-12, atol=1e-12)


def test_shards_change_nothing(
    begun: Callable[..., Learner], make_folders: MakeFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, images = begun("lda"), make_folders(HUES)
    one = statistics_of(learner, images)
    monkeypatch.setattr(sums, "SHARD", 4)
    several = statistics_of(learner, images)
    assert (one.sources, one.classes) == (several.sources, several.classes)
    np.testing.assert_allclose(several.sums, one.sums, rtol=1e-12, atol=0)
    np.testing.assert_allclose(several.gram, one.gram, rtol=1e-9, atol=1e-12)


# -- devices


def sent(learner: Learner, of_class: dict[str, np.ndarray], number: int) -> Statistics:
    """Return what a device sends of features, made and read by the device's own code."""
    program, past = learner.program, learner.run.knowledge()
    facts = Facts(
        release=1, digest="1" * 64, program=program.name, interface=program.interface,
        backbone=program.spec.digest, space=sums.spaces(learner, past)[1],
        classes=frozenset(past.classes), enrol=program.enrol, factor=True,
    )  # fmt: skip
    learned = {name: tensor.numpy() for name, tensor in learner.learned().items()}
    states = [
        Judged(Kept(Entry(f"{number:032x}{at:032x}", 1, name), None, features), ACTIVE)
        for at, (name, features) in enumerate(of_class.items())
    ]
    return added(facts, learned, states, device=f"device {number}", now=0.0)


def features_of(learner: Learner, images: Path) -> dict[str, np.ndarray]:
    """Return the features of the images of each class of a folder."""
    task = session.new_task(learner, images, list(learner.run.knowledge().classes))
    names = list(dict.fromkeys((*learner.run.knowledge().classes, *task.classes)))
    batch = learner.load(task.train, "")
    features = learner.predict(batch.images).feature.numpy()
    return {
        name: features[[names[label] == name for label in batch.labels]] for name in task.classes
    }


# -- what is refused


@pytest.fixture
def ridge(begun: Callable[..., Learner]) -> Learner:
    return begun("ranpac", config={"first_session": "none"})


@pytest.fixture
def file(ridge: Learner, make_folders: MakeFolders) -> Statistics:
    return statistics_of(ridge, make_folders(HUES))


def refused(learner: Learner, wrong: str, *files: Statistics, kind: type = StatisticsError) -> None:
    count = len(learner.run)
    with pytest.raises(kind, match=wrong):
        learn_statistics(learner, files, "more")
    assert len(learner.run) == count


def test_images_are_learned_once(ridge: Learner, file: Statistics) -> None:
    other = replace(file, id="0" * 32)
    refused(ridge, "1 of 1 sources are learned", file, other, kind=AlreadyMergedError)
    refused(ridge, "all are learned already", file, file, kind=AlreadyMergedError)
    refused(ridge, "Name one")
    learn_statistics(ridge, [file], "more")
    known = tuple(replace(each, known=True) for each in file.classes)
    for again in (replace(file, classes=known), replace(other, classes=known)):
        refused(ridge, "`edgecl undo`", again, kind=AlreadyMergedError)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"program": "layup"}, "the program ranpac, got layup"),
        ({"backbone": "1" * 64}, "the backbone"),
        ({"interface": "1" * 64}, "the interface"),
        ({"kind": "mean"}, "the kind ridge, got mean"),
        ({"space": "1" * 64}, "another first task"),
    ],
)
def test_sums_of_other_features_are_refused(
    changes: dict[str, str], wrong: str, ridge: Learner, file: Statistics
) -> None:
    refused(ridge, wrong, replace(file, **changes), kind=FeatureSpaceError)


def test_sums_that_no_images_have_are_refused(ridge: Learner, file: Statistics) -> None:
    square = file.square()
    width = len(square)
    refused(ridge, "squares of at most", replace(file, sums=10 * file.sums, gram=10 * square))
    turned = np.roll(file.sums, 3, axis=1)
    refused(ridge, "class sums that its squares do not allow", replace(file, sums=turned))
    flipped = square.copy()
    flipped[0, 1] = flipped[1, 0] = 3 * np.sqrt(square[0, 0] * square[1, 1])
    flat = flipped[np.tril_indices(width)]
    refused(ridge, "class sums that its squares do not allow", replace(file, gram=flat))
    narrow = replace(file, sums=file.sums[:, 1:], gram=square[1:, 1:][np.tril_indices(width - 1)])
    refused(ridge, f"sums of {width} features|must be of {width} features", narrow)
    assert file.normed is not None
    other = replace(file, normed=file.normed[:, 1:])
    refused(ridge, f"must be of {file.normed.shape[1]} columns", other, kind=FeatureSpaceError)


def test_a_file_of_the_first_version_ends_the_p_values(ridge: Learner, file: Statistics) -> None:
    learn_statistics(ridge, [parse_statistics(replace(file, normed=None).to_bytes())], "more")
    assert reference_of(ridge.program.own_rows, ridge.run.knowledge(), ridge.learned()) is None


def test_the_numbers_of_images_are_those_of_the_manifest(
    begun: Callable[..., Learner], make_folders: MakeFolders
) -> None:
    """An lda divides by the sums of its last feature, which is 1 (`with_one`)."""
    learner = begun("lda")
    file = statistics_of(learner, make_folders(HUES))
    square, wrong = file.square(), "must be 1, so that its sums are the numbers of images"
    lower = np.tril_indices(len(square))
    for last in (0.0, 2.0):  # of every image: a set of images that there may be
        by = np.ones(len(square))
        by[-1] = last
        scaled = (square * by * by[:, None])[lower]
        refused(learner, wrong, replace(file, sums=file.sums * by, gram=scaled))
    centred = square.copy()
    centred[-1, :-1] = centred[:-1, -1] = 0
    refused(learner, wrong, replace(file, gram=centred[lower]))
    other = square.copy()
    other[-1, -1] *= 1.01
    refused(learner, wrong, replace(file, gram=other[lower]))
    learn_statistics(learner, [file], "more")


def test_the_first_task_has_as_many_features(
    make_learner: MakeLearner, make_folders: MakeFolders
) -> None:
    for name in ("lda", "simplecil"):
        learner = make_learner(name, out=name)
        learner.run.change(stream_tasks=0)
        file = statistics_of(learner, make_folders(HUES, root=f"{name}-images"))
        width = file.sums.shape[1]
        gram = file.gram
        if gram is not None:
            gram = file.square()[1:, 1:][np.tril_indices(width - 1)]
        narrow = replace(file, sums=file.sums[:, 1:], gram=gram)
        refused(learner, f"must be of {width} features", narrow, kind=FeatureSpaceError)
        learn_statistics(learner, [file], "first")


class Largest(TorchDispatchMode):
    """Counts operations, and notes the largest tensor that one returned."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.elements = 0

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: object = (), kwargs: object = None
    ) -> object:
        found = func(*args, **(kwargs or {}))  # type: ignore[misc]
        self.operations += 1
        for each in tree_leaves(found):
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return found


def test_a_small_file_of_many_classes_is_checked_in_little() -> None:
    """Neither of the square of the classes in memory, nor of the classes in steps."""
    draw = torch.Generator().manual_seed(0)
    classes, size = 2000, 8
    rows = torch.randn(classes, size, generator=draw).double()
    rows[1500] = 2 * rows[3]
    rows[10] = 3 * torch.eye(size)[0]
    found = ImageSums(torch.ones(classes, dtype=torch.long), rows, rows.T @ rows)
    known = sums.Known(
        ("known", "0"), torch.eye(size).double()[:2], 9.0, torch.zeros(size).double(), one=False
    )
    rows[0] = -rows[10]  # a class that the run has: its mean there counts
    rows[11] = 0
    names = [str(number) for number in range(classes)]
    with Largest() as largest:
        assert not sums.together(found, found.gram / 2)
        assert sums.together(found, rows.T @ rows)
        near = {name: (other, cosine) for name, other, cosine in known.alike(names, found)}
    assert largest.elements <= sums.BLOCK * (classes + 2)
    assert largest.operations < classes / 2
    unit = torch.nn.functional.normalize(rows, dim=1)
    unit[0] = torch.eye(size)[1]
    unit = torch.cat([torch.eye(size)[:1], unit])
    cosines = (unit @ unit.T).tril(-1).max(dim=1)
    wanted = [at for at in range(2, classes + 1) if cosines.values[at] > sums.ALIKE]
    assert set(near) == {str(at - 1) for at in wanted}
    assert near["1500"] == ("3", pytest.approx(1.0))
    assert near["10"] == ("known", pytest.approx(1.0))


def test_a_class_must_be_the_same_one(ridge: Learner, file: Statistics) -> None:
    def with_known(name: str, known: bool) -> Statistics:
        classes = [replace(e, known=known) if e.name == name else e for e in file.classes]
        return replace(file, classes=tuple(classes))

    refused(ridge, "edgecl classes rename", with_known("hue-1", False))
    refused(ridge, "the run has not", with_known("hue-5", True))


def test_a_method_without_sums_is_named(
    make_learner: MakeLearner, make_folders: MakeFolders
) -> None:
    images = make_folders(HUES)
    with pytest.raises(StatisticsError, match="closed forms need, got l2p"):
        statistics_of(make_learner("l2p"), images)
    fresh = make_learner("aper-ssf", out="fresh")
    with pytest.raises(StatisticsError, match="Learn the first task from images"):
        statistics_of(fresh, images)


def test_lambda_is_kept_given_or_chosen_from_sums(
    ridge: Learner, begun: Callable[..., Learner], file: Statistics, make_folders: MakeFolders
) -> None:
    with pytest.raises(MethodError, match="`--weight keep`"):
        learn_statistics(ridge, [file], "more", weight="choose")
    learn_statistics(ridge, [file], "more", weight=7.0)
    assert float(ridge.run.state()["ridge_weight"]) == 7.0
    by_rule = begun("ranpac", "rule", config={"first_session": "none", "weight": "gcv"})
    learn_statistics(by_rule, [statistics_of(by_rule, make_folders(HUES, root="more"))], "more",
                     weight="choose")  # fmt: skip
    undo(ridge.run)
    learn_statistics(ridge, [file], "more", weight="gcv")
    found, wanted = ridge.run.state()["ridge_weight"], by_rule.run.state()["ridge_weight"]
    assert float(found) == float(wanted)


def test_a_folder_that_cannot_be_learned_cannot_be_added_up(
    ridge: Learner, make_folders: MakeFolders
) -> None:
    images = make_folders({"hue-5": 5, "hue-6": 6}, count=2)
    for image in (images / "hue-5").iterdir():
        Image.new("RGB", (32, 32), "red").save(image)
    with pytest.raises(LearnerError, match="more than one plain colour"):
        statistics_of(ridge, images)


def test_a_stream_is_finished_first(ridge: Learner, file: Statistics) -> None:
    ridge.run.change(stream_tasks=2)
    refused(ridge, "1 of its tasks to come", file, kind=RunError)
    learn_statistics(ridge, [file], "more", leave_stream=True, keep=0)
    assert ridge.run.undoable() == 0


# -- the commands


def invoke(command: object, *arguments: object, answer: str = "") -> Result:
    given = [str(each) for each in arguments]
    return CliRunner().invoke(command, given, input=answer, catch_exceptions=False)  # type: ignore[arg-type]


@pytest.fixture
def here(ridge: Learner, monkeypatch: pytest.MonkeyPatch) -> Learner:
    """Let the commands open the run with what is in memory."""

    def opened(path: Path, **_: object) -> Learner:
        assert path == ridge.run.path
        return ridge

    monkeypatch.setattr(session, "open_learner", opened)
    return ridge


def test_a_folder_is_added_up_looked_at_and_learned(
    here: Learner, make_folders: MakeFolders, tmp_path: Path
) -> None:
    run, out = here.run.path, tmp_path / "sums"
    told = invoke(stats, run, make_folders(HUES), "-o", out)
    assert "15 images of 3 classes" in told.stdout
    assert out.stat().st_mode & 0o777 == 0o600
    assert json.loads(invoke(stats, run, make_folders(HUES, root="b"), "-o", tmp_path / "c",
                             "--json").stdout)["images"] == 15  # fmt: skip
    (facts,) = json.loads(invoke(enrolled, "inspect", out, "--json").stdout)
    assert facts["classes"][0] == {"name": "hue-1", "images": 5, "known": True}
    assert "hue-1 (5, known), hue-5 (5)" in invoke(enrolled, "inspect", out).stdout
    assert invoke(learn, run).exit_code == 2
    assert invoke(learn, run, tmp_path, "--from-stats", out).exit_code == 2
    told = invoke(learn, run, "--from-stats", out, "--quiet")
    assert "task 1 (sums): 3 classes, 1 of them known before, from sums over 15" in told.stdout
    assert read_statistics(out, 10**9).id in here.run.record(1).sources


def test_a_class_that_is_nearly_another_one_is_asked_about(
    here: Learner, make_folders: MakeFolders, tmp_path: Path
) -> None:
    twin, run = tmp_path / "twin", here.run.path
    twin.write_bytes(statistics_of(here, make_folders({"scarlet": 0}, count=8)).to_bytes())
    asked = invoke(enrolled, "merge", run, twin, answer="n\n")
    assert (asked.exit_code, len(here.run)) == (1, 1)
    assert "'scarlet' is nearly 'hue-0'" in asked.stderr
    assert invoke(enrolled, "merge", run, twin, "--json").exit_code == 2
    told = invoke(enrolled, "merge", run, twin, "--json", "--yes", "--weight", "3")
    assert json.loads(told.stdout)["classes"] == ["scarlet"]
    assert float(here.run.state()["ridge_weight"]) == 3.0
    assert invoke(enrolled, "merge", run, twin, "--weight", "-1").exit_code == 2


def test_a_file_of_a_device_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 200)
    with pytest.raises(Exception, match="at most 100 bytes"):
        read_statistics(tmp_path / "file", 100)


def test_class_counts_may_not_lie(ridge: Learner, file: Statistics) -> None:
    """Fewer images than the sums are of: the means would be too long."""
    few = tuple(SummedClass(e.name, 1, e.known) for e in file.classes)
    data = replace(file, classes=few, normed=None).to_bytes()
    with pytest.raises(Exception, match="no longer than its images"):
        parse_statistics(data)

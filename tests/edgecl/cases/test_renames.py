"""Classes that get another name or become one: no tensor changes, what shows them follows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.edgecl.cases.run_bytes import bytes_of, tensors_of

from edgecl import session
from edgecl.learning import runs as runs_module
from edgecl.learning.changes import classes_of, merge_classes, rename_class
from edgecl.learning.learner import Learner
from edgecl.learning.runs import RunError
from edgecl.report._read import read_run
from edgecl.session import learn_folder, learn_stream, learn_task, resume, undo
from edgecl.streams import Stream, load_stream
from edgecl_deploy import Classifier
from edgecl_deploy.files import read_packs
from edgecl_deploy.format import parse_pack
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
MakeFolders = Callable[..., Path]


@pytest.mark.parametrize(
    "method", ["simplecil", *(pytest.param(n, marks=pytest.mark.slow) for n in ("l2p", "cgil"))]
)
def test_a_rename_reaches_the_device_and_changes_no_tensor(
    learned: Callable[..., Learner], method: str, tmp_path: Path, simplecil_bundle: Path
) -> None:
    run = learned(method).run
    export_packs(run, tmp_path / "packs")
    former = read_packs(tmp_path / "packs")
    before = tensors_of(run)
    assert rename_class(run, "hue-1", " K\u0061\u0308se ") == "K\u00e4se"
    assert tensors_of(run) == before
    assert run.class_rows() == [("hue-0", "K\u00e4se"), ("hue-2", "hue-3")]
    assert run.record(0).learned_as == ("hue-0", "hue-1")
    export_packs(run, tmp_path / "packs")
    now = read_packs(tmp_path / "packs")
    assert now[1] == former[1]  # the blobs
    assert list(now[0])[1:] == list(former[0])[1:]
    if method == "simplecil":
        export_release(tmp_path / "packs", tmp_path / "new", simplecil_bundle)
        device = Classifier.open(simplecil_bundle, tmp_path / "new")  # runs the canaries
        assert device.classes == ("hue-0", "K\u00e4se", "hue-2", "hue-3")
    rename_class(run, "K\u00e4se", "hue-1")
    assert run.record(0).learned_as == ()
    assert list(read_packs(tmp_path / "packs")[0]) != export_packs(run, tmp_path / "packs")
    assert list(read_packs(tmp_path / "packs")[0]) == list(former[0])


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("hue-0", "hue-1", "'hue-0'.*free, got 'hue-1' and 'hue-1'.*edgecl classes merge"),
        ("hue-0", "HUE-1", "free, got 'hue-1' and 'HUE-1'"),
        ("none", "x", "must be one of .*edgecl classes list"),
        ("hue-0", "a\nb", r"a line break \(U\+000A\). Choose another"),
        ("hue-0", " ", "0 characters"),
        ("hue-0", "x" * 201, "201 characters"),
    ],
)
def test_a_rename_that_cannot_be(
    learned: Callable[..., Learner], old: str, new: str, found: str
) -> None:
    run = learned().run
    before = bytes_of(run)
    with pytest.raises(RunError, match=found):
        rename_class(run, old, new)
    assert bytes_of(run) == before
    rename_class(run, "hue-0", "HUE-0")  # its own name in another case is free


@pytest.mark.parametrize("pair", [("hue-1", "hue-0"), ("hue-3", "hue-0"), ("hue-0", "hue-3")])
def test_merged_classes_answer_as_one(
    learned: Callable[..., Learner], pair: tuple[str, str], make_stream: MakeStream,
    tmp_path: Path, simplecil_bundle: Path, make_folders: MakeFolders,
) -> None:  # fmt: skip
    learner = learned()
    run, before = learner.run, tensors_of(learner.run)
    with pytest.raises(RunError, match="twice"):
        merge_classes(run, pair[0], pair[0])
    merge_classes(run, *pair)
    assert tensors_of(run) == before
    export_packs(run, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", simplecil_bundle)
    device = Classifier.open(simplecil_bundle, tmp_path / "release")
    assert pair[0] not in device.classes
    assert len(device.classes) == 3
    images = learner.load(make_stream(((int(pair[0][-1]), int(pair[1][-1])),)).tasks[0].test, "")
    answers = device.loaded.predict(images.images, 1)
    assert {answer.label for answer in answers} == {pair[1]}
    # and the run goes on, the merged class included
    learn_folder(learner, make_folders({pair[1]: int(pair[1][-1]), "hue-4": 4}, root="again"))
    assert run.record(2).known == (pair[1],)
    assert run.record(2).moved == (pair[1],)
    export_packs(run, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "later", simplecil_bundle)
    facts = {each.name: each for each in classes_of(run.records())}
    assert (facts[pair[1]].rows, facts[pair[1]].images) == (3, 4 + 4 + 5)
    with pytest.raises(RunError, match="Only classes whose rows all count can be merged"):
        merge_classes(run, "hue-2", pair[1])
    undo(run)
    assert run.class_rows() == [
        tuple(pair[1] if name == pair[0] else name for name in rows)
        for rows in (("hue-0", "hue-1"), ("hue-2", "hue-3"))
    ]


@pytest.mark.parametrize("method", ["simplecil", "ranpac"])
def test_more_images_of_a_merged_class_count_all_of_it(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders, method: str
) -> None:
    """Merged, then more of it: as if all of its images had come under one name."""
    stream = make_stream(((0, 1),))
    merged = make_learner(method, stream, out="merged")
    learn_stream(merged, stream)
    merge_classes(merged.run, "hue-1", "hue-0")
    folder = make_folders({"hue-0": 0}, root="again")
    learn_folder(merged, folder)
    if method == "simplecil":
        rows = merged.learned()["prototypes"].double()
        fresh = make_learner(method, stream, out="fresh")
        single = learn_folder(fresh, folder, leave_stream=True)
        alone = fresh.learned()["prototypes"].double()
        want = (4 * rows[0] + 4 * rows[1] + single.train_images * alone[0]) / (8 + 5)
        torch.testing.assert_close(rows[2], want, rtol=1e-5, atol=1e-6)
    else:
        moments = merged.run.state()["moments"]
        assert not moments[:, 1:].any()
        assert moments[:, 0].sum() > 0
        head = merged.learned()["head_weight"]
        assert torch.equal(head[0], head[1])


def test_a_stream_goes_on_under_the_new_names(
    make_learner: MakeLearner, make_folders: MakeFolders, tmp_path: Path
) -> None:
    root = make_folders({
        "task_00/hue-0": 0, "task_00/hue-1": 1, "task_01/hue-0": 0, "task_01/hue-1": 1,
        "task_02/hue-2": 2,
    })  # fmt: skip
    stream = load_stream(str(root), protocol="dcil")
    learner = make_learner("simplecil", stream)
    learn_task(learner, stream.tasks[0], stream.classes, [stream.tasks[0].test])
    rename_class(learner.run, "hue-0", "red")
    summary = resume(learner)
    assert summary is not None
    assert learner.run.class_rows() == [("red", "hue-1"), ("red", "hue-1"), ("hue-2",)]
    assert learner.run.record(1).known == ("red", "hue-1")
    assert summary.a_last == 1.0
    undo(learner.run)
    rename_class(learner.run, "red", "hue-2")
    with pytest.raises(RunError, match=r"name of its own, got 'hue-2', which 'hue-0' was renamed"):
        resume(learner)
    rename_class(learner.run, "hue-2", "hue-0")
    merge_classes(learner.run, "hue-1", "hue-0")
    undo(learner.run)
    assert resume(learner) is not None
    assert learner.run.class_rows() == [("hue-0", "hue-0"), ("hue-0",), ("hue-2",)]


def test_names_of_the_images_follow_every_change(learned: Callable[..., Learner]) -> None:
    run = learned().run
    for change in (
        lambda: rename_class(run, "hue-0", "red"),
        lambda: rename_class(run, "hue-1", "hue-0"),
        lambda: merge_classes(run, "hue-2", "hue-3"),
        lambda: rename_class(run, "hue-3", "blue"),
        lambda: rename_class(run, "red", "scarlet"),
    ):
        change()
    assert run.setting("names", {}) == {
        "hue-0": "scarlet", "hue-1": "hue-0", "hue-2": "blue", "hue-3": "blue",
    }  # fmt: skip
    assert run.class_rows() == [("scarlet", "hue-0"), ("blue", "blue")]
    assert run.record(0).origin == ("hue-0", "hue-1")
    assert list(run.examples(0)) == ["scarlet", "hue-0"]
    assert list(run.examples(1)) == ["blue"]


def test_a_report_names_each_class_as_it_is_called_now(
    learned: Callable[..., Learner],
) -> None:
    """A name that one class had is another's now, and two have changed places."""
    run = learned().run
    before = read_run(run.path)
    assert before.classes is not None
    for old, new in (("hue-0", "red"), ("hue-1", "hue-0"), ("hue-2", "x"), ("hue-3", "hue-2"),
                     ("x", "hue-3")):  # fmt: skip
        rename_class(run, old, new)
    summary = session.refresh(run)
    assert summary is not None
    after = read_run(run.path)
    for figures in (after.classes, summary.classes):
        assert figures is not None
        assert figures.names == ("red", "hue-0", "hue-3", "hue-2")
        assert figures.images == before.classes.images
    assert after.examples == dict(
        zip(("red", "hue-0", "hue-3", "hue-2"), before.examples.values(), strict=True)
    )


def test_the_figures_of_classes_follow_the_names(
    learned: Callable[..., Learner], make_stream: MakeStream
) -> None:
    run = learned().run
    before = run.evaluation(1)
    assert before is not None
    assert before.classes is not None
    rename_class(run, "hue-0", "red")
    merge_classes(run, "hue-3", "red")
    session.refresh(run)
    after = run.evaluation(1)
    assert after is not None
    assert after.classes is not None
    assert after.classes.names == ("red", "hue-1", "hue-2")
    assert sum(after.classes.images) == sum(before.classes.images)
    assert after.classes.images[0] == before.classes.images[0] + before.classes.images[3]
    assert "red" in (run.path / "report.html").read_text()


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6])
def test_a_kill_in_the_middle_of_a_rename(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, simplecil_bundle: Path, call: int,
) -> None:  # fmt: skip
    """The class has a row in each of two tasks: all rows have the new name, or none has."""
    stream = make_stream(((0, 1), (1, 2)), protocol="dcil")
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    run, calls, real = learner.run, [], runs_module.write_whole

    def dying(*args: object) -> None:
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "write_whole", dying)
        with pytest.raises(KeyboardInterrupt):
            rename_class(run, "hue-1", "green")
    name = "hue-1" if call == 1 else "green"
    rows = [("hue-0", name), (name, "hue-2")]
    assert run.class_rows() == rows
    assert run.record(1).known == (name,)
    export_packs(run, tmp_path / "packs")  # a reader sees the names that were meant
    assert parse_pack(list(read_packs(tmp_path / "packs")[0].values())[1]).known == (name,)
    with run.writing():
        pass
    assert not (run.path / ".names.json").exists()
    assert run.class_rows() == rows
    export_release(tmp_path / "packs", tmp_path / "release", simplecil_bundle)

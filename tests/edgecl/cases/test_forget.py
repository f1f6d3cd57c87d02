"""A class or a task that is forgotten: what is left is what a run has that never saw it."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.conftest import paint

from edgecl.forget import forget_in_run
from edgecl.learning import rewriting, runs
from edgecl.learning.changes import merge_classes, rename_class
from edgecl.learning.forgetting import gap
from edgecl.learning.forgotten import Forgotten, task_id
from edgecl.learning.learner import Learner
from edgecl.learning.own_scores import table_without
from edgecl.learning.run_files import RunFiles
from edgecl.learning.runs import Run, RunError
from edgecl.program.fitting import RidgeWeight
from edgecl.proof import prove, stream_of
from edgecl.session import (
    learn_folder,
    learn_statistics,
    learn_stream,
    learn_task,
    resume,
    statistics_of,
    undo,
)
from edgecl.streams import ImageSet, PathSource, Stream, Task
from edgecl_deploy import Classifier
from edgecl_deploy.files import read_release
from edgecl_deploy.format import hidden
from edgecl_deploy.unknown.table import Table
from edgecl_export.pack import export_packs
from edgecl_export.rejection import rejection_of
from edgecl_export.release import export_release

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
MakeFolders = Callable[..., Path]
TASKS = ((0, 1), (2,), (3, 4))
SUMS = ("ranpac", "layup", "lda", "clip-lda", "rail")
NO_SESSION = {name: {"first_session": "none"} for name in ("ranpac", "layup")}


def narrowed(task: Task, stream: Stream, gone: Sequence[str]) -> Task:
    """Return a task without some classes."""
    names = stream.classes

    def rest(labels: Sequence[int]) -> list[int]:
        return [row for row, label in enumerate(labels) if names[label] not in gone]

    return replace(
        task,
        classes=tuple(name for name in task.classes if name not in gone),
        train=task.train.subset(rest(task.train.labels)),
        test=task.test.subset(rest(task.test.labels)),
    )


def never_saw(learner: Learner, stream: Stream, gone: Sequence[str] = (), task: int = -1) -> Run:
    """Learn a stream without some classes or a task, the numbers of the others as they were."""
    for index, each in enumerate(stream.tasks):
        less = narrowed(each, stream, gone)
        if index == task or not less.classes:
            with learner.run.writing():
                learner.run.commit(gap(learner.run), None)
        else:
            learn_task(learner, less, stream.classes)
    return learner.run


def ids(run: Run) -> list[str | None]:
    return [task_id(run, task) for task in range(len(run))]


def states(run: Run) -> dict[str, bytes]:
    return {name: each.numpy().tobytes() for name, each in run.state().items()}


@pytest.fixture
def both(make_learner: MakeLearner, make_stream: MakeStream) -> Callable[..., tuple[Run, Run]]:
    """Return a function: a run that learned all, and one that never saw what is to go."""

    def make(
        method: str, gone: Sequence[str] = (), task: int = -1, **config: object
    ) -> tuple[Run, Run]:
        stream = make_stream(TASKS)
        whole = never_saw(make_learner(method, stream, config=config), stream)
        other = make_learner(method, stream, out="other", config=config)
        return whole, never_saw(other, stream, gone, task)

    return make


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("s-prompts", *SUMS[2:])]


@pytest.mark.parametrize("method", ["simplecil", "zero-shot", *SUMS[:2], *SLOW])
def test_a_task_in_the_middle_was_never_there(
    both: Callable[..., tuple[Run, Run]], method: str
) -> None:
    run, other = both(method, task=1, **NO_SESSION.get(method, {}))
    report = forget_in_run(run, task=1)
    assert report.entry.exactness == ("lambda kept" if method == "layup" else "bitwise")
    if method != "layup":  # whose lambda for task 2 was chosen beside the sums of task 1
        assert ids(run) == ids(other)
        assert states(run) == states(other)
    assert (run.present(), len(run), run.record(1).classes) == ([0, 2], 3, ())
    assert report.entry.after == tuple(ids(run))


@pytest.mark.parametrize("method", ["simplecil", "zero-shot", "ranpac"])
def test_a_class_was_never_there(both: Callable[..., tuple[Run, Run]], method: str) -> None:
    """Of a method that keeps sums, one that has its task for itself."""
    name = "hue-2" if method in SUMS else "hue-0"
    run, other = both(method, [name], **NO_SESSION.get(method, {}))
    with pytest.raises(RunError, match=f"that keeps sums; got '{name}' of task .*of {method}"):
        forget_in_run(run, name=name, images=run.path)
    report = forget_in_run(run, name=name)
    if method == "zero-shot":  # a text that is embedded beside another one rounds otherwise
        assert report.entry.exactness == "1e-6"
        for mine, theirs in zip(run.parts(), other.parts(), strict=True):
            torch.testing.assert_close(mine["texts"], theirs["texts"], rtol=0, atol=1e-6)
    else:
        assert (report.entry.exactness, ids(run)) == ("bitwise", ids(other))
    left = [each for record in run.records() for each in record.classes]
    assert left == [f"hue-{hue}" for hue in range(5) if f"hue-{hue}" != name]


def test_a_class_among_others_is_subtracted_by_its_images(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders
) -> None:
    """The features are those that were learned: frozen, and of the same images."""
    folder = make_folders({"a": 0, "b": 1, "c": 2})
    learner, others = make_learner("lda"), make_learner("lda", out="other")
    learner.run.change(stream_tasks=0)
    others.run.change(stream_tasks=0)
    learn_folder(learner, folder)
    learn_folder(learner, make_folders({"d": 3}, root="more"))
    with pytest.raises(RunError, match="keeps the sums of a task, not of each class"):
        forget_in_run(learner.run, name="b")
    wrong = make_folders({"b": 4}, root="wrong")
    with pytest.raises(RunError, match=r"must hold the 5 images .* sum is off by"):
        forget_in_run(learner.run, name="b", images=wrong, learner=lambda: learner)
    with pytest.raises(RunError, match="read by the learner of the run"):
        forget_in_run(learner.run, name="b", images=folder)
    with pytest.raises(RunError, match=r"shares its task .* got task 0 of lda.*Leave --images out"):
        forget_in_run(learner.run, task=0, images=folder, learner=lambda: learner)
    report = forget_in_run(learner.run, name="b", images=folder, learner=lambda: learner)
    assert report.entry.exactness == "1e-10"
    assert report.smallest is not None
    assert abs(report.smallest) < 1e-9
    shutil.rmtree(folder / "b")
    learn_folder(others, folder)
    learn_folder(others, folder.parent / "more")
    for name, tensor in others.run.state().items():
        torch.testing.assert_close(learner.run.state()[name], tensor, rtol=1e-10, atol=1e-10)


def test_the_last_task_of_any_method_is_taken_back(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(TASKS)
    learner = make_learner("l2p", stream)
    never_saw(learner, stream)
    run = learner.run
    with pytest.raises(RunError, match="l2p trains every task on what the former ones left"):
        forget_in_run(run, task=1)
    before = ids(run)
    forget_in_run(run, task=2)
    assert ids(run) == before[:2]
    assert run.setting("stream_tasks", 0) == 2


def test_what_is_refused_says_what_can_be_done(
    make_learner: MakeLearner, make_stream: MakeStream, more: Path
) -> None:
    stream = make_stream(TASKS)
    first = make_learner("aper-ssf", stream, out="aper")
    learn_task(first, stream.tasks[0], stream.classes)
    with pytest.raises(RunError, match=r"forgets when its stream is finished.*--leave-stream"):
        forget_in_run(first.run, name="hue-0")
    learn_folder(first, more, leave_stream=True)
    with pytest.raises(RunError, match="trained its injection on task 0"):
        forget_in_run(first.run, name="hue-0")
    old = make_learner("lda", stream, out="old", config={"sums": "total"})
    never_saw(old, stream)
    with pytest.raises(RunError, match=r"got none of tasks 0, 1, 2: an older version"):
        forget_in_run(old.run, task=0)
    tasks = make_learner("s-prompts", stream, out="tasks")
    never_saw(tasks, stream)
    with pytest.raises(RunError, match="forgets whole tasks; got 'hue-0' of task 0"):
        forget_in_run(tasks.run, name="hue-0")
    moving = make_learner("simplecil", stream, out="moving")
    never_saw(moving, stream)
    learn_folder(
        moving, Path(shutil.copytree(more / "hue-4", more.parent / "again" / "hue-0")).parent
    )
    with pytest.raises(RunError, match=r"images of 'hue-0' are in the mean of task 3"):
        forget_in_run(moving.run, task=0)
    with pytest.raises(RunError, match=r"must be a task of .* got 9"):
        forget_in_run(moving.run, task=9)
    with pytest.raises(RunError, match="One of the two"):
        forget_in_run(moving.run)


def test_no_file_of_the_run_has_the_name_and_it_can_be_learned_again(
    learned: Callable[..., Learner], make_folders: MakeFolders
) -> None:
    learner = learned()
    run = learner.run
    folder = make_folders({"zebrafish": 4, "other": 5}, root="zebrafish-shots")
    learn_folder(learner, folder, name="zebrafish", keep=3)
    learn_folder(learner, make_folders({"hue-9": 1}, root="nine"))
    rename_class(run, "zebrafish", "quagga-foal")
    rename_class(run, "quagga-foal", "quagga")
    assert named(run, "zebrafish", "quagga")
    forget_in_run(run, name="quagga")
    assert not named(run, "zebrafish", "quagga")
    kept = Forgotten.of(run)
    assert kept is not None
    assert kept.hides(["other", "QUAGGA"]) == ["QUAGGA"]
    assert kept.digests == (hidden("quagga", kept.salt),)
    with pytest.raises(RunError, match="goes on with its stream while it has forgotten nothing"):
        resume(learner)
    record = learn_folder(learner, make_folders({"quagga": 3}, root="new"))
    assert (record.classes, record.known) == (("quagga",), ())
    undo(run)
    assert [record.name for record in run.records()][2] == "task_02"


def named(run: Run, *names: str) -> list[str]:
    """Return the files of a run that hold one of some names, in their own name too."""
    return [
        str(path)
        for path in run.path.rglob("*")
        if path.is_file()
        and any(name.encode() in path.read_bytes() or name in str(path.name) for name in names)
    ]


def test_the_canary_of_another_class_stays(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(TASKS)
    learner = make_learner("simplecil", stream)
    never_saw(learner, stream)
    run = learner.run
    file = run.path / "tasks/000/canary.safetensors"
    save_file({"images": load_file(file)["images"]}, file)  # as an older version stored it
    forget_in_run(run, name="hue-4")
    assert (len(run.canary(2)), run.canary_rows(2)) == (1, [0])
    forget_in_run(run, name="hue-1")
    assert len(run.canary(0)) == 0
    forget_in_run(run, name="hue-3")
    assert [len(entry.tasks) for entry in Forgotten.of(run).entries] == [1, 1, 1]  # type: ignore[union-attr]


STEPS = ("copytree", "rename", "sync", "write_whole", "unlink", "rmtree")


def test_a_kill_at_any_step_leaves_the_old_run_or_the_new_one(
    make_learner: MakeLearner,
    make_stream: MakeStream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = make_stream(TASKS)
    learner = make_learner("simplecil", stream)
    never_saw(learner, stream)
    learner.run.store_stream_files(RunFiles.of_stream(stream))
    before = ids(learner.run)
    dead: list[str] = []
    for step in range(200):
        copy = Path(shutil.copytree(learner.run.path, tmp_path / "copies" / str(step)))
        with monkeypatch.context() as patch:
            left = kill_at(patch, step)
            try:
                forget_in_run(Run.open(copy), task=1)
            except KeyboardInterrupt:
                dead.append(left[-1])
        found = Run.open(copy)
        read = seen(found)
        with found.writing():
            after = ids(found)
            assert read == seen(found), f"a reader saw something else than a writer, step {step}"
        gone = after[1] is None
        assert after == before or gone
        assert not list(copy.rglob(f"{rewriting.LEFT}*"))
        assert (copy / "forgotten.json").exists() == gone
        if not dead or len(dead) <= step:
            break
    assert {"rename", "sync"} <= set(dead)
    assert gone


def test_what_a_killed_process_left_waits_for_who_reads(
    learned: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = learned().run
    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            forget_in_run(run, task=0)
    found = Run.open(run.path)
    found.wait = False
    with Run.open(run.path).reading(), pytest.raises(RunError, match="reads it"), found.writing():
        pass
    assert rewriting.begun(run.path)
    with found.writing():
        assert not rewriting.begun(run.path)


def die(_: object) -> None:
    raise KeyboardInterrupt


def seen(run: Run) -> tuple[object, ...]:
    """Return what a reader finds of the tasks and of the run itself."""
    return ids(run), Forgotten.of(run), Run.open(run.path).header, run.stream_files()


def kill_at(patch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Let a process end before one of its steps on the disk; return those that were begun."""
    begun: list[str] = []

    def watch(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def act(*given: object, **more: object) -> object:
            begun.append(name)
            if len(begun) > step:
                raise KeyboardInterrupt
            return real(*given, **more)

        patch.setattr(owner, name, act)

    watch(Path, "rename")
    watch(Path, "unlink")
    watch(rewriting, "sync")
    watch(rewriting, "write_whole")
    watch(rewriting.shutil, "copytree")
    watch(rewriting.shutil, "rmtree")
    return begun


def test_own_scores_without_a_class_are_those_of_the_others() -> None:
    rng = np.random.default_rng(0)
    few = [rng.random(size) for size in (5, 40, 2, 0, 64)]
    features = [rng.normal(size=(len(each), 12)) for each in few]
    former = Table.of([rng.random(9)]).with_subspaces([rng.normal(size=(9, 12))])
    whole = Table.of(few, [former]).with_subspaces(features, [former])
    for rows in ([0, 3, 4], [0, 2]):
        table, exact = table_without(whole, rows, [former])
        assert exact
        kept = Table.of([few[row] for row in rows], [former])
        kept = kept.with_subspaces([features[row] for row in rows], [former])
        assert table.to_tensors().keys() == kept.to_tensors().keys() >= {"directions"}
        for name, array in kept.to_tensors().items():
            assert np.array_equal(table.to_tensors()[name], array), name
    many = [rng.random(size) for size in (70, 300)]
    left, redrawn = table_without(Table.of(many, [former]), [1], [former])
    wanted = Table.of(many[1:], [former])
    assert not redrawn
    assert np.array_equal(left.order, wanted.order)
    assert len(left.residual) == 64 + len(former.residual)


def test_merged_classes_go_together(learned: Callable[..., Learner]) -> None:
    run = learned("lda").run
    merge_classes(run, "hue-2", "hue-0")
    with pytest.raises(RunError, match="keeps the sums of a task"):
        forget_in_run(run, name="hue-0")
    forget_in_run(run, task=1)
    assert [record.classes for record in run.records()] == [("hue-0", "hue-1")]


def test_a_release_has_nothing_of_what_was_forgotten(
    learned: Callable[..., Learner], simplecil_bundle: Path, tmp_path: Path, more: Path
) -> None:
    learner = learned()
    learn_folder(learner, more)
    before = export_packs(learner, tmp_path / "before")
    old = json.loads((tmp_path / "before/index.json").read_text())["canaries"][before[0]]
    canary = (tmp_path / f"before/blobs/{old}.safetensors").read_bytes()
    forget_in_run(learner.run, name="hue-0")
    forget_in_run(learner.run, task=1)
    after = export_packs(learner, tmp_path / "after")
    assert len(after) == 2
    assert after == export_packs(learner, tmp_path / "after")
    export_release(tmp_path / "after", tmp_path / "release", simplecil_bundle, number=9)
    for path in (tmp_path / "release").rglob("*.*"):
        assert b"hue-0" not in path.read_bytes()
        assert canary[-64:] not in path.read_bytes()
    found = read_release(tmp_path / "release")
    gone = found.release.forgotten
    assert gone is not None
    assert [name for name in ("hue-0", "hue-1", "hue-2", "hue-3") if gone.hides(name)] == [
        "hue-0", "hue-2", "hue-3",
    ]  # fmt: skip
    with Classifier.open(simplecil_bundle, tmp_path / "release") as device:
        image = Image.fromarray(paint(4, 7))
        assert device.predict([image])[0].label == "hue-4"


@pytest.mark.parametrize("method", [pytest.param("simplecil", marks=pytest.mark.slow), "layup"])
def test_a_proof_learns_the_rest_again(
    make_learner: MakeLearner, make_stream: MakeStream, tmp_path: Path, method: str
) -> None:
    """LayUP by the lambda of its tasks, which was chosen beside the sums of task 1."""
    stream = make_stream(TASKS)
    learner = make_learner(method, stream, config=NO_SESSION.get(method))
    never_saw(learner, stream)
    forget_in_run(learner.run, task=1)
    proof = prove(learner, stream, tmp_path / "proof")
    assert (proof.equal, proof.ids, proof.error) == (True, (True,) * 3, 0.0)
    assert json.loads((tmp_path / "proof/proof.json").read_text())["score_error"] == 0.0
    part = learner.run.path / "tasks/002/learned.safetensors"
    save_file({name: each + 1 for name, each in load_file(part).items()}, part)
    again = prove(learner, stream, tmp_path / "again")
    assert (again.equal, again.ids) == (False, (True, True, False))
    learner.run.change(stream=None)
    with pytest.raises(RunError, match=r"made from folders. Leave --proof out"):
        stream_of(learner.run)


def test_the_command_names_what_it_does_not_reach(
    learned: Callable[..., Learner], command: Callable[..., object]
) -> None:
    run = learned().run
    answer = json.loads(command("forget", run.path, "--class", "hue-3", "--json").output)  # type: ignore[attr-defined]
    assert {"backups", "factory"} <= {
        word for each in answer["elsewhere"] for word in each["what"].replace(",", "").split()
    }
    assert answer["entry"]["kind"] == "class"
    text = command("forget", run.path, "--task", "0").output  # type: ignore[attr-defined]
    assert "not erased: caches of a site, copies on USB media, backups" in text
    assert "tasks without classes: [0]" in text
    command("forget", run.path, code=2)
    assert runs.Run.open(run.path).present() == [1]


def learn_by(
    learner: Learner, stream: Stream, weights: Sequence[RidgeWeight], *, without: int = -1
) -> Run:
    """Learn each task of a stream by a lambda of its own, with a gap in the place of one."""
    for index, (task, weight) in enumerate(zip(stream.tasks, weights, strict=True)):
        if index == without:
            with learner.run.writing():
                learner.run.commit(gap(learner.run), None)
        else:
            learn_task(learner, task, stream.classes, weight=weight)
    return learner.run


def test_sums_that_were_forgotten_can_be_merged_again(
    learned: Callable[..., Learner], make_folders: MakeFolders, more: Path
) -> None:
    learner = learned()
    sums = [statistics_of(learner, more)]
    learn_statistics(learner, sums, "sums")
    learn_folder(learner, make_folders({"hue-7": 7}, root="last"))
    forget_in_run(learner.run, task=2)
    assert learn_statistics(learner, sums, "sums").classes == ("hue-4", "hue-5")


@pytest.mark.parametrize("method", ["simplecil", "zero-shot"])
def test_earlier_figures_know_nothing_of_it(
    make_learner: MakeLearner, make_stream: MakeStream, method: str
) -> None:
    """Measured before it was learned, by its test images or its names; also if it is the last."""
    stream = make_stream(((0, 1), (2,), (3,), (4,)))
    learner = make_learner(method, stream)
    learn_stream(learner, stream)
    run = learner.run
    whole = [run.evaluation(task) for task in range(4)]
    for gone in (3, 2):
        forget_in_run(run, task=gone)
        for task in range(gone):
            found, before = run.evaluation(task), whole[task]
            assert found is not None
            assert before is not None
            assert (found.unknown, found.oracle, found.open) == (None,) * 3
            assert found.ahead == (before.ahead if task + 1 < gone else None)
            assert found.accuracy == before.accuracy
    assert before.oracle or before.unknown


@pytest.mark.parametrize("rule", ["choose", "gcv"])
def test_a_lambda_is_from_where_it_was(
    make_learner: MakeLearner, make_stream: MakeStream, rule: str
) -> None:
    """A given one stays; a kept one is that of the former task, which is another one now."""
    stream, config = make_stream(((0, 1), (2,), (3, 4), (5,), (6, 7))), {"weight": rule}
    config |= NO_SESSION["ranpac"]
    weights: tuple[RidgeWeight, ...] = ("choose", 300.0, "keep", 5.0, "gcv")
    run = learn_by(make_learner("ranpac", stream, config=config), stream, weights)
    other = make_learner("ranpac", stream, out="other", config=config)
    learn_by(other, stream, weights, without=1)
    report = forget_in_run(run, task=1)
    found = [run.sums(task) for task in (0, 2, 3, 4)]
    assert [each and each.how for each in found] == [rule, "keep", "given", "gcv"]
    assert report.entry.exactness == "bitwise"
    assert (ids(run), states(run)) == (ids(other.run), states(other.run))
    assert [each and each.weight for each in found] == [
        each and each.weight for each in map(other.run.sums, (0, 2, 3, 4))
    ]


def test_a_lambda_that_nothing_tells_of_stays(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """That of an older version, and one that was kept from a task that is gone, the first."""
    stream = make_stream(TASKS)
    run = learn_by(
        make_learner("ranpac", stream, config=NO_SESSION["ranpac"]), stream, (7.0, "keep", "choose")
    )
    old = Run.open(Path(shutil.copytree(run.path, run.path.parent / "old")))
    file = old.path / "tasks/002/sums.safetensors"
    save_file({name: each for name, each in load_file(file).items() if name != "how"}, file)
    assert forget_in_run(old, task=1).entry.exactness == "lambda kept"
    assert forget_in_run(run, task=0).entry.exactness == "lambda kept"
    assert float(run.sums(1).weight) == 7.0  # type: ignore[union-attr]


@pytest.mark.parametrize("method", ["ranpac", pytest.param("layup", marks=pytest.mark.slow)])
def test_a_class_that_was_subtracted_is_proved(
    make_learner: MakeLearner, make_stream: MakeStream, tmp_path: Path, method: str
) -> None:
    stream = make_stream(TASKS)
    learner = make_learner(method, stream, config=NO_SESSION[method])
    never_saw(learner, stream)
    (tmp_path / "shots/hue-0").mkdir(parents=True)
    for row, label in enumerate(stream.tasks[0].train.labels):
        if stream.classes[label] == "hue-0":
            image = Image.fromarray(paint(0, row))
            image.save(tmp_path / f"shots/hue-0/{row}.png")
    report = forget_in_run(
        learner.run, name="hue-0", images=tmp_path / "shots", learner=lambda: learner
    )
    assert report.entry.exactness == "lambda kept, 1e-10"
    proof = prove(learner, stream, tmp_path / "proof")
    assert 0 < proof.error < 1e-10
    assert (proof.equal, proof.exactness) == (True, "lambda kept, 1e-10")
    part = learner.run.path / "tasks/002/state.safetensors"
    save_file({name: each * (1 + 1e-9) for name, each in load_file(part).items()}, part)
    assert not prove(learner, stream, tmp_path / "again").equal


@pytest.mark.parametrize("method", ["simplecil", "s-prompts"])
def test_figures_go_on_after_a_gap(
    make_learner: MakeLearner, make_stream: MakeStream, tmp_path: Path, method: str
) -> None:
    """Of images of no class, which a release brings, and of the tasks that were matched."""
    stream = make_stream(TASKS)
    learner = make_learner(method, stream)
    run = never_saw(learner, replace(stream, tasks=stream.tasks[:2]), task=0)
    none = ImageSet((), (), PathSource(()), ())
    tests = [none, stream.tasks[1].test, stream.tasks[2].test]
    learn_task(learner, stream.tasks[2], stream.classes, tests)
    found = run.evaluation(2)
    assert found is not None
    if method == "s-prompts":
        assert found.matched is not None
        assert [sum(row) for row in found.matched] == [0, 3, 6]
        assert not any(row[0] for row in found.matched)
        return
    assert found.unknown is not None
    export_packs(run, tmp_path / "packs")
    told = rejection_of(None, run.path, tmp_path / "packs", 2)
    assert told is not None
    assert told.figures == found.unknown.numbers()

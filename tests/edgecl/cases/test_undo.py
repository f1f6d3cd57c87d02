"""Tasks that are taken back: every byte as before, also after a kill."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.edgecl.cases.run_bytes import bytes_of

from edgecl import session
from edgecl.learning import runs as runs_module
from edgecl.learning.changes import rename_class
from edgecl.learning.learner import Learner
from edgecl.learning.runs import RunError
from edgecl.session import learn_folder, learn_stream, undo
from edgecl.streams import Stream
from edgecl_deploy.files import read_packs
from edgecl_export.errors import PackError
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

MakeStream = Callable[..., Stream]
MakeFolders = Callable[..., Path]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("l2p", "cgil")]


@pytest.mark.parametrize("method", ["simplecil", "ranpac", *SLOW])
def test_undo_restores_every_byte(learned: Callable[..., Learner], more: Path, method: str) -> None:
    run = (learner := learned(method)).run
    run.change(keep=3)
    session.refresh(run)
    before = bytes_of(run)
    learn_folder(learner, more)
    assert bytes_of(run) != before
    assert undo(run).classes == ("hue-4", "hue-5")
    assert bytes_of(run) == before
    record = learn_folder(learner, more)
    assert (record.task, len(run)) == (2, 3)


def test_undo_goes_as_far_as_states_are_kept(learned: Callable[..., Learner], more: Path) -> None:
    run = (learner := learned("ranpac")).run
    before = bytes_of(run)
    learn_folder(learner, more)
    assert (run.undoable(), run.kept_bytes() > 0) == (1, True)
    undo(run)
    # what is further back than `keep` is gone; all else is as it was
    assert {*before.items()} - {*bytes_of(run).items()} == {
        ("tasks/000/state.safetensors", before["tasks/000/state.safetensors"])
    }
    with pytest.raises(RunError, match=r"for 1 tasks back only. Release the packs of the first 1"):
        undo(run)
    assert len(run) == 2
    learn_folder(learner, more, keep=0)
    assert (run.undoable(), run.kept_bytes() - run.sums_bytes()) == (0, 0)


def test_undo_to_nothing(learned: Callable[..., Learner], make_stream: MakeStream) -> None:
    learner = learned()
    run = learner.run
    assert run.undoable() == 2
    assert [undo(run).task, undo(run).task] == [1, 0]
    assert sorted(path.name for path in run.path.iterdir()) == [
        ".lock", ".reading", "run.json", "tasks",
    ]  # fmt: skip
    with pytest.raises(RunError, match="A task to take back must be there"):
        undo(run)
    assert learn_stream(learner, make_stream(((0, 1), (2, 3)))) is not None


def test_a_kill_in_the_middle_of_undo(
    learned: Callable[..., Learner], more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = (learner := learned()).run

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs_module.shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            undo(run)
    assert len(run) == 1
    learn_folder(learner, more, leave_stream=True)
    assert sorted(path.name for path in (run.path / "tasks").iterdir()) == ["000", "001"]


def test_packs_follow_what_was_taken_back_and_learned_again(
    learned: Callable[..., Learner], make_folders: MakeFolders, simplecil_bundle: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The task has the same names and other images: its pack must not stay."""
    learner = learned()
    packs = tmp_path / "packs"
    learn_folder(learner, make_folders({"hue-4": 4}, root="wrong"), "third")
    wrong = export_packs(learner.run, packs)
    undo(learner.run)
    assert export_packs(learner.run, packs) == wrong[:2]
    learn_folder(learner, make_folders({"hue-4": 5}, root="right"), "third")
    undo(learner.run)
    rename_class(learner.run, "hue-0", "red")
    with pytest.raises(PackError, match="Export all of them without --task"):
        export_packs(learner.run, packs, [1])
    learn_folder(learner, tmp_path / "right", "third")
    right = export_packs(learner.run, packs)
    assert right[2] != wrong[2]
    assert list(read_packs(packs)[0]) == right
    export_release(packs, tmp_path / "release", simplecil_bundle)

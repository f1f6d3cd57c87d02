"""Files and folders are written whole: errors, kills and power cuts leave the old or the new."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.deploy.support.crash_model import History, Recorder, Step
from tests.deploy.support.faults import ended, in_a_child

from edgecl_deploy.manifest import whole
from edgecl_deploy.manifest.whole import TEMPORARY, sync, whole_file, whole_folder, write_whole

OPERATIONS = ("open", "chmod", "fsync", "replace", "rename", "mkdir")
KILLED = 9


class Interrupted(BaseException):
    """Not an Exception, as KeyboardInterrupt is not."""


@contextmanager
def stopped_at(number: int, stop: Callable[[], None]):
    """Call `stop` in the place of the operation of that number, counted from 0."""
    count = 0

    def counted(real):
        def operation(*args, **options):
            nonlocal count
            count += 1
            if count == number + 1:
                stop()
            return real(*args, **options)

        return operation

    with ExitStack() as stack:
        for name in OPERATIONS:
            stack.enter_context(mock.patch.object(os, name, counted(getattr(os, name))))
        yield


def fail(error: BaseException) -> Callable[[], None]:
    def stop() -> None:
        raise error

    return stop


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def left(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(TEMPORARY)]


@given(
    old=st.none() | st.binary(max_size=50),
    new=st.lists(st.binary(max_size=50), max_size=4),
    number=st.integers(0, 7),
    error=st.sampled_from([
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EIO, "bad"),
        Interrupted(),
    ]),
)
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_an_error_at_any_operation_leaves_the_old_file_or_the_new(
    tmp_path, old, new, number, error
):
    path, other = tmp_path / "file", tmp_path / "other"
    path.unlink(missing_ok=True)
    other.write_bytes(b"other")
    if old is not None:
        path.write_bytes(old)
    raised = False
    with stopped_at(number, fail(error)):
        try:
            with whole_file(path) as file:
                for piece in new:
                    file.write(piece)
        except type(error):
            raised = True
    written = b"".join(new)
    assert content(path) == written if not raised else content(path) in {old, written}
    assert left(tmp_path) == []
    assert other.read_bytes() == b"other"


@pytest.mark.parametrize("error", [ValueError("no"), Interrupted()])
def test_an_error_of_the_writer_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def write_half() -> None:
        with whole_file(path) as file:
            file.write(b"half of the ne")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_finds_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old")
    with path.open("rb") as reader:
        with whole_file(path) as file:
            file.write(b"new")
            file.flush()
            assert path.read_bytes() == b"old"
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("number", range(5))
def test_a_process_that_is_killed_leaves_the_old_file_or_the_new(tmp_path, number):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def child() -> None:
        with stopped_at(number, lambda: os._exit(KILLED)):
            write_whole(path, b"new")

    code = ended(in_a_child(child))
    assert code in {0, KILLED}
    assert path.read_bytes() in ({b"new"} if code == 0 else {b"old", b"new"})
    assert len(left(tmp_path)) <= (code == KILLED)


# -- permission bits and links --------------------------------------------------------------------


def bits(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o666])
def test_the_mode_of_the_old_file_is_kept(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_whole(path, b"new")
    assert (path.read_bytes(), bits(path)) == (b"new", mode)


def test_a_new_file_has_the_mode_of_the_process(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"new")
        with whole_folder(tmp_path / "folder") as folder:
            (folder / "inside").write_bytes(b"x")
    finally:
        os.umask(before)
    assert bits(tmp_path / "file") == bits(tmp_path / "folder" / "inside") == 0o640
    assert bits(tmp_path / "folder") == 0o750


def test_a_secret_is_never_readable_by_others(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with whole_file(path, mode=0o600) as file:
        file.write(b"secret")
        (temporary,) = left(tmp_path)
        assert bits(tmp_path / temporary) == 0o600
    assert bits(path) == 0o600


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", b"new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_bytes() == b"new"
    assert (tmp_path / "target").read_bytes() == b"mine"


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", b"new")
    assert os.listdir(tmp_path) == ["folder"]


# -- power cuts -----------------------------------------------------------------------------------


@contextmanager
def recorded(disk: Recorder):
    """Write down the syncs and renames that are made without a `Disk`."""
    fsync = os.fsync

    def synced(handle: int) -> None:
        disk.look()
        fsync(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        disk.steps.append(Step("sync", str(path.relative_to(disk.base))))

    def renamed(real):
        def rename(source, target) -> None:
            disk.look()
            real(source, target)
            names = (str(Path(each).relative_to(disk.base)) for each in (source, target))
            disk.steps.append(Step("rename", *names))
            disk._known = disk._scan()

        return rename

    patches = {"fsync": synced, "replace": renamed(os.replace), "rename": renamed(os.rename)}
    with mock.patch.multiple(os, **patches):
        yield
    disk.look()


def history_of(base: Path, work: Callable[[Path], object], old: bytes | None) -> History:
    base.mkdir()
    before = Recorder(base)
    if old is not None:
        (base / "file").write_bytes(old)
    before.look()
    disk = Recorder(base)
    with recorded(disk):
        work(base)
    return History(before.steps, disk.steps, {})


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_power_cut_leaves_the_old_file_or_the_new_and_every_sync_is_needed(tmp_path, old):
    history = history_of(tmp_path / "base", lambda base: write_whole(base / "file", b"new"), old)
    last = len(history.steps) - 1

    def broken(cut) -> bool:
        kind, found = cut.tree.get("file", ("file", None))
        assert kind == "file"
        return found not in ({b"new"} if cut.step == last else {old, b"new"})

    assert not any(map(broken, history.cuts()))
    syncs = history.syncs()
    assert len(syncs) == 2  # the file, then its folder
    for number in syncs:
        assert any(map(broken, history.cuts(without=number)))


def test_a_power_cut_leaves_a_whole_folder_or_none(tmp_path):
    files = {"folder/a": b"1", "folder/sub/b": b"2"}

    def work(base: Path) -> None:
        with whole_folder(base / "folder") as folder:
            (folder / "sub").mkdir()
            (folder / "a").write_bytes(b"1")
            (folder / "sub" / "b").write_bytes(b"2")

    history = history_of(tmp_path / "base", work, None)
    last = len(history.steps) - 1

    def broken(cut) -> bool:
        found = {name: value for name, (kind, value) in cut.tree.items() if kind == "file"}
        found = {name: value for name, value in found.items() if not name.startswith(TEMPORARY)}
        present = "folder" in cut.tree
        return (found != files) if present or cut.step == last else found != {}

    assert not any(map(broken, history.cuts()))
    syncs = history.syncs()
    assert len(syncs) == 5  # two files, their two folders, and the folder that gets the name
    for number in syncs:
        assert any(map(broken, history.cuts(without=number)))


def test_a_hint_is_not_synced(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: pytest.fail("synced"))
    write_whole(tmp_path / "file", b"new", durable=False)
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize(("code", "raises"), [("EINVAL", False), ("ENOTSUP", False), ("EIO", True)])
def test_a_mount_that_cannot_sync_is_no_error(tmp_path, monkeypatch, code, raises):
    monkeypatch.setattr(os, "fsync", lambda handle: fail(OSError(getattr(errno, code), code))())
    path = tmp_path / "file"
    if not raises:
        write_whole(path, b"new")
        assert path.read_bytes() == b"new"
        return
    with pytest.raises(OSError, match=code):
        write_whole(path, b"new")
    assert os.listdir(tmp_path) == []


def test_where_folders_cannot_be_opened_they_are_not_synced(tmp_path, monkeypatch):
    monkeypatch.setattr(whole.os, "name", "nt")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    sync(tmp_path)


# -- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(12))
def test_an_error_at_any_operation_leaves_no_folder(tmp_path, number):
    path, raised = tmp_path / "new" / "folder", False
    with stopped_at(number, fail(OSError(errno.ENOSPC, "full"))):
        try:
            with whole_folder(path) as folder:
                (folder / "inside").write_bytes(b"x")
        except OSError:
            raised = True
    renamed = path.exists()
    assert renamed or raised
    if renamed:
        assert (path / "inside").read_bytes() == b"x"
    with suppress(FileNotFoundError):
        assert left(path.parent) == []

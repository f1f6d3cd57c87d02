"""The folder that images come into: settled files, each once, whatever ends the process."""

import csv
import os
import re
import time
from dataclasses import dataclass, field

import pytest

from edgecl_deploy import inbox
from edgecl_deploy.errors import BusyError, MissingFileError, OptionError
from edgecl_deploy.inbox import Inbox, Table, check_finished
from edgecl_deploy.loaded import Prediction
from edgecl_deploy.pipeline import Pace, answers


class Killed(BaseException):
    """The end of a process at some instruction."""


@dataclass
class Steps:
    """A clock that waiting moves, and a `StopRequest` after so many waits."""

    most: int = 6
    now: float = 0.0
    act: dict = field(default_factory=dict)  # by the number of the wait, what happens then
    waits: int = 0

    @property
    def requested(self):
        return self.waits >= self.most

    def wait(self, seconds):
        self.now += seconds
        self.waits += 1
        self.act.get(self.waits, lambda: None)()
        return self.requested


@dataclass
class Desk:
    """A folder, a table, and a fake classifier that reads the files."""

    folder: object
    table: object
    finished: object = None
    told: list = field(default_factory=list)
    asked: list = field(default_factory=list)

    def answer(self, path):
        self.asked.append(os.path.relpath(path, self.folder))
        with open(path, "rb") as file:
            text = file.read().decode("ascii", "replace")
        if text.startswith("bad"):
            return Prediction(None, None, (), [], [], 7, None, "an image must be whole")
        return Prediction(text, 0.5, ((text, 0.5), ("other", 0.25)), [0], [1.0], 7, None)

    def run(self, steps=None, *, settle=1.0, once=False, top=1, piped=None):
        steps = steps or Steps()
        table = Table(self.table, top)
        try:
            box = Inbox(
                self.folder,
                table,
                piped or (lambda paths: (self.answer(path) for path in paths)),
                self.tell,
                self.finished,
                settle,
                lambda: steps.now,
            )
            box.run(steps, once=once)
        finally:
            table.close()
        return steps

    def tell(self, path, answer):
        self.told.append((os.path.relpath(path, self.folder), answer))

    def rows(self):
        with open(self.table, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def put(self, name, text="cat"):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "in").mkdir()
    return Desk(tmp_path / "in", tmp_path / "results.csv")


@pytest.fixture
def moving(desk, tmp_path):
    desk.finished = tmp_path / "done"
    check_finished(desk.folder, desk.finished)
    return desk


def names(desk):
    return [row["image"] for row in desk.rows()]


def test_what_is_there_and_what_comes_is_classified_once(desk):
    desk.put("1.png")
    steps = Steps(12, act={4: lambda: desk.put("sub/2.JPG", "dog")})
    desk.run(steps)
    assert names(desk) == ["1.png", "sub/2.JPG"]
    assert [row["label"] for row in desk.rows()] == ["cat", "dog"]
    assert [row["release"] for row in desk.rows()] == ["7", "7"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00", row["time"]) for row in desk.rows())
    assert [name for name, _ in desk.told] == names(desk)


def test_a_file_that_is_written_waits_until_it_has_not_changed(desk):
    path = desk.put("slow.png", "c")

    def more():
        with path.open("a") as file:
            file.write("x")

    steps = Steps(9, act=dict.fromkeys((1, 2, 3, 4, 5), more))
    desk.run(steps)
    assert [row["label"] for row in desk.rows()] == ["cxxxxx"]


def test_a_file_that_is_written_while_it_is_read_is_read_again(desk):
    path = desk.put("1.png", "half")
    answer = desk.answer

    def slow(name):
        found = answer(name)
        if len(desk.asked) == 1:
            path.write_text("the whole")
        return found

    desk.answer = slow
    desk.run(Steps(9))
    assert desk.asked == ["1.png", "1.png"]
    assert [row["label"] for row in desk.rows()] == ["the whole"]


@pytest.mark.parametrize(
    "name",
    ["a.png.part", "a.jpg.tmp", ".a.png", "a.crdownload", "Thumbs.db", "notes.txt", "._a.png"],
)
def test_open_hidden_and_other_files_wait(desk, name):
    desk.put(name)
    desk.run()
    assert names(desk) == []
    assert (desk.folder / name).exists()


def test_links_pipes_and_folders_of_that_name_are_left(desk):
    os.mkfifo(desk.folder / "pipe.png")
    (desk.folder / "folder.png").mkdir()
    os.symlink(desk.folder / "gone", desk.folder / "dead.png")
    os.symlink(desk.folder, desk.folder / "round")
    desk.put("real.png")
    desk.run()
    assert names(desk) == ["real.png"]


def test_finished_files_are_moved_and_those_without_an_answer_apart(moving):
    moving.put("a/1.png")
    moving.put("2.png", "bad")
    moving.run()
    assert (moving.finished / "a" / "1.png").read_text() == "cat"
    assert (moving.finished / "failed" / "2.png").read_text() == "bad"
    assert not list(moving.folder.glob("**/*.png"))
    assert [row["error"] for row in moving.rows()] == ["an image must be whole", ""]


def test_a_name_that_comes_again_replaces_nothing(moving):
    for text in ("cat", "dog", "cow"):
        moving.put("frame.png", text)
        moving.run()
    assert [row["label"] for row in moving.rows()] == ["cat", "dog", "cow"]
    kept = {path.name: path.read_text() for path in moving.finished.glob("*.png")}
    assert kept == {"frame.png": "cat", "frame-2.png": "dog", "frame-3.png": "cow"}


def test_the_folder_of_finished_files_may_be_inside(desk):
    desk.finished = desk.folder / "done"
    check_finished(desk.folder, desk.finished)
    desk.put("1.png")
    desk.run(Steps(12))
    assert (names(desk), len(desk.asked)) == (["1.png"], 1)
    assert (desk.finished / "1.png").exists()


def test_a_restart_does_nothing_twice_but_takes_what_changed(desk):
    desk.put("1.png")
    desk.put("2.png")
    desk.run()
    desk.put("2.png", "another")
    desk.run()
    desk.run()
    assert names(desk) == ["1.png", "2.png", "2.png"]
    assert desk.rows()[-1]["label"] == "another"


def test_files_that_are_read_ahead_are_recorded_in_order_and_once(moving):
    """The answers come from a pipeline, which takes and reads files before they are asked for."""
    for number in range(40):
        moving.put(f"{number:02}.png", "bad" if number == 7 else f"cat {number}")
    one_by_one = moving.answer

    def piped(paths):
        return answers(iter(paths), one_by_one, list, Pace(1, 4, whole=False))

    steps = Steps(100)
    moving.told = told = StopAfter(20, steps, moving.asked)
    moving.run(steps, piped=piped)
    assert [name for name, _ in told] == [f"{number:02}.png" for number in range(20)]
    assert 20 < len(moving.asked) <= 20 + 4 + 1  # read, and left where they are
    moving.told = []
    moving.run(piped=piped)
    assert names(moving) == [f"{number:02}.png" for number in range(40)]
    assert len(list(moving.finished.glob("*.png"))) == 39


class StopAfter(list):
    """Keeps what is told, and requests a stop after so many files, once another one is read."""

    def __init__(self, count, steps, asked):
        super().__init__()
        self.count, self.steps, self.asked = count, steps, asked

    def append(self, told):
        super().append(told)
        if len(self) == self.count:
            patience = time.monotonic() + 60
            while len(self.asked) <= self.count and time.monotonic() < patience:
                time.sleep(0.001)
            self.steps.most = 0


# -- kills and full disks -------------------------------------------------------------------------

CALLS = ("pwrite", "fsync", "rename", "ftruncate")


def killed_at(monkeypatch, number, torn):
    """End the process at call number `number` of those that write: before it, or in its middle."""
    count = 0

    def killing(name, real):
        def call(*arguments):
            nonlocal count
            count += 1
            if count == number:
                if torn and name == "pwrite":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                elif torn:
                    real(*arguments)
                raise Killed
            return real(*arguments)

        return call

    for name in CALLS:
        monkeypatch.setattr(inbox.os, name, killing(name, getattr(os, name)))


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("number", range(1, 13))
def test_a_kill_at_any_write_leaves_each_image_one_row_and_one_place(moving, number, torn):
    for name, text in (("1.png", "cat"), ("2.png", "bad"), ("3.png", "dog")):
        moving.put(name, text)
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, number, torn)
        with pytest.raises(Killed):
            moving.run()
    moving.run()
    assert sorted(names(moving)) == ["1.png", "2.png", "3.png"]
    assert {path.name for path in moving.finished.glob("*.png")} == {"1.png", "3.png"}
    assert [path.name for path in moving.finished.glob("failed/*")] == ["2.png"]
    assert not list(moving.folder.iterdir())


def test_a_full_disk_ends_it_with_whole_rows(desk, monkeypatch):
    desk.put("1.png")
    desk.run()
    whole = desk.table.read_bytes()
    desk.put("2.png")

    room = iter((10,))  # bytes, then no more

    def full(handle, data, offset, write=os.pwrite):
        left = next(room, 0)
        if not left:
            raise OSError(28, "No space left on device")
        return write(handle, data[:left], offset)

    monkeypatch.setattr(inbox.os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        desk.run()
    assert desk.table.read_bytes() == whole
    monkeypatch.undo()
    desk.run()
    assert names(desk) == ["1.png", "2.png"]


# -- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a,b.png", 'a"b.png', "a\nb.png", "=1+1.png", "é牛.png", " .png"])
def test_a_row_is_one_line_whatever_the_name(desk, name):
    desk.put(name)
    desk.run()
    desk.run()
    assert len(desk.table.read_bytes().splitlines()) == 2
    assert names(desk) == [name.replace("\n", r"\n")]


def test_a_name_that_is_no_text_is_written_as_its_bytes(desk):
    (desk.folder / os.fsdecode(b"caf\xe9.png")).write_text("cat")
    desk.run()
    desk.run()
    assert names(desk) == [r"caf\udce9.png"]


def test_another_table_is_refused_and_kept(desk):
    desk.run(top=1)
    before = desk.table.read_bytes()
    with pytest.raises(OptionError, match="give the --top that it was begun with"):
        Table(desk.table, 2)
    desk.table.write_bytes(b"my notes")
    with pytest.raises(OptionError, match="Name another file"):
        Table(desk.table, 1)
    assert (desk.table.read_bytes(), before[:5]) == (b"my notes", b"time,")


def test_one_process_writes_a_table(desk):
    first = Table(desk.table, 1)
    with pytest.raises(BusyError, match="Stop it, or name another file"):
        Table(desk.table, 1)
    first.close()
    Table(desk.table, 1).close()


# -- its ends -------------------------------------------------------------------------------------


def test_once_ends_and_leaves_what_is_still_written(desk):
    desk.put("1.png")
    growing = desk.put("2.png", "")

    def more():
        with growing.open("a") as file:
            file.write("x")

    steps = Steps(1000, act=dict.fromkeys(range(1, 1000), more))
    desk.run(steps, once=True)
    assert names(desk) == ["1.png"]
    assert steps.waits < 5


def test_a_stop_ends_after_the_file_at_hand(desk):
    for number in range(5):
        desk.put(f"{number}.png")
    steps = Steps(100)
    answer = desk.answer

    def stopping(name):
        steps.most = 0
        return answer(name)

    desk.answer = stopping
    desk.run(steps)
    assert names(desk) == ["0.png"]


def test_a_folder_below_that_cannot_be_read_hides_nothing_else(desk, monkeypatch):
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        desk.put(name)
    opened = os.scandir

    def scandir(path):
        if os.path.basename(path) == "b":
            raise PermissionError(13, "Permission denied", path)
        return opened(path)

    monkeypatch.setattr(os, "scandir", scandir)
    desk.run()
    assert names(desk) == ["a/1.png", "c/3.png"]


def test_a_folder_that_goes_is_an_error(desk):
    with pytest.raises(MissingFileError, match="Start the command again when it is"):
        desk.run(Steps(act={2: desk.folder.rmdir}))


def test_finished_files_must_leave_by_one_rename(desk, tmp_path, monkeypatch):
    for wrong in (desk.folder, tmp_path):
        with pytest.raises(OptionError, match="Name another folder"):
            check_finished(desk.folder, wrong)
    real = os.stat

    def other(path, **options):
        found = real(path, **options)
        away = str(path).endswith("away")
        return os.stat_result((*found[:2], found.st_dev + away, *found[3:]))

    monkeypatch.setattr(inbox.os, "stat", other)
    with pytest.raises(OptionError, match="on the same one"):
        check_finished(desk.folder, tmp_path / "away")

"""The device as people use it: encodings, closed pipes, full disks, no home, odd files."""

import io
import itertools
import json
import os
import pwd
import subprocess
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console
from rich.table import Table
from tests.deploy.support.world import colour_picture, fake_engine, world

from edgecl_deploy import Classifier, commands
from edgecl_deploy.cli import device
from edgecl_deploy.console import READER_LEFT, STOPPED, run_script

__all__ = ["colour_picture", "fake_engine", "world"]
NAMES = ("Käse", "שלום", "牛")  # in cp1252, in neither, in neither


@pytest.fixture
def shelf(world, colour_picture, tmp_path):
    """A bundle, a release with classes of many scripts, and a folder with one image of each."""
    rows = {"prototypes": np.eye(3, dtype=np.float32)}
    release = world.made(world.pack(0, NAMES, tensors=rows)).write(world.fresh())
    folder = tmp_path / "shots"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.fromarray(colour_picture(colour)).save(folder / f"{number}.png")
    return [str(world.bundle_path), str(release), str(folder)]


@pytest.fixture
def script(monkeypatch):
    """Return a function that runs `edgecl-device` with a standard output of some encoding."""

    def run(*arguments, encoding="utf-8", command=device):
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
        with pytest.raises(SystemExit) as ended:
            run_script(command, "edgecl-device", list(arguments))
        sys.stdout.flush()
        return ended.value.code or 0, out.getvalue().decode(encoding.replace("ascii", "utf-8"))

    return run


# -- names that the encoding of the output lacks --------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", NAMES),
        ("cp1252", ("Käse", r"\u05e9\u05dc\u05d5\u05dd", r"\u725b")),
        ("ascii", NAMES),  # click takes it for a wrong setting and writes UTF-8
        ("cp949", (r"K\xe4se", r"\u05e9\u05dc\u05d5\u05dd", "牛")),
    ],
)
@pytest.mark.parametrize("form", [(), ("--csv",)])
def test_a_name_that_the_encoding_lacks_is_written_by_its_numbers(
    shelf, script, encoding, shown, form
):
    status, out = script("classify", *shelf, "--top", "1", *form, encoding=encoding)
    assert status == 0
    assert all(name in line for name, line in zip(shown, out.splitlines()[-3:], strict=True))


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "cp949"])
def test_json_is_the_same_in_every_encoding(shelf, script, encoding):
    status, out = script("classify", *shelf, "--json", encoding=encoding)
    assert status == 0
    assert [json.loads(line)["label"] for line in out.splitlines()] == list(NAMES)


def test_a_file_name_that_is_no_text_is_shown(shelf, script):
    odd = os.fsencode(shelf[2]) + b"/caf\xe9.png"
    os.rename(os.path.join(shelf[2], "0.png"), odd)
    status, out = script("classify", *shelf)
    assert status == 0
    assert r"caf\udce9.png: Käse" in out
    (line,) = (
        line for line in script("classify", *shelf, "--json")[1].splitlines() if "caf" in line
    )
    assert os.fsencode(json.loads(line)["image"]) == odd


def test_the_workstation_writes_such_names_as_well(script):
    @click.command()
    def show():
        click.echo("שלום")

    shown = (0, "\\u05e9\\u05dc\\u05d5\\u05dd\n")
    assert script(encoding="cp1252", command=show) == shown


# -- a reader that leaves -------------------------------------------------------------------------

PIPED = (
    '{python} -c "from edgecl_deploy.{main}; main()" {words} | head -n 1; echo ${{PIPESTATUS[0]}}'
)


@pytest.mark.parametrize(
    ("main", "words"),
    [
        ("cli import main", "classify {0} {1} {2} {2} {2} {2}"),
        ("commands import main", "device classify {0} {1} {2} {2} --csv"),
    ],
)
def test_a_pipe_that_is_closed_ends_quietly(shelf, main, words):
    line = PIPED.format(python=sys.executable, main=main, words=words.format(*shelf))
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    first, status = done.stdout.splitlines()
    assert first.startswith(("image,", shelf[2]))
    assert done.stderr == ""
    assert int(status) in {0, READER_LEFT}, "0 if all was written before the reader left"


@pytest.fixture
def nobody_reads(monkeypatch):
    """Return a function that runs a command whose standard output is a pipe without a reader."""

    def run(command, *arguments):
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            run_script(command, "edgecl-device", list(arguments))
        stream.close()
        return ended.value.code

    return run


def test_nobody_reads_the_answers(shelf, nobody_reads, capsys):
    assert nobody_reads(device, "classify", *shelf) == READER_LEFT
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [("device", "info"), ("streams",), ("device", "--help")])
def test_nobody_reads_what_the_workstation_writes(nobody_reads, words, capsys):
    assert nobody_reads(commands.edgecl, *words) == READER_LEFT
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [("device", "info"), ("streams",), ("device", "--help")])
def test_a_full_disk_takes_no_output(monkeypatch, capsys, words):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            run_script(commands.edgecl, "edgecl", list(words))
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert (error.count("\n"), "No space left on device" in error) == (1, True)


def test_an_output_that_is_closed_is_no_trouble(shelf):
    command = f'{sys.executable} -c "from edgecl_deploy.cli import main; main()"'
    line = f"{command} classify {' '.join(shelf)} >&- <&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_table_takes_names_that_the_encoding_lacks(script):
    """As `edgecl classes list` and `edgecl evaluate` draw them."""

    @click.command()
    def show():
        drawn = Table("class")
        for name in NAMES:
            drawn.add_row(name)
        Console().print(drawn)

    status, out = script(command=show, encoding="cp1252")
    assert status == 0
    assert all(name in out for name in ("Käse", r"\u05e9\u05dc\u05d5\u05dd", r"\u725b"))


def test_another_broken_pipe_is_a_failure(script, capsys):
    """Of a server that hung up, for example: that is no end that a person wanted."""

    @click.group(cls=commands.Umbrella)
    @click.option("--verbose", is_flag=True)
    def top(verbose):
        raise BrokenPipeError(32, "Broken pipe")

    assert script("device", "info", command=top)[0] == 1
    assert capsys.readouterr().err.startswith("edgecl: BrokenPipeError")


# -- what else a person can cause -----------------------------------------------------------------


def test_no_home_is_no_trouble(shelf, script, monkeypatch):
    def nobody(_):
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert script("classify", *shelf)[0] == 0
    assert script("info", *shelf[:2])[0] == 0


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_ctrl_c_leaves_whole_lines(shelf, script, monkeypatch, capsys, as_json):
    stream = Classifier.stream

    def stopped(self, images, **options):
        yield from itertools.islice(stream(self, images, **options), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "stream", stopped)
    status, out = script("classify", *shelf, *as_json)
    assert (status, capsys.readouterr().err.strip()) == (STOPPED, "edgecl-device: stopped")
    assert out.count("\n") == 2
    assert out.endswith("\n")


@pytest.mark.parametrize(
    ("name", "status"),
    [("gone/*.png", 2), ("empty", 2), ("gone.png", 1), ("text.png", 1), ("a\0b.png", 1)],
)
def test_what_cannot_be_an_image_is_one_line(shelf, tmp_path, monkeypatch, name, status):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("I am a text")
    done = CliRunner().invoke(device, ["classify", *shelf[:2], name])
    assert done.exit_code == status
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_a_folder_that_this_user_may_not_read_is_one_line(shelf, monkeypatch):
    def refused(_):
        raise PermissionError(13, "Permission denied", shelf[2])

    monkeypatch.setattr(os, "scandir", refused)
    done = CliRunner().invoke(device, ["classify", *shelf])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "shots must be readable; found PermissionError" in done.stderr

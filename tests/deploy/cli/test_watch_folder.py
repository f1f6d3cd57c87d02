"""`edgecl-device watch-folder`: one run, a process that is stopped, a store that is followed."""

import csv
import json
import shutil
import signal
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.deploy.support.fleet import COMMAND, black, wait_for

from edgecl_deploy.cli import device


@pytest.fixture
def place(world, colour_picture, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(colour_picture("red")).save(folder / "red.png")
    (folder / "bad.png").write_bytes(b"no image")
    return [str(world.bundle_path), str(world.release("red", "green")), str(folder)]


def run(*words):
    return CliRunner().invoke(device, ["watch-folder", *map(str, words)])


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_once_writes_a_table_and_a_line_each_and_moves(place, tmp_path):
    done, table = tmp_path / "done", tmp_path / "table.csv"
    options = ("--once", "--settle", "0", "--move", done, "--csv", table, "--top", "2")
    result = run(*place, *options)
    assert (result.exit_code, "1 of 2 images could not be" in result.stderr) == (1, True)
    assert "red.png: red  [red 1.000, green 0.000]" in result.stdout
    assert [(row["image"], row["label"], row["label_2"]) for row in rows(table)] == [
        *(("bad.png", "", ""), ("red.png", "red", "green"))
    ]
    assert (done / "red.png").exists()
    assert (done / "failed" / "bad.png").exists()
    again = run(*place, *options)
    assert (again.exit_code, again.output) == (0, "")


def test_json_is_a_line_each_and_the_table_is_in_the_folder(place, tmp_path):
    lines = run(*place, "--once", "--settle", "0", "--json").stdout.splitlines()
    assert [json.loads(line)["label"] for line in lines] == [None, "red"]
    assert len(rows(tmp_path / "in" / "edgecl-results.csv")) == 2


def test_a_wrong_command_line(place, tmp_path):
    for words in (place[:2], [*place, "more"], [*place[:2], tmp_path / "none"]):
        result = run(*words, "--once")
        assert (result.exit_code, "Name one FOLDER that is there." in result.stderr) == (2, True)
    assert run(*place, "--once", "--move", place[2]).exit_code == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_a_store_is_followed(device_1, tmp_path, number):
    folder = tmp_path / "in"
    folder.mkdir()
    table = folder / "edgecl-results.csv"
    picture = black(device_1)
    line = [*COMMAND, "watch-folder", str(device_1.path), str(folder), "--settle", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*line, "--json"], **pipes) as process:
        try:
            shutil.copy(picture, folder / "first.png")
            wait_for(lambda: table.exists() and len(rows(table)) == 1)
            device_1.publish(2)
            assert device_1.update().exit_code == 0
            names = iter(range(1000))

            def another():
                Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{next(names)}.png")
                return rows(table)[-1]["release"] == "2"

            wait_for(another)
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    told = [json.loads(each)["release"] for each in out.splitlines()]
    assert told == [int(row["release"]) for row in rows(table)]
    assert set(told) == {1, 2}

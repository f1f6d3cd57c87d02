"""The tour of README.md, its fleet and its run by name go as they stand there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def part(name: str) -> str:
    block = re.compile(rf"<!-- {name} -->\s*```\w*\n(.*?)```\s*<!-- /{name} -->", re.DOTALL)
    found = block.findall(README.read_text(encoding="utf-8"))
    assert len(found) == 1, f"one part between <!-- {name} --> and <!-- /{name} -->"
    return str(found[0])


@pytest.mark.parametrize("name", ["tour", "fleet", "by-name"])
def test_a_part_is_short(name: str) -> None:
    assert len(part(name).splitlines()) <= 40


def run(script: str, folder: Path) -> str:
    """Run commands in a folder; return what they print."""
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.timeout(600)
def test_the_tour_and_the_fleet_run(tmp_path: Path) -> None:
    said = run(part("tour") + part("fleet"), tmp_path)
    assert "release 5" in said, "the device has answered with the fifth release"
    assert "release 6" in said, "and with the sixth"
    assert "release 5 serves" in said, "the store has taken the fifth release"
    assert "release 6 serves" in said, "and the sixth"
    assert json.loads((tmp_path / "store" / "state.json").read_text())["release"] == 5
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


@pytest.mark.timeout(600)
def test_the_run_by_name_runs(tmp_path: Path) -> None:
    """On concepts that the built-in CLIP has never met, and an art style that nothing trained."""
    said = run("edgecl data unpack emoji-demo images\n" + part("by-name"), tmp_path)
    answers = re.findall(r"^images/test/task_04/([^/]+)/\d+.png: ([^\[]+?)  \[", said, re.MULTILINE)
    assert len(answers) == 10
    assert sum(truth == answer for truth, answer in answers) >= 9
    metrics = json.loads((tmp_path / "by-name" / "metrics.json").read_text())
    assert metrics["a_last"] > 0.9
    assert metrics["protocol"] == "mtil"

"""The tour of README.md, its fleet and its run by name go as they stand there."""

import json
import re
from pathlib import Path

import pytest
from readme_parts import part, run


@pytest.mark.parametrize("name", ["tour", "fleet", "by-name"])
def test_a_part_is_short(name: str) -> None:
    assert len(part(name).splitlines()) <= 40


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

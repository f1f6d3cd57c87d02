"""README.md is short, and what it shows runs: commands, Python, the tour, the fleet, by name."""

import json
import re
from pathlib import Path

import pytest
from readme_parts import README, part, run
from tests.e2e.dirt import COUNT, FOUR, write_photos

LINES = README.read_text(encoding="utf-8").splitlines()


def test_the_page_is_short_and_its_first_screen_ends_with_where_to_begin() -> None:
    assert len(LINES) <= 150
    first = LINES[:40]
    assert [line for line in first if line.startswith("#")] == ["# edgecl"]
    assert sum(line.startswith("| [`") for line in first) == 5


def test_the_first_commands_are_those_of_the_tour() -> None:
    block = "\n".join(LINES).split("```sh\n")[2].split("```")[0]
    commands = [line.split("#")[0].strip() for line in block.splitlines()]
    assert len(commands) == 5
    assert set(commands) <= set(part("tour").splitlines())


@pytest.mark.timeout(600)
def test_the_python_runs(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(part("python"), encoding="utf-8")
    said = run("edgecl data unpack emoji-demo images\npython -W error example.py", tmp_path)
    found = re.fullmatch(r"420 images in images\n(0\.\d+)\nox (0\.\d+)\n", said)
    assert found, said
    assert float(found[1]) > 0.85


@pytest.mark.parametrize("name", ["tour", "own-images", "fleet", "by-name"])
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


@pytest.mark.timeout(600)
def test_images_as_people_have_them(tmp_path: Path) -> None:
    """Cameras, systems and people have left things in the folder; every file is accounted for."""
    write_photos(tmp_path)
    said = run(part("own-images"), tmp_path)
    account = re.findall(
        r"^files: (\d+) in .*: (\d+) training images, (\d+) test", said, re.MULTILINE
    )
    checked, learned, more = (tuple(map(int, each)) for each in account)
    left = sum(map(int, re.findall(r"^  (\d+) (?:skipped|ignored), ", said, re.MULTILINE)))
    assert checked == learned
    assert checked[0] == sum(1 for path in (tmp_path / "photos").rglob("*") if path.is_file())
    assert checked[1] + checked[2] == COUNT * len(FOUR) + 1, "the cap of the lens is one more"
    assert left == 2 * (checked[0] - checked[1] - checked[2]), "of check and of train"
    assert more == (COUNT + 1, COUNT + 1, 0)
    assert "1 constant training images, the first: " in said
    assert "1 constant: all pixels are the same: dog/lens cap.png" in said
    assert "100.0 % of 5 images right" in said
    assert json.loads((tmp_path / "mine" / "metrics.json").read_text())["a_last"] == 1
    assert len(list((tmp_path / "mine" / "tasks").iterdir())) == 2, "the third was taken back"

"""The tour of README.md and its fleet run as they stand there."""

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


@pytest.mark.parametrize("name", ["tour", "fleet"])
def test_a_part_is_short(name: str) -> None:
    assert len(part(name).splitlines()) <= 40


@pytest.mark.timeout(600)
def test_the_tour_and_the_fleet_run(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", part("tour") + part("fleet")],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert "release 5" in done.stdout, "the device has answered with the fifth release"
    assert "release 6" in done.stdout, "and with the sixth"
    assert "release 5 serves" in done.stdout, "the store has taken the fifth release"
    assert "release 6 serves" in done.stdout, "and the sixth"
    assert json.loads((tmp_path / "store" / "state.json").read_text())["release"] == 5
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000

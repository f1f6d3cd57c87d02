"""The tour of README.md runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
TOUR = re.compile(r"<!-- tour -->\s*```\w*\n(.*?)```\s*<!-- /tour -->", re.DOTALL)


def tour() -> str:
    found = TOUR.findall(README.read_text(encoding="utf-8"))
    assert len(found) == 1, "one tour between <!-- tour --> and <!-- /tour -->"
    return str(found[0])


def test_the_tour_is_short() -> None:
    assert len(tour().splitlines()) <= 40


@pytest.mark.timeout(600)
def test_the_tour_runs(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", tour()],
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
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000

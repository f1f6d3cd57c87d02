"""`make fleet-demo`, whole: no request fails, bad releases do not stay, every device arrives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 60_000  # bytes on the wire of an update by one task, with what tells unknown images


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_fleet_arrives_and_no_request_fails(tmp_path: Path) -> None:
    program = [sys.executable, ROOT / "examples" / "fleet_demo.py", "--out", tmp_path / "fleet"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "fleet" / "summary.json").read_text())
    assert (summary["failed"], summary["mixed"]) == (0, 0)
    assert [each["release"] for each in summary["devices"]] == [8, 8, 8]
    assert all(each["requests"] > 100 for each in summary["devices"])
    assert (summary["denied"], summary["rolled_back"]) == (3, 3)
    assert len(summary["bytes_per_update"]) == 6
    assert max(summary["bytes_per_update"]) <= MOST

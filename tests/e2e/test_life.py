"""The demo of a device's life, as people run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_what_the_demo_promises(tmp_path: Path) -> None:
    out = tmp_path / "life"
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "life_demo.py", "--out", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "summary.json").read_text())
    assert (found["unknown_before"], found["known_after"]) == (1, 1)
    assert found["enrol_images"] == 5
    assert (found["failed"], found["mixed"], found["forgotten_bytes_left"]) == (0, 0, 0)
    assert found["requests"] > 20
    assert found["max_score_error"] <= 1e-4
    assert found["auroc"] > 0.9
    assert found["coverage"] >= 0.88  # 1 - alpha, less what chance takes of 41 images
    assert 0 < found["drift_delay_images"] < 200

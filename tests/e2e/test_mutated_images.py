"""Damaged image files: errors with a name, in bounded time and memory, alike on both sides."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS, KB = 2.0, 300 * 1024  # of one file


@pytest.mark.parametrize(
    ("count", "seed"), [(400, 2), pytest.param(50_000, 1, marks=pytest.mark.slow)]
)
def test_damaged_files_are_refused_alike(count: int, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("mutated_images.py"), str(count), str(seed)],
        capture_output=True,  # libtiff writes its own lines to stderr
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["files"] == count
    assert 0.1 * count < found["accepted"] < 0.9 * count, found  # the damage is neither nil nor all
    assert found["slowest"][0] <= SECONDS, found["slowest"]
    assert found["peak_above_start_kb"] <= KB, found
    assert found["started"] == []

"""The memory law: what a task takes does not grow with its images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("large_stream.py")
PEAK = 1.5 * 10**9  # bytes; 0.9 were measured


@pytest.mark.slow
def test_a_hundred_thousand_images_are_learned_within_one_and_a_half_gigabytes(
    tmp_path: Path,
) -> None:
    """H of RanPAC's first task alone, 90,000 x 2,000 in float64 with its parts, would be more."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), str(tmp_path / "runs")],
        env={**os.environ, "EDGECL_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout)
    for name, figures in found.items():
        print(f"{name}: {figures}")  # noqa: T201 what `pytest -s` is run for
    assert max(figures["peak_bytes"] for figures in found.values()) < PEAK
    assert found["simplecil"]["decoded"] >= 100_000
    assert found["ranpac"]["decoded"] < 1000, "features were stored: only what is shown is decoded"
    assert found["simplecil"]["a_last"] > 0.9
    assert list((tmp_path / "cache" / "scratch").iterdir()) == []

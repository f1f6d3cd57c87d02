"""The pictures are drawn from the recorded results, and change with them."""

import json
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "draw_pictures.py"
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))


def test_the_committed_pictures_are_those_of_the_results() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_another_result_is_another_picture(tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    drawn = script["pictures"]()
    for name in ("methods", "vlm", "update_cost"):
        (tmp_path / f"{name}.json").write_bytes((script["RESULTS"] / f"{name}.json").read_bytes())
    file = tmp_path / "vlm.json"
    results = json.loads(file.read_text())
    for key, cell in results["cells"].items():
        if key.startswith(f"{script['STREAM']}/cgil/"):
            cell["a_last"] = 0.5
    file.write_text(json.dumps(results))
    script["recorded"].__globals__["RESULTS"] = tmp_path
    again = script["pictures"]()
    assert "and 50 % are right" in again[script["PICTURES"] / "accuracy-light.svg"]
    assert again != drawn


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_small_and_fetches_nothing(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)  # noqa: S314 - our own file
    assert root.get("aria-label"), "it says in words what it shows"
    assert len(text) < 300_000
    assert re.findall(r'href="[^#]|url\([^#]', text) == []
    assert "<script" not in text

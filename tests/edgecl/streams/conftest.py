"""Small image folders for the tests of streams."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

MakeFolder = Callable[[dict[str, int]], Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Return a function: {"task_00/cat": 3} -> root with three images in task_00/cat."""

    def make(counts: dict[str, int]) -> Path:
        root = tmp_path / "images"
        for row, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (9, 7), (row, i, 0)).save(root / folder / f"{i:03d}.png")
        return root

    return make

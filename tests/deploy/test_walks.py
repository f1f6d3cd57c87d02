"""How many files an image passes through, from `predict` to a label."""

from pathlib import Path
from typing import Any

from tests.walks import MOST, entered

import edgecl_deploy
from edgecl_deploy import Classifier

# One step, which the learner takes as well.
IMAGES = {path.name for path in (Path(edgecl_deploy.__file__).parent / "images").iterdir()}


def test_an_image_enters_few_files(world, colour_picture) -> None:
    classifier = Classifier.open(world.bundle_path, world.release("red", "green"))
    found: list[Any] = []
    root = Path(edgecl_deploy.__file__).parent
    names = entered(root, lambda: found.extend(classifier.predict([colour_picture("green")])))
    files = names - IMAGES
    assert found[0].label == "green"
    assert {"runtime.py", "loaded.py", "programs.py"} <= files
    assert {"preparing.py", "pixels.py"} <= names
    assert len(files) <= MOST, sorted(files)

"""How many files an image passes through, from `predict` to a label."""

from pathlib import Path
from typing import Any

from tests.walks import MOST, entered

import edgecl_deploy
from edgecl_deploy import Classifier

ROOT = Path(edgecl_deploy.__file__).parent
# Three steps with a door of their own: what an image is, as in the learner, the engine, and what
# watches the answers.
IMAGES = {path.name for path in (ROOT / "images").iterdir()} | {"image_limits.py"}
ENGINE = {path.name for path in (ROOT / "engines").iterdir()}
DRIFT = {path.name for path in (ROOT / "drift").iterdir()}


def test_an_image_enters_few_files(world, colour_picture) -> None:
    classifier = Classifier.open(world.bundle_path, world.release("red", "green"))
    found: list[Any] = []
    names = entered(ROOT, lambda: found.extend(classifier.predict([colour_picture("green")])))
    files = names - IMAGES - ENGINE - DRIFT
    assert found[0].label == "green"
    assert {"runtime.py", "loaded.py", "programs.py"} <= files
    assert {"preparing.py", "pixels.py"} <= names
    assert len(files) <= MOST, sorted(files)

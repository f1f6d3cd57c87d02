"""What every method learns from two tasks is what it always learned, bit for bit."""

import hashlib
import json
from collections.abc import Callable

import pytest
from safetensors.numpy import load_file
from tests import golden

from edgecl.learning.learner import Learner
from edgecl.methods import methods
from edgecl.session import learn_stream
from edgecl.streams import Stream

FIGURES = ("accuracy", "images", "confusion", "match", "matched", "oracle", "open")


@pytest.mark.parametrize("name", methods())
def test_golden_training(
    name: str, make_learner: Callable[..., Learner], make_stream: Callable[..., Stream]
) -> None:
    """A method that reads names also ranks the classes of the task to come."""
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner(name, stream)
    learn_stream(learner, stream)
    found = []
    for folder in sorted((learner.run.path / "tasks").iterdir()):
        evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        state = folder / "state.safetensors"
        kept = golden.digests(load_file(state)) if state.exists() else {}
        found.append({
            "part": golden.digests(load_file(folder / "learned.safetensors")),
            "state": sorted(kept.values()),  # names in a run folder may change
            "figures": [evaluation.get(figure) for figure in FIGURES],
        })
    images = learner.load(stream.tasks[0].test, "").images
    scores = learner.predict(images).scores.numpy()
    digest = hashlib.sha256(scores.tobytes()).hexdigest()[:16]
    golden.check(f"training/{name}", {"tasks": found, "scores": digest}, scores)

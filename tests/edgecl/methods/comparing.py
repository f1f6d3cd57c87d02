"""What the tests over all methods compare: tensors and run folders, bit for bit."""

import json

import numpy as np
import pytest
from torch import Tensor

from edgecl.learning import runs
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.methods import methods
from edgecl.streams import Stream

every_method = pytest.mark.parametrize("name", methods())


def bits(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in sorted(tensors.items())}


def files_of(run: Run, tasks: int | None = None) -> dict[str, object]:
    """Return what the task folders hold, less what depends on when the run was made."""
    found: dict[str, object] = {}
    for task in range(len(run) if tasks is None else tasks):
        for path in sorted((run.path / "tasks" / f"{task:03d}").iterdir()):
            if tasks is not None and path.name == runs.STATE:
                continue  # of the newest task only
            content: object = path.read_bytes()
            if path.name == "task.json":
                content = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
            found[f"{task}/{path.name}"] = content
    return found


def pixels_of(learner: Learner, stream: Stream) -> np.ndarray:
    return np.concatenate([learner.load(task.test, "").images for task in stream.tasks])

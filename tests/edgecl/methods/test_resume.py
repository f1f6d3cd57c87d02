"""Every method: a run that is killed anywhere and resumed is the run that was not interrupted."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.edgecl.methods.comparing import files_of

from edgecl import session
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning import runs, task_images
from edgecl.learning.evaluation import SeenAnswers
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.learning.summary import Summary
from edgecl.learning.training import TaskTraining
from edgecl.methods import methods
from edgecl.session import learn_stream, open_learner
from edgecl.streams import Stream
from edgecl_deploy.manifest import whole

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


class KilledError(Exception):
    """Stands for the power cut."""


def dying(function: Callable[..., Any], calls: int, file: str = "") -> Callable[..., Any]:
    """Return the function that dies at its n-th call, of those that concern a file of this name."""
    count = 0

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += not file or any(isinstance(arg, Path) and arg.name == file for arg in args)
        if count == calls:
            raise KilledError
        return function(*args, **kwargs)

    return run


class Kill(NamedTuple):
    """The n-th call of a function dies, when so many tasks are finished."""

    owner: object
    attribute: str
    call: int
    finished: int
    file: str = ""
    of_run: bool = False  # it is the run that writes, whatever the method is


KILLS = {
    "in the first step of training": Kill(TaskTraining, "loss", 1, 0),
    "in the last step of the first training": Kill(TaskTraining, "loss", 4, 0),
    "in the training of the second task": Kill(TaskTraining, "loss", 6, 1),
    "before the first commit": Kill(Run, "commit", 1, 0),
    "before the second evaluation": Kill(session, "evaluate", 2, 1),
    "between two test sets": Kill(SeenAnswers, "add", 3, 1),
    "before the second commit": Kill(Run, "commit", 2, 1),
    "between the files of the second commit": Kill(
        runs, "save_file", 2, 1, runs.CANARY, of_run=True
    ),
    "while the second task's statistics are written": Kill(runs, "save_file", 2, 1, runs.STATE),
    "before the files of the second commit are durable": Kill(
        whole, "sync", 2, 1, runs.CANARY, of_run=True
    ),
    "right after the rename of the second commit": Kill(whole, "sync", 2, 2, "tasks", of_run=True),
    "before the statistics of the first task are dropped": Kill(runs, "drop", 1, 3, runs.STATE),
    "before the metrics": Kill(session, "summarise", 1, 3, of_run=True),
    "before the report": Kill(session, "write_report", 1, 3, of_run=True),
}
# A run writes alike what is trained, closed in form, kept as statistics, and remembered as images.
WRITERS = ("coda-prompt", "simplecil", "ranpac", "proof")


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict[str, object]]:
    return {}


def cases() -> Iterator[Any]:
    """Yield every kill with every method; by default the writers have all, another method one."""
    each = [kill for kill in KILLS if not KILLS[kill].of_run]
    for kill in KILLS:
        if KILLS[kill].of_run:
            yield from ((kill, name) for name in WRITERS)
            continue
        for place, name in enumerate(methods()):
            own = name in WRITERS or each[place % len(each)] == kill
            yield pytest.param(kill, name, marks=() if own else pytest.mark.slow)


@pytest.mark.parametrize(("kill", "name"), list(cases()))
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    name: str,
    kill: str,
    make_learner: MakeLearner,
    make_stream: MakeStream,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, dict[str, object]],
) -> None:
    monkeypatch.setattr(task_images, "BATCH", 8)
    stream = make_stream(test=2)
    if name not in uninterrupted:
        whole = make_learner(name, stream, out="whole")
        learn_stream(whole, stream)
        uninterrupted[name] = files_of(whole.run)
    learner = make_learner(name, stream)
    owner, attribute, call, done, file, _ = KILLS[kill]
    if owner is TaskTraining and not learner.method.is_trained(done):
        pytest.skip(f"{name} does not train then")
    if file == runs.STATE and f"2/{runs.STATE}" not in uninterrupted[name]:
        pytest.skip(f"{name} keeps nothing")
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, dying(getattr(owner, attribute), call, file))
        with pytest.raises(KilledError):
            learn_stream(learner, stream)
    assert len(learner.run) == done
    opened = open_learner(
        learner.run.path,
        device="cpu",
        backbone=learner.towers,
        cache=FeatureCache(None, learner.backbone.digest),
    )
    summary = learn_stream(opened, stream)
    assert files_of(opened.run) == uninterrupted[name]
    stored = json.loads((opened.run.path / "metrics.json").read_text())
    assert Summary.from_json(stored) == summary
    assert (opened.run.path / "report.html").is_file()
    assert sorted(path.name for path in (opened.run.path / "tasks").iterdir()) == [
        "000",
        "001",
        "002",
    ]

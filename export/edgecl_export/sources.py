"""What is exported: a learner, or the folder of its run."""

from pathlib import Path
from typing import Any

from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.session import open_learner


def learner_of(source: Learner | str | Path, **options: Any) -> Learner:
    """Return the learner, or open that of a run folder.

    Args:
        **options: of `open_learner`.
    """
    return source if isinstance(source, Learner) else open_learner(Path(source), **options)


def run_of(source: Learner | Run | str | Path) -> Run:
    """Return the run of a learner or of a folder; no backbone is loaded."""
    if isinstance(source, Learner):
        return source.run
    return source if isinstance(source, Run) else Run.open(Path(source))

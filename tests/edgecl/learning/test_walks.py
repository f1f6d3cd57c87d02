"""How many files of a room a task passes through."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from edgecl import learning
from edgecl.learning.learner import Learner
from edgecl.streams import Stream

MOST = 5  # files


def entered(root: Path, call: Callable[[], Any]) -> set[str]:
    """Return the files under a folder whose functions run during a call."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and Path(frame.f_code.co_filename).is_relative_to(root):
            files.add(Path(frame.f_code.co_filename).name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return files


def test_a_task_enters_few_files(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream]
) -> None:
    stream = make_stream()
    learner = make_learner("l2p", stream)
    past = learner.run.knowledge()
    room = Path(str(learning.__file__)).parent
    files = entered(room, lambda: learner.learn(stream.tasks[0], stream.classes, past))
    assert {"learner.py", "task_images.py", "training.py"} <= files
    assert len(files) <= MOST, sorted(files)

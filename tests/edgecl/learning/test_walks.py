"""How many files of a room a task passes through."""

from collections.abc import Callable
from pathlib import Path

from tests.walks import MOST, entered

from edgecl import learning
from edgecl.learning.learner import Learner
from edgecl.streams import Stream


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

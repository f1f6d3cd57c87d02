"""No test image runs twice through what is injected as before; what has changed runs again."""

from collections.abc import Callable

import pytest
import torch

from edgecl.backbones.vit import Features
from edgecl.learning.injected_passes import InjectedPasses
from edgecl.learning.learner import Learner
from edgecl.learning.task_images import Encoder, Images
from edgecl.program.learned import Tensors
from edgecl.session import learn_stream
from edgecl.streams import Stream

TASKS = 3


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of the branches (0 for the only one) that sets of test images run through."""
    found: list[int] = []
    run_injected = Encoder.run_injected

    def noted(
        self: Encoder, images: Images, learned: Tensors, plain: Features | None, branch: int | None
    ) -> Features:
        found.append(branch or 0)
        return run_injected(self, images, learned, plain, branch)

    monkeypatch.setattr(Encoder, "run_injected", noted)
    return found


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ranpac", [0] * TASKS),  # trained on the first task: each set once
        ("ease", [0, 0, 0, 1, 1, 1, 2, 2, 2]),  # each set once through each adapter
        ("slca", [0] * (1 + 2 + 3)),  # every task changes the weights: all sets again
        ("l2p", []),  # chosen by image: not kept
        ("simplecil", []),  # nothing is injected
    ],
)
def test_what_stays_is_run_once(
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    runs: list[int],
    method: str,
    expected: list[int],
) -> None:
    stream = make_stream()
    learn_stream(make_learner(method, stream), stream)
    assert sorted(runs) == expected


@pytest.mark.parametrize("method", ["ranpac", "layup", "aper-adapter", "ease", "lae"])
def test_answers_are_those_of_a_whole_pass(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream], method: str
) -> None:
    stream = make_stream(test=5)
    learner = make_learner(method, stream)
    learn_stream(learner, stream)
    learned = learner.learned()
    for task in stream.tasks:
        kept = learner.answers(task.test, [learned, learned])
        whole = learner.predict(learner.load_test(task.test).images, learned)
        for found in kept:
            for mine, wanted in zip(found, whole, strict=True):
                torch.testing.assert_close(mine, wanted, rtol=0, atol=2e-5)


def test_a_changed_injection_is_told_from_the_former(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream]
) -> None:
    stream = make_stream()
    learner = make_learner("ease", stream)
    learn_stream(learner, stream)
    learned, kept = learner.learned(), InjectedPasses(learner.program)
    calls: list[int | None] = []

    def run(branch: int | None) -> Features:
        calls.append(branch)
        return Features(torch.full((2, 4), float(len(calls))), torch.zeros(2, 4))

    first = kept.features("a", learned, run)
    assert calls == [0, 1, 2]
    assert first.cls.shape == (2, TASKS, 4)
    kept.features("a", dict(learned), run)
    assert calls == [0, 1, 2]
    name = next(iter(learner.program.injector.declare()))
    bank = learned[name].clone()
    bank[1].view(-1)[0] += 1e-6
    changed = kept.features("a", learned | {name: bank}, run)
    assert calls == [0, 1, 2, 1]
    assert changed.cls[0, :, 0].tolist() == [1.0, 4.0, 3.0]
    kept.features("b", learned | {name: bank}, run)
    assert calls == [0, 1, 2, 1, 0, 1, 2]
    assert torch.equal(kept.features("a", learned, run).cls[0, :, 0], torch.tensor([1.0, 8.0, 3.0]))

"""The lambda of a ridge head: chosen, kept from the former task, or given."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from edgecl.cli import learn
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.learning.runs import RunError
from edgecl.program.additive import CPU
from edgecl.program.classifiers.ridge import KEPT, Seen, Sums
from edgecl.session import learn_task
from edgecl.streams import Stream


def head(learner: Learner) -> torch.Tensor:
    learned = learner.learned()
    return learned["head_weight"] * learned["head_scale"][:, None]


@pytest.mark.parametrize("name", ["ranpac", "layup"])
def test_a_weight_is_kept_or_given(
    name: str, make_learner: Callable[..., Learner], make_stream: Callable[..., Stream]
) -> None:
    stream = make_stream()
    options = {"config": {"first_session": "none"}}
    first = make_learner(name, stream, **options)
    learn_task(first, stream.tasks[0], stream.classes, weight=3.0)
    assert float(first.run.state()[KEPT]) == 3.0
    learn_task(first, stream.tasks[1], stream.classes, weight="keep")
    state = first.run.state()
    assert float(state[KEPT]) == 3.0
    wanted = Sums(state["gram"], state["moments"]).solve(3.0).T.float()
    torch.testing.assert_close(head(first), wanted, rtol=1e-5, atol=1e-7)
    learn_task(first, stream.tasks[2], stream.classes)
    assert float(first.run.state()[KEPT]) != 3.0  # chosen again


def test_the_weight_that_counts_is_the_one_that_was_raised() -> None:
    row = torch.ones(1, 3, dtype=torch.float64)
    sums = Sums(1e12 * row.T @ row, torch.ones(3, 1, dtype=torch.float64))
    factor, weight = sums.factor(1e-8)
    assert weight > 1e-8
    shifted = sums.gram + weight * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(factor @ factor.T, shifted, rtol=1e-9, atol=0)


def test_what_cannot_be_kept_says_so(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream], tmp_path: Path
) -> None:
    stream = make_stream()
    fresh = make_learner("layup", stream, config={"first_session": "none"})
    with pytest.raises(MethodError, match="--weight choose"):
        learn_task(fresh, stream.tasks[0], stream.classes, weight="keep")
    means = make_learner("simplecil", stream, out="means")
    with pytest.raises(RunError, match="Leave --weight out"):
        learn_task(means, stream.tasks[0], stream.classes, weight="keep")
    for value in ("0", "-1", "inf", "little"):
        result = CliRunner().invoke(learn, [str(tmp_path), str(tmp_path), "--weight", value])
        assert (result.exit_code, "a number above 0" in result.output) == (2, True)


class Elsewhere(Sums):
    """Sums on a device that cannot compute."""

    def __init__(self, here: Sums):
        super().__init__(here.gram.to("meta"), here.moments.to("meta"))
        object.__setattr__(self, "here", here)

    def to(self, device: torch.device) -> Sums:
        assert device == CPU
        here: Sums = vars(self)["here"]
        return here


@pytest.mark.parametrize(
    "config", [{"weight": "choose"}, {"weight": "gcv"}, {"truncate": 25}], ids=str
)
def test_heads_are_solved_on_the_processor(
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, object],
) -> None:
    """A run that has forgotten solves them there again, bit for bit."""
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("ranpac", stream, config={"first_session": "none", **config})
    made = Seen.of

    def elsewhere(*given: Any, **options: Any) -> Seen:
        seen = made(*given, **options)
        return replace(seen, total=Elsewhere(seen.total))

    monkeypatch.setattr(Seen, "of", elsewhere)
    for task in stream.tasks:
        learn_task(learner, task, stream.classes)
    assert head(learner).device == CPU

"""Input tuning: which tasks train what is added to the images, and what every task ships."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods.input_tuning import InputTuningConfig
from edgecl.methods.s_prompts import REFUSED
from edgecl.session import learn_stream

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Any]


def test_delta_is_learned_once_and_later_tasks_add_rows(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    learner = make_learner("input-tuning", make_stream(((0, 1), (2, 3))))
    learn_stream(learner, make_stream(((0, 1), (2, 3))))
    first, second = learner.run.parts()
    assert first.keys() == {"pixels", "head_weight", "head_bias"}
    assert second.keys() == {"head_weight", "head_bias"}
    assert second["head_bias"].abs().max() > 0, "the new rows are trained"


def test_all_tasks_train_one_frame(make_learner: MakeLearner, make_stream: MakeStream) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("input-tuning", stream, config={"tasks": "all", "form": "frame"})
    learn_stream(learner, stream)
    first, second = learner.run.parts()
    assert first["pixel_rows"].shape == (2, 3, 4, 32)  # 30 of 224 pixels, of 32
    assert first.keys() == second.keys()
    assert not torch.equal(first["pixel_rows"], second["pixel_rows"])
    assert torch.equal(learner.learned()["pixel_rows"], second["pixel_rows"])


def test_a_task_of_its_own_is_matched_and_no_other_moves(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 3), (0, 3)), train=8, test=6, protocol="dil")
    config = {"tasks": "own", "form": "tile", "schedule": {"epochs": 12, "batch_size": 4}}
    learner = make_learner("input-tuning", stream, config=config)
    assert learn_stream(learner, stream).a_last == 1.0
    tiles = [part["task_pixel_tile"] for part in learner.run.parts()]
    assert [tile.shape for tile in tiles] == [(1, 3, 16, 16)] * 2
    assert torch.equal(learner.learned()["task_pixel_tile"], torch.cat(tiles))
    for domain, task in enumerate(stream.tasks):
        outputs = learner.predict(learner.load(task.test, "").images)
        assert outputs.match.flatten().tolist() == [domain] * 12
        assert (outputs.scores > REFUSED).sum(dim=1).tolist() == [2] * 12


@pytest.mark.parametrize("wrong", [{"border": 0}, {"border": 112}, {"centroids": 0}])
def test_sizes_that_leave_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(MethodError, match="Use 30 and 5"):
        InputTuningConfig(**wrong)

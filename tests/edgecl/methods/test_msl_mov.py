"""MSL+Mov: a metric per class, and a teacher that moves; all but the idea as decided here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.edgecl.support import NOTHING, bank
from torch import Tensor

from edgecl.backbones import Features
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods.batch import Batch, no_batch
from edgecl.methods.msl_mov import TEACHER, MovingTeacher, whitening
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.metric import ClassMetrics
from edgecl.program.learned import Tensors
from edgecl.session import learn_task
from edgecl.streams import ImageSet, Stream, Task

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def so_far(stream: Stream, task: Task) -> list[ImageSet]:
    return [each.test for each in stream.tasks[: stream.tasks.index(task) + 1]]


def test_every_class_has_a_metric_of_its_own() -> None:
    features, metric, centre = bank(4, 5), bank(3, 2, 5, seed=1), bank(3, 5, seed=2)
    learned = {"metric": metric, "centre": centre, "class_bias": bank(3, seed=3)}
    encoded = Encoded(None, NOTHING, Features(features, features))
    found = ClassMetrics(5, 2).scores(encoded, learned)
    for row, feature in enumerate(features):
        for label in range(3):
            away = feature - centre[label]
            squared = away @ metric[label].T @ metric[label] @ away
            want = learned["class_bias"][label] - squared
            torch.testing.assert_close(found[row, label], want)


def test_a_metric_starts_as_the_spread_of_the_features() -> None:
    scales = torch.tensor([3.0, 2, 1, 0.5, 0.2, 0.1]).double()
    features = 5 + scales * bank(400, 6)
    metric = whitening(features.float(), 4).double()
    variances, directions = torch.linalg.eigh(torch.cov(features.T, correction=0))
    found = metric @ directions.flip(1)
    want = (variances + variances.mean()).rsqrt().flip(0)[:4]
    torch.testing.assert_close(found.abs(), torch.eye(6)[:4] * want[:, None], atol=1e-4, rtol=0)
    assert whitening(features[:1].float(), 4).isfinite().all(), "one image has no spread"


def test_the_teacher_is_the_moving_average_of_the_model() -> None:
    steps = bank(3, 4)
    teacher = {TEACHER + "a": torch.ones(4).double(), "other": torch.ones(4)}
    average = MovingTeacher(teacher, share=0.25)
    want = torch.ones(4).double()
    for step in steps:
        average.update({"a": step})
        want = 0.75 * want + 0.25 * step
    torch.testing.assert_close(teacher[TEACHER + "a"], want)
    assert torch.equal(teacher["other"], torch.ones(4))


def test_a_batch_runs_once_more_under_other_tensors(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    config = {"decay": 0.0, "schedule": {"epochs": 3, "batch_size": 4, "lr": 0.01}}
    learner = make_learner("msl-mov", stream, config=config)
    plain, seen = type(learner.method).loss, []

    def loss(self: Any, batch: Batch, learned: Tensors) -> Tensor:
        lora = self.lora.declare()
        again = batch.encode({name: learned[name] for name in lora}).features("injected").cls
        own = batch.encoded.features("injected").cls
        assert not again.requires_grad
        torch.testing.assert_close(again, own.detach())
        if TEACHER + "lora_k_a" in batch.constants:  # without decay it is the model before a step
            seen.append(batch.constants[TEACHER + "lora_v_b"].clone())
            assert torch.equal(seen[-1], learned["lora_v_b"])
        return plain(self, batch, learned)

    monkeypatch.setattr(type(learner.method), "loss", loss)
    for task in stream.tasks:
        learn_task(learner, task, stream.classes, so_far(stream, task))
    assert len(seen) == 6
    assert not torch.equal(seen[0], seen[-1])
    with pytest.raises(MethodError, match="in a training only"):
        no_batch({})


def test_the_former_rows_are_held_to_the_teacher(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """The softmax over the former rows moves less, on the images that the task trains on."""
    stream = make_stream(((0, 1, 2), (3, 4)))
    moved = []
    for distil in (0.0, 100.0):
        config = {"distil": distil, "schedule": {"epochs": 6, "batch_size": 4, "lr": 0.002}}
        learner = make_learner("msl-mov", stream, out=str(distil), config=config)
        images = learner.load(stream.tasks[1].train, "").images
        found = []
        for task in stream.tasks:
            learn_task(learner, task, stream.classes, so_far(stream, task))
            found.append(learner.predict(images).scores[:, :3].softmax(dim=1))
        moved.append((found[1] - found[0]).abs().mean().item())
        assert learner.learned()["metric"].shape == (5, 16, 192)
    assert moved[1] < moved[0] / 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "msl-mov.rank must be at least 1, got 0. Raise it"),
        ({"decay": 1.5}, "got 1.5 and 2.0. Use 0.999 and 2."),
        ({"metric_rank": 193}, "at most 192, the width of the features, got 193. Lower it."),
    ],
)
def test_a_configuration_that_cannot_be(
    make_learner: MakeLearner, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(MethodError, match=message):
        make_learner("msl-mov", config=wrong)

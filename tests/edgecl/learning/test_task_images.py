"""The images of a task: encoded in batches whose size changes nothing, with those remembered."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from edgecl.learning import task_images
from edgecl.learning.exemplars import Memory
from edgecl.learning.learner import Learner
from edgecl.learning.task_images import TaskImages
from edgecl.program.classifiers import Encoded
from edgecl.program.learned import Tensors
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def images_of(learner: Learner, stream: Stream) -> TaskImages:
    batch = learner.load(stream.tasks[0].train, "")
    return TaskImages(batch.images, torch.tensor(batch.labels), batch.skipped, learner.encoder)


def both(encoded: Encoded, learned: Tensors) -> Tensors:
    """Collect the features of both passes, and how often the head was handed over."""
    rows = len(encoded.features("injected").cls)
    return {
        "injected": encoded.features("injected").cls,
        "plain": encoded.features("plain").cls,
        "head": learned["head_weight"].sum().expand(rows),
    }


def test_images_are_encoded_in_batches_of_any_size(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(train=5)
    learner = make_learner("l2p", stream)
    learn_stream(learner, stream)
    images, learned = images_of(learner, stream), learner.learned()
    assert len(images) == 10
    found = images.encode(both, learned)
    assert images.plain is not None
    assert torch.equal(found["plain"], images.plain.cls)
    assert torch.equal(found["plain"], images.frozen.cls)
    assert (found["injected"] - found["plain"]).abs().max() > 1e-3
    assert found["head"].tolist() == [learned["head_weight"].sum().item()] * 10
    monkeypatch.setattr(task_images, "BATCH", 3)
    again = images.encode(both, learned)
    torch.testing.assert_close(again["injected"], found["injected"], rtol=0, atol=1e-5)
    assert not any(tensor.requires_grad for tensor in found.values())


def test_a_match_is_that_of_the_task_that_is_learned(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """Images of the first task match the newest entry of the bank, as they do in training."""
    stream = make_stream()
    learner = make_learner("s-prompts", stream)
    learn_stream(learner, stream)
    images, learned = images_of(learner, stream), learner.learned()
    matched = images.encode(lambda encoded, _: {"match": encoded.match.index[:, 0]}, learned)
    assert set(matched["match"].tolist()) == {2}


def test_features_that_a_method_does_not_read_are_computed_when_asked(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("esn", stream)
    images = images_of(learner, stream)
    assert images.plain is None
    assert learner.cache.misses == 0
    with torch.no_grad():
        want = learner.backbone.model(learner.normalise(images.tensor)).cls
    torch.testing.assert_close(images.frozen.cls, want, rtol=0, atol=1e-5)
    assert learner.cache.misses == len(images)


def test_frozen_features_are_taken_from_the_cache_once(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner("simplecil")
    images = images_of(learner, make_stream())
    assert images.plain is images.frozen is images.plain
    assert (learner.cache.hits, learner.cache.misses) == (0, len(images))


def test_remembered_images_follow_with_labels_below_zero(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    learner = make_learner("simplecil")
    images = images_of(learner, make_stream(((0, 1),), train=2))
    assert images.with_memory(None, 4) is images
    remembered: Tensor = torch.zeros(3, 32, 32, 3, dtype=torch.uint8)
    more = images.with_memory(Memory(remembered, torch.tensor([0, 1, 3])), 4)
    assert more.labels.tolist() == [0, 0, 1, 1, -4, -3, -1]
    assert np.array_equal(more.images[:4], images.images)
    assert not more.images[4:].any()
    assert more.plain is not None
    assert len(more.plain.cls) == 7
    assert images.plain is not None
    assert torch.equal(more.plain.cls[:4], images.plain.cls)

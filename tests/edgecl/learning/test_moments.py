"""Second moments of what enters the attention, against the mean by hand."""

from collections.abc import Callable

import pytest
import torch

from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.learning.moments import attention_moments
from edgecl.learning.task_images import BATCH, TaskImages
from edgecl.program.fitting import no_moments
from edgecl.program.learned import join
from edgecl.streams import Stream


def test_they_are_the_mean_over_the_tokens_of_the_images_alone(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream]
) -> None:
    stream = make_stream(((0, 1),), train=BATCH // 2 + 3)
    learner = make_learner("inflora", stream)
    batch = learner.load(stream.tasks[0].train, "")
    images = TaskImages(batch.images, torch.tensor(batch.labels), (), learner.encoder)
    assert BATCH < len(images) < 2 * BATCH, "the last batch is filled up"
    found = attention_moments(images, join(learner.declared, []))
    model = learner.backbone.model
    assert found.dtype == torch.float64
    assert not any(block.attn._forward_pre_hooks for block in model.blocks)
    with torch.no_grad():
        pixels = learner.normalise(images.tensor)
        for index, block in enumerate(model.blocks):
            tokens = block.norm1(model.tokens_before(index, pixels)).flatten(0, 1).double()
            want = tokens.T @ tokens / len(tokens)
            torch.testing.assert_close(found[index], want, rtol=1e-4, atol=1e-4)


def test_there_are_none_without_the_images() -> None:
    with pytest.raises(MethodError, match="at hand in `begin_task` and in `fit` only"):
        no_moments()

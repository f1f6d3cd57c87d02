"""ZSCL: the loss by hand, the reference texts, what it refuses."""

import pytest
import torch
from tests.edgecl.methods.shared.towers import F_WIDTH, SCALE, encoded, factors, method_of, view
from torch.nn import functional as F

from edgecl.backbones import Clip
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.methods.base import Batch
from edgecl.methods.zscl import CAPTIONS


def test_the_loss_of_zscl_by_hand(tiny_clip: Clip) -> None:
    torch.manual_seed(0)
    method = method_of("zscl", tiny_clip)
    start, now = factors(method, 1), factors(method, 2)
    task = view(tiny_clip, index=1, learned=start, state=start)
    constants = method.constants(task)
    text = TextEncoder(tiny_clip)
    references = torch.cat([text.zero_shot(["hue-0", "hue-1"]), text.zero_shot(CAPTIONS, ("{}",))])
    torch.testing.assert_close(constants["references"], references)
    rows, cls = torch.tensor([3, 0, 4]), torch.randn(3, F_WIDTH)
    texts = F.normalize(torch.randn(2, F_WIDTH), dim=-1)
    batch = Batch(encoded(cls), task.labels[rows], 2, constants, rows)
    loss = method.loss(batch, now | {"texts": texts})

    image = F.normalize(cls, dim=-1)
    logs = (SCALE * image @ texts.T).log_softmax(dim=-1)
    smooth = torch.full((3, 2), 0.1).scatter(1, task.labels[rows][:, None], 0.9)
    wanted = -(smooth * logs).sum(dim=1).mean()
    teacher = SCALE * F.normalize(task.features["initial"][rows], dim=-1) @ references.T / 2
    student = SCALE * image @ references.T / 2
    for dim in (0, 1):
        pull = teacher.softmax(dim=dim) * student.log_softmax(dim=dim)
        wanted = wanted - 4 * pull.sum(dim=dim).mean()
    for weight in method.weights:
        products = [each[f"{weight}_a"] @ each[f"{weight}_b"] for each in (now, start)]
        wanted = wanted + (products[0] - products[1]).square().sum()
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize(("references", "count"), [("captions", 48), ("names", 0), ("both", 48)])
def test_the_reference_texts_of_the_first_task(
    references: str, count: int, tiny_clip: Clip
) -> None:
    method = method_of("zscl", tiny_clip, references=references)
    task = view(tiny_clip)
    constants = method.constants(task)
    assert constants["references"].shape == (count, F_WIDTH)
    batch = Batch(encoded(torch.randn(2, F_WIDTH)), task.labels[:2], 2, constants, torch.arange(2))
    texts = {"texts": F.normalize(torch.randn(2, F_WIDTH), dim=-1)}
    assert method.loss(batch, factors(method, 0) | texts).isfinite()

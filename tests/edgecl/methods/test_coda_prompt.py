"""CODA-Prompt: new components start orthogonal, and the loss is over the task's rows."""

import math

import pytest
import torch
from tests.edgecl.support import bank, begun
from torch.nn import functional as F

from edgecl.backbones import Backbone
from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import build_method
from edgecl.methods.base import Batch
from edgecl.methods.coda_prompt import orthogonal_rows
from edgecl.program.classifiers import Encoded

D, TASKS, ROWS = 192, 3, 4


def place(depth: int = 12, width: int = D) -> BackboneSpec:
    return BackboneSpec(width, depth, frozenset({"prefix"}), "0" * 64)


# -- the mixture of CODA-Prompt


@pytest.mark.parametrize(("old", "new"), [(0, 3), (4, 3), (5, 3)])
def test_new_rows_start_orthogonal(old: int, new: int) -> None:
    former = bank(old, 8).float()
    rows = orthogonal_rows(bank(new, 8, seed=1).float(), former)
    torch.testing.assert_close(rows @ rows.T, torch.eye(new), rtol=0, atol=1e-6)
    assert (rows @ former.T).abs().sum().item() < 1e-4


def test_rows_beyond_the_width_keep_their_direction() -> None:
    fresh = bank(3, 4).float()
    rows = orthogonal_rows(fresh, bank(3, 4, seed=1).float())
    assert rows.isfinite().all()
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(rows[1:], F.normalize(fresh[1:], dim=1))


def test_coda_starts_new_components_orthogonal_to_old_ones_at_every_block() -> None:
    method = build_method("coda-prompt", place(depth=3, width=16), {"components": 4})
    learned, part = begun(method, tasks=2)
    for name in ("components", "component_keys", "component_attention"):
        assert len(part[name]) == 4
        assert len(learned[name]) == 8
        for rows in learned[name].flatten(2).unbind(1):
            torch.testing.assert_close(rows @ rows.T, torch.eye(8), rtol=0, atol=1e-5)


# -- the methods


@pytest.mark.parametrize(("depth", "blocks"), [(12, 5), (2, 2)])
def test_coda_takes_the_first_blocks(depth: int, blocks: int) -> None:
    declared = build_method("coda-prompt", place(depth)).program.declare()
    assert declared["components"].shape(2) == (10, blocks, 2, 4, D)
    assert declared["component_keys"].shape(2) == (10, blocks, D)


def test_the_loss_of_coda_is_over_the_rows_of_the_task(tiny_backbone: Backbone) -> None:
    method = build_method("coda-prompt", BackboneSpec.of(tiny_backbone))
    learned, _ = begun(method, tasks=2)
    encoded = method.program.encode(
        tiny_backbone.model, bank(2, 3, 32, 32).float(), learned, training=True
    )
    assert isinstance(encoded, Encoded)
    loss = method.loss(Batch(encoded, torch.tensor([1, 0]), 2), learned)
    log = method.program.classifier.scores(encoded, learned)[:, 2:].log_softmax(dim=1)
    assert loss.item() == pytest.approx(-(log[0, 1] + log[1, 0]).item() / 2, rel=1e-5)
    assert math.isfinite(loss.item())

"""DualPrompt: where its prefixes enter, what a task starts from, the loss by hand."""

import pytest
import torch
from tests.edgecl.support import bank, begun, view
from torch.nn import functional as F

from edgecl.backbones import Backbone
from edgecl.backbones.sites import Prefix
from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import build_method
from edgecl.methods.base import Batch
from edgecl.program.fitting import continued
from edgecl.program.matchers import Match

D, TASKS, ROWS = 192, 3, 4


def matched(*tasks: int) -> Match:
    index = torch.tensor(tasks)[:, None]
    return Match(index, torch.ones(len(tasks), 1))


def place(depth: int = 12, width: int = D) -> BackboneSpec:
    return BackboneSpec(width, depth, frozenset({"prefix"}), "0" * 64)


@pytest.mark.parametrize(
    ("depth", "shared", "own"),
    [(12, [0, 1], [2, 3, 4]), (4, [0, 1], [2, 3]), (2, [0], [1]), (1, [], [0])],
)
def test_dualprompt_fits_its_prefixes_into_the_depth(
    depth: int, shared: list[int], own: list[int]
) -> None:
    method = build_method("dualprompt", place(depth))
    learned = {name: torch.zeros(item.shape(2)) for name, item in method.program.declare().items()}
    sites = method.program.injector.sites(method.program.injector.fill(matched(0), learned))
    blocks = {site.block: site.keys.ndim for site in sites if isinstance(site, Prefix)}
    assert blocks == {**dict.fromkeys(shared, 2), **dict.fromkeys(own, 3)}


def test_dualprompt_goes_on_from_the_former_task() -> None:
    method = build_method("dualprompt", place())
    learned, part = begun(method, tasks=3)
    for name in ("task_prefixes", "task_keys"):
        assert len(learned[name]) == 3
    assert torch.equal(learned["task_prefixes"][2], learned["task_prefixes"][1])
    keys = F.normalize(learned["task_keys"], dim=-1)
    assert (keys @ keys.T).fill_diagonal_(0).amax() < 0.9  # or the newest is nearest to every image
    assert torch.equal(part["shared_prefix"], learned["shared_prefix"])
    fresh = {"task_prefixes": torch.ones(1, D)}
    assert continued(view(method, 0, 2, {}), fresh, "task_prefixes") is fresh


def test_the_loss_of_dualprompt_by_hand(tiny_backbone: Backbone) -> None:
    """Cross-entropy over the task's rows; the own key is pulled, whatever the nearest one is."""
    method = build_method("dualprompt", BackboneSpec.of(tiny_backbone), {"pull": 0.3})
    learned, _ = begun(method, tasks=2)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in learned.items()}
    pixels = bank(3, 3, 32, 32).float()
    encoded = method.program.encode(tiny_backbone.model, pixels, leaves, training=True)
    assert encoded.match.index.flatten().tolist() == [1, 1, 1]
    labels = torch.tensor([0, 1, 1])
    loss = method.loss(Batch(encoded, labels, 2), leaves)
    scores = method.program.classifier.scores(encoded, leaves)
    log = scores[:, 2:].log_softmax(dim=1)
    cross_entropy = -sum(log[row, label] for row, label in enumerate(labels.tolist())) / 3
    plain = encoded.features("plain").cls
    pull = sum(F.cosine_similarity(q, leaves["task_keys"][1], dim=0) for q in plain) / 3
    torch.testing.assert_close(loss, cross_entropy - 0.3 * pull)
    loss.backward()
    for name in ("task_prefixes", "task_keys", "head_weight"):
        grad = leaves[name].grad
        assert grad is not None
        rows = len(grad) // 2
        assert grad[:rows].abs().max() == 0, f"{name} of the former task"
        assert grad[rows:].abs().max() > 0
    assert leaves["shared_prefix"].grad is not None
    assert leaves["shared_prefix"].grad.abs().max() > 0

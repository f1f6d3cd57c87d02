"""The change of every weight as a product of a small rank."""

import copy
from itertools import pairwise

import pytest
import torch
from tests.edgecl.support import images, noise, same, through
from torch import Tensor

from edgecl.backbones import Backbone, ViT
from edgecl.program.injectors import LowRankChange
from edgecl.program.injectors.low_rank import TARGETS, truncated_svd
from edgecl.program.learned import Tensors

D, HIDDEN, DEPTH = 192, 768, 2


def changed(model: ViT, change: Tensors) -> ViT:
    """Return the backbone with weights changed by a b."""
    model = copy.deepcopy(model)
    for block, each in enumerate(model.blocks):
        a_b = {
            target: (change[f"{target}_a"][block] @ change[f"{target}_b"][block]).T
            for target in TARGETS
        }
        with torch.no_grad():
            each.attn.qkv.weight += torch.cat([a_b["q"], a_b["k"], a_b["v"]])
            each.attn.proj.weight += a_b["proj"]
            each.mlp.fc1.weight += a_b["fc1"]
            each.mlp.fc2.weight += a_b["fc2"]
    return model


def product(tensors: Tensors, target: str) -> Tensor:
    return tensors[f"{target}_a"].double() @ tensors[f"{target}_b"].double()


def whole_change(seed: int = 5) -> Tensors:
    """Return a change without a bound on the rank, as training leaves it."""
    torch.manual_seed(seed)
    injector = LowRankChange(D, HIDDEN, DEPTH, rank=4)
    declared = injector.declare()
    return {
        name: 0.02 * torch.randn_like(tensor) if declared[name].trained else tensor
        for name, tensor in injector.whole().items()
    }


def test_the_low_rank_change_is_what_changed_weights_make(tiny_backbone: Backbone) -> None:
    change = noise(LowRankChange(D, HIDDEN, DEPTH, rank=4), scale=0.1)
    with torch.no_grad():
        want = changed(tiny_backbone.model, change)(images())
        plain = tiny_backbone.model(images())
    assert (want.cls - plain.cls).abs().max() > 0.1
    found = through(tiny_backbone, LowRankChange(D, HIDDEN, DEPTH, rank=4), change, images())
    same(found, want, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_s_gradient_is_that_of_the_weight(
    tiny_backbone: Backbone, target: str
) -> None:
    """At the start, the whole change trains as the weight itself would."""
    injector = LowRankChange(D, HIDDEN, DEPTH, rank=4)
    name = f"{target}_{'a' if target == 'fc2' else 'b'}"
    whole = injector.whole()
    whole[name].requires_grad_()
    tiny_backbone.model(images(), injector.sites(whole)).cls.square().sum().backward()
    model = copy.deepcopy(tiny_backbone.model).requires_grad_()
    model(images()).cls.square().sum().backward()
    block = model.blocks[1]
    weights = {**dict(zip("qkv", block.attn.qkv.weight.grad.chunk(3), strict=True))}
    weights |= {"proj": block.attn.proj.weight.grad}
    weights |= {"fc1": block.mlp.fc1.weight.grad, "fc2": block.mlp.fc2.weight.grad}
    want = weights[target].T
    torch.testing.assert_close(whole[name].grad[1], want, rtol=1e-3, atol=1e-3 * want.abs().max())


def test_no_change_is_the_plain_backbone(tiny_backbone: Backbone) -> None:
    injector = LowRankChange(D, HIDDEN, DEPTH, rank=4)
    with torch.no_grad():
        plain = tiny_backbone.model(images())
    for change in (injector.whole(), injector.cut(injector.whole())):
        same(through(tiny_backbone, injector, change, images()), plain, atol=1e-6)


def test_the_full_rank_is_exact_and_the_error_falls_with_the_rank(tiny_backbone: Backbone) -> None:
    change = whole_change()
    with torch.no_grad():
        want = changed(tiny_backbone.model, change)(images()).cls
    errors: dict[int, list[float]] = {}
    for rank in (1, 4, 16, 64, 128, D):
        injector = LowRankChange(D, HIDDEN, DEPTH, rank)
        cut = injector.cut(change)
        declared = injector.declare()
        assert {n: t.shape for n, t in cut.items()} == {n: i.shape(1) for n, i in declared.items()}
        assert {t.dtype for t in cut.values()} == {torch.float32}
        lost = [(product(cut, each) - product(change, each)).norm().item() for each in TARGETS]
        feature = through(tiny_backbone, injector, cut, images()).cls
        errors[rank] = [*lost, (feature - want).norm().item() / want.norm().item()]
    for fewer, more in pairwise(errors):
        assert all(a > b for a, b in zip(errors[fewer][:-1], errors[more][:-1], strict=True))
    assert errors[1][-1] > 0.1
    assert max(errors[D][:-1]) < 1e-5
    assert errors[D][-1] < 1e-5


def test_the_cut_is_the_best_of_its_rank() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 12, 5), torch.randn(2, 5, 7)
    left, right = truncated_svd(a, b, 3)
    assert left.shape == (2, 12, 3)
    assert right.shape == (2, 3, 7)
    lost = (a @ b - left @ right).norm(dim=(1, 2))
    tail = torch.linalg.svdvals(a @ b)[:, 3:].norm(dim=1)  # Eckart and Young, 1936
    torch.testing.assert_close(lost, tail, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(left.norm(dim=1), right.norm(dim=2))
    for mine, theirs in zip(truncated_svd(a, b, 7), (left, right), strict=True):
        assert mine.shape != theirs.shape
    torch.testing.assert_close(torch.matmul(*truncated_svd(a, b, 7)), a @ b, atol=1e-5, rtol=0)

"""VPT, SSF and the low-rank change: the injectors, and the methods that carry them."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features, ViT, ViTConfig
from edgecl.backbones.sites import ScaleShift, Tokens
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import Method, build_method, methods
from edgecl.methods.base import Batch
from edgecl.methods.shared.two_branches import TwoBranches
from edgecl.program.classifiers import Encoded
from edgecl.program.injectors import Injector, LowRankChange, ScaleShiftStack, SharedPrompts
from edgecl.program.injectors.low_rank import TARGETS, truncated_svd
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match
from edgecl.session import learn_stream

D, HIDDEN, DEPTH = 192, 768, 2
NOTHING = Match(torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, 0))
APER = sorted(name for name, method in methods().items() if issubclass(method, TwoBranches))
VPT = ("vpt-shallow", "vpt-deep")
MakeLearner = Callable[..., Learner]


def started(injector: Injector, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: item.init(item.shape(2), generator) for name, item in injector.declare().items()}


def noise(injector: Injector, scale: float = 0.3) -> Tensors:
    torch.manual_seed(3)
    return {name: scale * torch.randn(item.shape(2)) for name, item in injector.declare().items()}


def through(backbone: Backbone, injector: Injector, learned: Tensors, pixels: Tensor) -> Features:
    sites = injector.sites(injector.fill(NOTHING, learned))
    with torch.no_grad():
        return backbone.model(pixels, sites)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def same(left: Features, right: Features, atol: float) -> None:
    torch.testing.assert_close(left.cls, right.cls, rtol=0, atol=atol)


# -- prompts


@pytest.mark.parametrize("depth", [None, DEPTH])
def test_shared_prompts_are_tokens_behind_cls(tiny_backbone: Backbone, depth: int | None) -> None:
    injector = SharedPrompts(D, 5, depth)
    learned = started(injector)
    assert learned["prompts"].shape == ((5, D) if depth is None else (2, 5, D))
    rows = [learned["prompts"]] if depth is None else list(learned["prompts"])
    by_hand = tuple(
        Tokens(each, block, keep=depth is None, positioned=False) for block, each in enumerate(rows)
    )
    found = through(tiny_backbone, injector, learned, images())
    with torch.no_grad():
        same(found, tiny_backbone.model(images(), by_hand), atol=0)
        assert (found.cls - tiny_backbone.model(images()).cls).abs().max() > 1e-3


@pytest.mark.parametrize("depth", [None, DEPTH])
def test_prompts_start_uniform_and_no_two_rows_are_equal(depth: int | None) -> None:
    prompts = started(SharedPrompts(768, 50, depth))["prompts"]
    bound = (6 / 1536) ** 0.5
    assert prompts.abs().max() <= bound
    assert prompts.abs().max() > 0.99 * bound
    rows = prompts.reshape(-1, 768)
    assert len(rows.unique(dim=0)) == len(rows)


@pytest.mark.parametrize("depth", [None, DEPTH])
@pytest.mark.parametrize("padding", [1, 4])
def test_padded_and_masked_rows_leave_no_trace(
    tiny_backbone: Backbone, depth: int | None, padding: int
) -> None:
    injector = SharedPrompts(D, 3, depth)
    prompts = started(injector)["prompts"]
    mask = torch.cat([torch.zeros(3), torch.full((padding,), -1e9)])
    filled = F.pad(prompts, (0, 0, 0, padding))
    with torch.no_grad():
        found = tiny_backbone.model(
            images(), injector.sites({"prompts": filled, "prompts_mask": mask})
        )
    same(found, through(tiny_backbone, injector, {"prompts": prompts}, images()), atol=1e-5)


def test_the_order_of_the_rows_does_not_matter(tiny_backbone: Backbone) -> None:
    for depth in (None, DEPTH):
        injector = SharedPrompts(D, 4, depth)
        prompts = started(injector)["prompts"]
        one = through(tiny_backbone, injector, {"prompts": prompts}, images())
        other = through(tiny_backbone, injector, {"prompts": prompts.flip(-2)}, images())
        same(one, other, atol=1e-5)


# -- scales and shifts


def test_ssf_starts_as_the_plain_backbone(tiny_backbone: Backbone) -> None:
    injector = ScaleShiftStack(D, HIDDEN, DEPTH)
    with torch.no_grad():
        plain = tiny_backbone.model(images())
    same(through(tiny_backbone, injector, started(injector), images()), plain, atol=1e-6)


def test_ssf_is_at_every_point_with_its_width() -> None:
    injector = ScaleShiftStack(D, HIDDEN, DEPTH)
    widths = {
        "patch": D, "norm1": D, "qkv": 3 * D, "proj": D,
        "norm2": D, "fc1": HIDDEN, "fc2": D, "norm": D,
    }  # fmt: skip
    learned = noise(injector)
    items = injector.sites(injector.fill(NOTHING, learned))
    found = {}
    for item in items:
        assert isinstance(item, ScaleShift)
        assert item.scale.shape == item.shift.shape == (widths[item.point],)
        found.setdefault(item.point, []).append(item.block)
    assert found.pop("patch") == found.pop("norm") == [None]
    assert set(found) == widths.keys() - {"patch", "norm"}
    assert all(blocks == [0, 1] for blocks in found.values())
    # 16,896 values per block of a ViT-B and 3,072 outside (Lian et al., section 3.3).
    big = ScaleShiftStack(768, 3072, 12).declare()
    assert sum(int(np.prod(item.shape(1))) for item in big.values()) == 12 * 16_896 + 3_072


@pytest.mark.parametrize("point", ["patch", "norm1", "qkv", "proj", "norm2", "fc1", "fc2", "norm"])
def test_every_point_of_ssf_is_heard(tiny_backbone: Backbone, point: str) -> None:
    injector = ScaleShiftStack(D, HIDDEN, DEPTH)
    learned = started(injector)
    for row in (0, 1):
        moved = {**learned, f"ssf_{point}": learned[f"ssf_{point}"].clone()}
        moved[f"ssf_{point}"].select(-2, row).copy_(noise(injector)[f"ssf_{point}"].select(-2, row))
        found = through(tiny_backbone, injector, moved, images()).cls
        plain = through(tiny_backbone, injector, learned, images()).cls
        assert (found - plain).abs().max() > 1e-4


def test_ssf_is_what_folding_into_the_weights_makes(tiny_backbone: Backbone) -> None:
    """Equation 3 and the re-parameterisation of section 3.3."""
    injector = ScaleShiftStack(D, HIDDEN, DEPTH)
    learned = noise(injector)
    model = copy.deepcopy(tiny_backbone.model)
    with torch.no_grad():
        layers = [("patch", model.patch_embed.proj, None), ("norm", model.norm, None)]
        for block, each in enumerate(model.blocks):
            layers += [
                ("norm1", each.norm1, block), ("qkv", each.attn.qkv, block),
                ("proj", each.attn.proj, block), ("norm2", each.norm2, block),
                ("fc1", each.mlp.fc1, block), ("fc2", each.mlp.fc2, block),
            ]  # fmt: skip
        for point, layer, block in layers:
            rows = learned[f"ssf_{point}"] if block is None else learned[f"ssf_{point}"][block]
            scale, shift = 1 + rows[0], rows[1]
            layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
            layer.bias.copy_(layer.bias * scale + shift)
        want = model(images())
    same(through(tiny_backbone, injector, learned, images()), want, atol=1e-4)


# -- the change of the weights


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


# -- the methods


def built(backbone: Backbone, name: str, **config: Any) -> Method:
    return build_method(name, BackboneSpec.of(backbone), config)


def test_there_are_five_branches() -> None:
    assert APER == [
        "aper-adapter", "aper-finetune", "aper-ssf", "aper-vpt-deep", "aper-vpt-shallow",
    ]  # fmt: skip


@pytest.mark.parametrize("name", APER)
def test_the_features_of_two_passes_stand_side_by_side_and_raw(
    tiny_backbone: Backbone, name: str
) -> None:
    method = built(tiny_backbone, name)
    assert method.program.passes == ("plain", "injected")
    torch.manual_seed(0)
    plain, adapted = torch.randn(3, D), 50 * torch.randn(3, D)
    encoded = Encoded(Features(plain, plain * 0), NOTHING, Features(adapted, adapted * 0))
    feature = method.program.classifier.feature(encoded)
    assert torch.equal(feature, torch.cat([plain, adapted], dim=1))
    # A branch of larger norm decides: the cosine is that of the raw concatenation (trap T11).
    prototypes = torch.randn(4, 2, D)
    scores = method.program.classifier.scores(encoded, {"prototypes": prototypes})
    torch.testing.assert_close(
        scores, F.cosine_similarity(feature[:, None], prototypes.flatten(1)[None], dim=-1)
    )


@pytest.mark.parametrize("name", APER)
def test_a_branch_is_learned_once_and_never_ships_again(
    make_learner: MakeLearner, make_stream: Callable[..., Any], name: str
) -> None:
    stream = make_stream(train=3)
    learner = make_learner(name, stream)
    learn_stream(learner, stream)
    injected = learner.method.program.injector.declare().keys()
    first, *later = learner.run.parts()
    assert injected < first.keys()
    assert all(part.keys() == {"prototypes"} for part in later)
    # The means are of the features that the device will make.
    images = learner.load(stream.tasks[0].train, "").images
    feature = learner.predict(images).feature
    labels = torch.tensor(stream.tasks[0].train.labels)
    means = torch.stack([feature[labels == row].mean(dim=0) for row in (0, 1)])
    torch.testing.assert_close(first["prototypes"].flatten(1), means, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", VPT)
def test_a_prompt_is_learned_once_and_later_tasks_add_rows(
    make_learner: MakeLearner, make_stream: Callable[..., Any], name: str
) -> None:
    stream = make_stream(train=3)
    learner = make_learner(name, stream)
    learn_stream(learner, stream)
    first, *later = learner.run.parts()
    assert first.keys() == {"prompts", "head_weight", "head_bias"}
    assert all(part.keys() == {"head_weight", "head_bias"} for part in later)
    assert all(part["head_bias"].abs().max() > 0 for part in later), "the new rows are trained"
    assert torch.equal(learner.learned()["prompts"], first["prompts"])


@pytest.mark.parametrize("name", VPT)
def test_vpt_s_loss_masks_the_rows_of_other_tasks(tiny_backbone: Backbone, name: str) -> None:
    torch.manual_seed(0)
    method = built(tiny_backbone, name)
    learned = {
        "head_weight": torch.randn(6, D, requires_grad=True),
        "head_bias": torch.randn(6, requires_grad=True),
    }
    cls, labels = torch.randn(3, D), torch.tensor([1, 0, 1])
    encoded = Encoded(None, NOTHING, Features(cls, torch.full_like(cls, torch.nan)))
    loss = method.loss(Batch(encoded, labels, classes=2), learned)
    logits = cls @ learned["head_weight"][4:].T + learned["head_bias"][4:]
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    loss.backward()
    for tensor in learned.values():
        assert tensor.grad[:4].abs().max() == 0
        assert tensor.grad[4:].abs().min() > 0


def test_the_cut_is_made_behind_the_training(
    make_learner: MakeLearner, make_stream: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(train=3)
    whole: list[Tensors] = []
    cut = LowRankChange.cut

    def watched(self: LowRankChange, tensors: Tensors) -> Tensors:
        whole.append(tensors)
        return cut(self, tensors)

    monkeypatch.setattr(LowRankChange, "cut", watched)
    learner = make_learner("aper-finetune", stream, config={"rank": 3})
    learn_stream(learner, stream)
    (before,) = whole
    part = learner.run.part(0)
    for target in TARGETS:
        change, short = product(before, target), product(part, target)
        assert torch.linalg.matrix_rank(change[0]) > 3
        assert torch.linalg.matrix_rank(short[0].float(), rtol=1e-5) <= 3
        lost = (change - short).norm() / change.norm()
        assert 0 < lost < 1


@pytest.mark.parametrize("name", ["aper-vpt-shallow", "aper-vpt-deep", *VPT])
def test_a_prompt_needs_a_row(tiny_backbone: Backbone, name: str) -> None:
    with pytest.raises(MethodError, match=r"vpt\.length must be at least 1, got 0\. Raise it"):
        built(tiny_backbone, name, length=0)


@pytest.mark.parametrize(("rank", "action"), [(0, "Raise it"), (D + 1, "192 is exact")])
def test_a_rank_that_is_none(tiny_backbone: Backbone, rank: int, action: str) -> None:
    with pytest.raises(MethodError, match=action):
        built(tiny_backbone, "aper-finetune", rank=rank)


def test_widths_are_those_of_the_stream_and_not_of_the_features() -> None:
    config = ViTConfig(
        image_size=8, patch=4, width=12, depth=2, heads=2, mlp_ratio=3.0, projection=5
    )
    model = ViT(config).eval()
    spec = BackboneSpec(5, 2, ViT.sites, "0" * 64, 12, 36)
    pixels = torch.randn(2, 3, 8, 8)
    for name in (*APER, *VPT):
        rank = {"rank": 4} if name in {"aper-adapter", "aper-finetune"} else {}
        injector = build_method(name, spec, rank).program.injector
        learned = {key: torch.randn(item.shape(2)) for key, item in injector.declare().items()}
        with torch.no_grad():
            found = model(pixels, injector.sites(injector.fill(NOTHING, learned)))
        assert found.cls.shape == (2, 5)
    assert spec.width == 12
    assert spec.mlp == 36
    assert BackboneSpec(8, 1, ViT.sites, "").width == 8
    assert BackboneSpec(8, 1, ViT.sites, "").mlp == 32
    assert BackboneSpec.from_json(spec.to_json()) == spec

"""Prefixes: the layout, the bank, the mixture, and the methods that are made of them."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features, ViT
from edgecl.backbones.blocks import Attention, BlockItems
from edgecl.backbones.sites import Prefix
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import Method, build_method
from edgecl.methods.base import Batch
from edgecl.methods.coda_prompt import orthogonal_rows
from edgecl.methods.hide_prompt import contrast
from edgecl.methods.shared.head_alignment import realigned, with_classes
from edgecl.optim import TrainConfig
from edgecl.program.classifiers import Encoded
from edgecl.program.fitting import TaskContext, continued
from edgecl.program.injectors import Joined, MixedPrefixes, SharedPrefix, TaskPrefixes
from edgecl.program.learned import Tensors, join, start_part, with_part
from edgecl.program.matchers import AttendedKeys, Match, TaskInference, TaskKeys, newest
from edgecl.program.statistics import pseudo_features
from edgecl.session import learn_stream
from edgecl.streams import Stream

D, TASKS, ROWS = 192, 3, 4
Pixels = Callable[[int], Tensor]


@pytest.fixture(scope="module")
def vit(tiny_backbone: Backbone) -> ViT:
    """Return the tiny backbone in float64: then equal means equal."""
    return copy.deepcopy(tiny_backbone.model).double()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bank(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def matched(*tasks: int) -> Match:
    index = torch.tensor(tasks)[:, None]
    return Match(index, torch.ones(len(tasks), 1))


def place(depth: int = 12, width: int = D) -> BackboneSpec:
    return BackboneSpec(width, depth, frozenset({"prefix"}), "0" * 64)


def view(method: Method, index: int, classes: int, learned: Tensors, **more: object) -> TaskContext:
    given = TaskContext(
        index=index,
        classes=classes,
        class_rows=("a",) * (classes * (index + 1)),
        labels=torch.zeros(1, dtype=torch.int64),
        plain=None,
        features={},
        learned=learned,
        state={},
        generator=generator(index),
    )
    return replace(given, **more)  # type: ignore[arg-type]


def begun(method: Method, tasks: int, classes: int = 2) -> tuple[Tensors, Tensors]:
    """Return what all tasks learned, untrained, and the last one's part."""
    declared = method.program.declare()
    learned = join(declared, [])
    part: Tensors = {}
    for index in range(tasks):
        fresh = start_part(declared, learned, classes, generator(index), trained=True)
        part = method.begin_task(view(method, index, classes, learned), fresh)
        learned = with_part(declared, learned, part)
    return learned, part


# -- the layout


def test_a_bank_is_mixed_by_weights_only() -> None:
    with pytest.raises(MethodError, match=r"got one that chooses\. Use AttendedKeys"):
        MixedPrefixes(D, (0,), ROWS).fill(matched(0), {"components": bank(1, 1, 2, ROWS, D)})


def test_every_image_gets_the_keys_and_values_of_its_task_at_every_block() -> None:
    injector = TaskPrefixes(D, (3, 7), ROWS)
    prefixes = bank(TASKS, 2, 2, ROWS, D)
    tasks = (2, 0, 1, 2)
    slots = injector.fill(matched(*tasks), {"task_prefixes": prefixes})
    sites = injector.sites(slots)
    assert [site.block for site in sites] == [3, 7]
    for position, site in enumerate(sites):
        assert isinstance(site, Prefix)
        assert site.mode == "concatenated"
        for image, task in enumerate(tasks):
            assert torch.equal(site.keys[image], prefixes[task, position, 0])
            assert torch.equal(site.values[image], prefixes[task, position, 1])


@pytest.mark.parametrize("mode", ["concatenated", "compensated", "residual"])
def test_a_prefix_does_what_naive_attention_does(mode: str) -> None:
    """One block, one image, one head, one query at a time."""
    torch.manual_seed(0)
    width, heads, tokens, rows = 8, 2, 5, 3
    attention = Attention(width, heads).double()
    x = bank(3, tokens, width, seed=1)
    prefixes = bank(TASKS, 1, 2, rows, width, seed=2)
    injector = TaskPrefixes(width, (0,), rows, mode)  # type: ignore[arg-type]
    tasks = (1, 2, 0)
    sites = injector.sites(injector.fill(matched(*tasks), {"task_prefixes": prefixes}))
    with torch.no_grad():
        got = attention(x, BlockItems(sites, 0), None)
        q, k, v = attention.qkv(x).chunk(3, dim=-1)
        want = torch.zeros(3, tokens, width, dtype=torch.float64)
        half = width // heads
        for image, task in enumerate(tasks):
            for head in range(heads):
                cut = slice(head * half, (head + 1) * half)
                learned_k, learned_v = (prefixes[task, 0, s][:, cut] for s in (0, 1))
                for token in range(tokens):
                    query = q[image, token, cut] / half**0.5
                    own = (k[image][:, cut] @ query).exp()
                    extra = (learned_k @ query).exp()
                    over_tokens = own @ v[image][:, cut]
                    over_prefix = extra @ learned_v
                    mass = own.sum() + extra.sum()
                    want[image, token, cut] = {
                        "concatenated": (over_tokens + over_prefix) / mass,
                        "compensated": over_tokens / mass + over_prefix / extra.sum(),
                        "residual": over_tokens / own.sum() + over_prefix / extra.sum(),
                    }[mode]
        torch.testing.assert_close(got, attention.proj(want), rtol=0, atol=1e-12)


def test_no_image_gets_a_prefix_of_another(vit: ViT) -> None:
    """Ports that reshape without a permutation fail here: images and kinds would mix."""
    injector = TaskPrefixes(D, (0, 1), ROWS)
    learned = {"task_prefixes": bank(TASKS, 2, 2, ROWS, D)}
    pixels, tasks = bank(4, 3, 32, 32, seed=3), (2, 0, 1, 1)
    with torch.no_grad():
        sites = injector.sites(injector.fill(matched(*tasks), learned))
        together = vit(pixels, sites)
        for image, task in enumerate(tasks):
            alone = injector.sites(injector.fill(matched(task), learned))
            single = vit(pixels[image : image + 1], alone)
            torch.testing.assert_close(single.cls[0], together.cls[image], rtol=0, atol=1e-10)
        other = injector.sites(injector.fill(matched(2, 0, 2, 1), learned))
        moved = (vit(pixels, other).cls - together.cls).abs().amax(dim=1) > 1e-3
        assert moved.tolist() == [False, False, True, False]


@pytest.mark.parametrize("mode", ["concatenated", "compensated"])
def test_masked_padding_leaves_no_trace(vit: ViT, mode: str) -> None:
    injector = TaskPrefixes(D, (1,), ROWS, mode)  # type: ignore[arg-type]
    pixels, rows = bank(2, 3, 32, 32), bank(2, 1, 2, 2, D, seed=4)
    padded = {
        "prefix": torch.cat([rows, torch.zeros(2, 1, 2, 2, D)], dim=3),
        "prefix_mask": torch.tensor([0, 0, -1e9, -1e9], dtype=torch.float64),
    }
    with torch.no_grad():
        short = vit(pixels, injector.sites({"prefix": rows})).cls
        assert (short - vit(pixels).cls).abs().max() > 1e-3
        torch.testing.assert_close(
            vit(pixels, injector.sites(padded)).cls, short, rtol=0, atol=1e-10
        )


def test_a_shared_prefix_is_one_for_all_images_and_joins_another(vit: ViT) -> None:
    shared, own = SharedPrefix(D, (0,), 3), TaskPrefixes(D, (1,), ROWS)
    both = Joined((shared, own))
    learned = {
        "shared_prefix": bank(1, 2, 3, D),
        "task_prefixes": bank(TASKS, 1, 2, ROWS, D, seed=1),
    }
    assert both.site == "prefix"
    assert both.declare().keys() == learned.keys()
    assert {name: slot.source for name, slot in both.slots().items()} == {
        "shared_prefix": "learned",
        "prefix": "match",
    }
    sites = both.sites(both.fill(matched(0, 2), learned))
    assert [(site.block, site.keys.shape) for site in sites if isinstance(site, Prefix)] == [
        (0, (3, D)),
        (1, (2, ROWS, D)),
    ]
    for slot in both.slots().values():
        assert slot.masked
    pixels = bank(2, 3, 32, 32)
    with torch.no_grad():
        each = [vit(pixels, (site,)).cls for site in sites]
        assert ((vit(pixels, sites).cls - each[0]).abs().max()) > 1e-3
        assert ((vit(pixels, sites).cls - each[1]).abs().max()) > 1e-3


# -- task keys


def test_the_nearest_task_key_is_matched_and_the_own_one_in_training() -> None:
    keys = bank(TASKS, 8).float()
    query = bank(5, 8, seed=1).float()
    matcher = TaskKeys(8)
    match, own = matcher(query, {"task_keys": keys}), matcher.own(query, {"task_keys": keys})
    for row in range(5):
        cosine = [F.cosine_similarity(query[row], key, dim=0).item() for key in keys]
        assert match.index[row].item() == max(range(TASKS), key=cosine.__getitem__)
        assert match.score[row].item() == pytest.approx(max(cosine), abs=1e-6)
        assert own.index[row].item() == TASKS - 1
        assert own.score[row].item() == pytest.approx(cosine[-1], abs=1e-6)
    assert newest(query, 7).index.flatten().tolist() == [6] * 5


# -- the mixture of CODA-Prompt


def test_weights_are_the_cosines_of_the_attended_query() -> None:
    blocks, count, width = 2, 5, 8
    keys, attention = bank(count, blocks, width), bank(count, blocks, width, seed=1)
    query = bank(3, width, seed=2)
    learned = {"component_keys": keys, "component_attention": attention}
    match = AttendedKeys(width, blocks, count)(query, learned)
    assert match.weights is not None
    for image in range(3):
        sums = torch.zeros(count, dtype=torch.float64)
        for component in range(count):
            for block in range(blocks):
                want = F.cosine_similarity(
                    query[image] * attention[component, block], keys[component, block], dim=0
                )
                got = match.weights[image, block, component]
                torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
                sums[component] += want
        assert match.index[image].tolist() == [int(sums.argmax())]
        torch.testing.assert_close(match.score[image, 0], sums.max())
    assert match.weights.min() < 0, "weights may be negative"


def test_a_query_of_zeros_has_no_weight_and_no_nan() -> None:
    learned = {
        name: bank(4, 1, 8).float().requires_grad_()
        for name in ("component_keys", "component_attention")
    }
    match = AttendedKeys(8, 1, 4)(torch.zeros(1, 8), learned)
    assert match.weights is not None
    assert match.weights.abs().max() == 0
    match.weights.sum().backward()
    for tensor in learned.values():
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_the_mixture_by_hand() -> None:
    """Two components, two blocks, one row of keys and one of values of width 2."""
    components = torch.tensor([
        [[[[1.0, 2.0]], [[3.0, 4.0]]], [[[5.0, 6.0]], [[7.0, 8.0]]]],
        [[[[10.0, 20.0]], [[30.0, 40.0]]], [[[50.0, 60.0]], [[70.0, 80.0]]]],
    ])  # m l s p d
    weights = torch.tensor([[[1.0, 0.1], [0.0, -1.0]], [[0.0, 0.0], [2.0, 0.0]]])  # b l m
    injector = MixedPrefixes(2, (0, 1), 1, components=2)
    match = Match(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1), weights)
    first, second = injector.sites(injector.fill(match, {"components": components}))
    assert isinstance(first, Prefix)
    assert isinstance(second, Prefix)
    torch.testing.assert_close(first.keys, torch.tensor([[[2.0, 4.0]], [[0.0, 0.0]]]))
    torch.testing.assert_close(first.values, torch.tensor([[[6.0, 8.0]], [[0.0, 0.0]]]))
    torch.testing.assert_close(second.keys, torch.tensor([[[-50.0, -60.0]], [[10.0, 12.0]]]))
    torch.testing.assert_close(second.values, torch.tensor([[[-70.0, -80.0]], [[14.0, 16.0]]]))


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


@pytest.mark.parametrize(("depth", "blocks"), [(12, 5), (2, 2)])
def test_coda_takes_the_first_blocks(depth: int, blocks: int) -> None:
    declared = build_method("coda-prompt", place(depth)).program.declare()
    assert declared["components"].shape(2) == (10, blocks, 2, 4, D)
    assert declared["component_keys"].shape(2) == (10, blocks, D)


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


@pytest.mark.parametrize(
    ("name", "config", "action"),
    [
        ("dualprompt", {"task_length": 0}, "Raise it"),
        ("dualprompt", {"shared_blocks": -1}, "Raise it"),
        ("coda-prompt", {"rows": 7}, "Use 8"),
        ("coda-prompt", {"rows": 0}, "Use 2"),
        ("coda-prompt", {"components": 0}, "Raise it"),
        ("hide-prompt", {"length": 0}, "Raise it"),
        ("hide-prompt", {"ensemble": 2}, "Change it"),
    ],
)
def test_a_refused_config_says_what_to_do(name: str, config: dict[str, int], action: str) -> None:
    with pytest.raises(MethodError, match=action):
        build_method(name, place(), config)


@pytest.mark.parametrize("name", ["dualprompt", "coda-prompt", "hide-prompt"])
def test_a_backbone_without_attention_is_refused(name: str) -> None:
    with pytest.raises(MethodError, match="Use a ViT"):
        build_method(name, BackboneSpec(D, 0, frozenset(), "0" * 64))


# -- HiDe-Prompt


def inference(width: int = 6, rows: tuple[float, ...] = (2, 1, 3), seed: int = 0) -> Tensors:
    """Return random tensors of a task inference with its table of rows."""
    declared = TaskInference(width, 2 * width).declare()
    given = {
        name: torch.randn(item.shape(int(sum(rows))), generator=generator(seed + offset))
        for offset, (name, item) in enumerate(declared.items())
    }
    return given | {"task_rows": torch.tensor(rows)}


def test_the_owner_of_the_likeliest_class_is_matched() -> None:
    learned, query = inference(), bank(20, 6, seed=1).float()
    matcher = TaskInference(6, 12)
    owners = [0, 0, 1, 2, 2, 2]
    for row, owner in enumerate(owners):
        bias = torch.zeros(6)
        bias[row] = 1e3
        match = matcher(query, learned | {"inference_head_bias": bias})
        assert match.index.flatten().tolist() == [owner] * 20
        assert match.score.min() > 0.99
    match = matcher(query, learned)
    likely = matcher.logits(query, learned).softmax(dim=1)
    assert match.index.flatten().tolist() == [owners[row] for row in likely.argmax(dim=1).tolist()]
    torch.testing.assert_close(match.score[:, 0], likely.amax(dim=1))
    assert len(set(match.index.flatten().tolist())) > 1
    assert matcher.own(query, learned).index.unique().tolist() == [2]


@pytest.mark.parametrize("seed", range(5))
def test_no_table_of_rows_makes_a_match_out_of_range(seed: int) -> None:
    learned = inference() | {"task_rows": 10 * torch.randn(4, generator=generator(seed))}
    match = TaskInference(6, 12)(bank(50, 6, seed=seed).float(), learned)
    assert 0 <= match.index.min() <= match.index.max() < 4


def test_the_inference_head_is_a_residual_mlp_and_a_norm() -> None:
    learned, query = inference(), bank(3, 6, seed=1).float()
    hidden = learned["inference_in"] @ query[0] + learned["inference_in_bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    x = query[0] + learned["inference_out"] @ hidden + learned["inference_out_bias"]
    x = (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()
    want = x * learned["inference_scale"] + learned["inference_shift"]
    torch.testing.assert_close(TaskInference(6, 12).embed(query, learned)[0], want)


def test_pseudo_features_have_the_moments_of_their_class() -> None:
    features = bank(300, 3).float() * torch.tensor([1.0, 2.0, 3.0])
    labels = torch.arange(300) % 2
    features[labels == 1] += 10
    kept = with_classes({}, "feature", features, labels, 2)
    for label in range(2):
        own = features[labels == label]
        torch.testing.assert_close(kept["feature_means"][label], own.mean(dim=0))
        want = own.var(dim=0, unbiased=False) + 1e-4
        torch.testing.assert_close(kept["feature_variances"][label], want)
    drawn, rows = pseudo_features(*kept.values(), 20_000, generator())
    assert torch.bincount(rows).tolist() == [20_000, 20_000]
    for label in range(2):
        own = drawn[rows == label]
        torch.testing.assert_close(own.mean(dim=0), kept["feature_means"][label], rtol=0, atol=0.1)
        spread = kept["feature_variances"][label].sqrt()
        torch.testing.assert_close(own.std(dim=0), spread, rtol=0.05, atol=0)
    grown = with_classes(kept, "feature", features[:3], torch.zeros(3, dtype=torch.int64), 1)
    assert len(grown["feature_means"]) == 3
    assert torch.equal(grown["feature_means"][:2], kept["feature_means"])


def test_one_image_of_a_class_is_enough() -> None:
    kept = with_classes({}, "feature", torch.ones(1, 3), torch.zeros(1, dtype=torch.int64), 1)
    assert pseudo_features(*kept.values(), 4, generator())[0].isfinite().all()


def test_an_aligned_head_forgets_its_bias_to_the_new_classes() -> None:
    means, variances = 3 * torch.eye(4), torch.full((4, 4), 0.1)
    weight, bias = torch.eye(4), torch.tensor([0.0, 0.0, 20.0, 20.0])
    schedule = TrainConfig("sgd", lr=0.1, epochs=60, batch_size=8)
    for through, given in ((None, means), (lambda rows: rows / 2, 2 * means)):
        aligned = realigned(weight, bias, given, variances, schedule, generator(), through)
        assert F.linear(means, *aligned).argmax(dim=1).tolist() == [0, 1, 2, 3]
    assert F.linear(means, weight, bias).argmax(dim=1).tolist() != [0, 1, 2, 3]
    assert weight.grad is None


def hide(tiny_backbone: Backbone, **config: object) -> Method:
    return build_method("hide-prompt", BackboneSpec.of(tiny_backbone), config)


def test_the_contrast_by_hand() -> None:
    features = bank(2, 4).float()
    plain = Features(features, features)
    former = bank(1, 4, seed=1).float()
    batch = Batch(Encoded(plain, newest(features, 1), plain), torch.tensor([0, 1]), 2)
    for constants in ({}, {"feature_means": former}):
        rows = torch.cat([*constants.values(), features])
        want = 0.0
        for one, row in enumerate(rows):
            alike = [(row @ other / 0.8).item() for other in rows]
            want -= (alike[one] - math.log(sum(map(math.exp, alike)))) / len(rows)
        assert contrast(replace(batch, constants=constants)).item() == pytest.approx(want, abs=1e-5)


def test_the_prompt_ensemble_draws_a_prefix_to_the_former_mean(tiny_backbone: Backbone) -> None:
    method = hide(tiny_backbone, ensemble=0.25)
    former = bank(2, 2, 2, 5, D).float()
    part = {"task_prefixes": bank(1, 2, 2, 5, D, seed=1).float()}
    want = 0.75 * part["task_prefixes"][0] + 0.25 * (former[0] + former[1]) / 2
    ended = method.end_task(view(method, 2, 2, {"task_prefixes": former}), part)
    torch.testing.assert_close(ended["task_prefixes"][0], want)
    assert method.end_task(view(method, 0, 2, {}), part) is part


def test_hide_trains_its_own_prefix_and_the_rows_of_the_task(tiny_backbone: Backbone) -> None:
    method = hide(tiny_backbone)
    learned, _ = begun(method, tasks=2)
    assert learned["task_rows"].tolist() == [2, 2]
    assert torch.equal(learned["task_prefixes"][1], learned["task_prefixes"][0])
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in learned.items()}
    encoded = method.program.encode(
        tiny_backbone.model, bank(3, 3, 32, 32).float(), leaves, training=True
    )
    labels = torch.tensor([0, 1, 1])
    loss = method.loss(Batch(encoded, labels, 2), leaves)
    scores = method.program.classifier.scores(encoded, leaves)[:, 2:]
    inferred = TaskInference(D, 2 * D).logits(encoded.features("plain").cls, leaves)[:, 2:]
    want = F.cross_entropy(scores, labels) + F.cross_entropy(inferred, labels)
    torch.testing.assert_close(loss, want + 0.1 * contrast(Batch(encoded, labels, 2)))
    loss.backward()
    for name in ("task_prefixes", "head_weight", "inference_head"):
        grad = leaves[name].grad
        assert grad is not None
        assert grad[: len(grad) // 2].abs().max() == 0, f"{name} of the former task"
        assert grad[len(grad) // 2 :].abs().max() > 0
    assert leaves["inference_in"].grad is not None
    assert leaves["task_rows"].grad is None


def test_hide_aligns_both_heads_from_the_second_task_on(tiny_backbone: Backbone) -> None:
    method = hide(tiny_backbone, align={"epochs": 2})
    labels = torch.arange(6) % 2
    state: Tensors = {}
    for index in range(2):
        learned, _ = begun(method, tasks=index + 1)
        features = {
            name: bank(6, D, seed=seed + index).float()
            for seed, name in enumerate(("feature", "query"))
        }
        task = view(method, index, 2, learned, labels=labels, state=state)
        fitted = method.fit(replace(task, encode=lambda _, found=features: found))
        part, state = fitted.part, fitted.state
        assert {name: len(rows) for name, rows in state.items()} == dict.fromkeys(
            ("feature_means", "feature_variances", "query_means", "query_variances"),
            2 * (index + 1),
        )
        heads = {"head_weight", "head_bias", "inference_head", "inference_head_bias"}
        assert part.keys() == (heads if index else set())
    for name, tensor in part.items():
        assert (tensor != learned[name]).flatten(1 if tensor.ndim > 1 else 0).any(-1).all(), name


def test_the_loss_sees_the_statistics_of_the_former_tasks(
    make_learner: Callable[..., Learner],
    make_stream: Callable[..., Stream],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("hide-prompt", stream)
    seen = []
    loss = learner.method.loss

    def watched(batch: Batch, learned: Tensors) -> Tensor:
        seen.append(len(batch.constants.get("feature_means", ())))
        return loss(batch, learned)

    monkeypatch.setattr(learner.method, "loss", watched)
    learn_stream(learner, stream)
    assert seen == [0] * (len(seen) // 2) + [2] * (len(seen) // 2)
    assert len(learner.run.state()["query_means"]) == 4
    assert not learner.run.state().keys() & learner.learned().keys()

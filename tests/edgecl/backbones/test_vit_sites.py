"""The sites of the ViT: injections against the plain backbone and each other."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from edgecl.backbones import Backbone, BackboneError, Features, ViT, ViTConfig
from edgecl.backbones.sites import (
    Adapter,
    Injection,
    Lora,
    Pixels,
    Prefix,
    Projection,
    ScaleShift,
    SiteItem,
    Tokens,
)

D, HIDDEN, RANK = 192, 768, 4
PAD = -1e9
WIDTHS = {
    "patch": D, "norm1": D, "qkv": 3 * D, "proj": D, "norm2": D, "fc1": HIDDEN, "fc2": D, "norm": D,
}  # fmt: skip
LAYERS = {
    **dict.fromkeys(("q", "k", "v", "proj"), (D, D)), "fc1": (D, HIDDEN), "fc2": (HIDDEN, D),
}  # fmt: skip
Random = Callable[..., Tensor]


@pytest.fixture(scope="module")
def vit(tiny_backbone: Backbone) -> ViT:
    """Return the tiny backbone in float64: then equal means equal."""
    return copy.deepcopy(tiny_backbone.model).double()


@pytest.fixture
def random() -> Random:
    generator = torch.Generator().manual_seed(7)
    return lambda *shape: 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def pixels(random: Random) -> Tensor:
    return 3 * random(3, 3, 32, 32)


def same(left: Features, right: Features, atol: float = 1e-10) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def differ(left: Tensor, right: Tensor) -> bool:
    return (left - right).abs().max().item() > 1e-5


KINDS = [
    *("tokens", "tokens-dropped", "tokens-positioned"),
    *("prefix-concatenated", "prefix-compensated", "prefix-residual"),
    *("adapter-mlp", "adapter-attention"),
    *("lora-q", "lora-k", "lora-v", "lora-proj", "lora-fc1", "lora-fc2"),
    *(f"scale_shift-{point}" for point in WIDTHS if point not in {"patch", "norm"}),
]


def item_of(kind: str, block: int | None, random: Random, batch: tuple[int, ...] = ()) -> SiteItem:
    """Return an injection that does something, shared or one per image."""
    name, _, variant = kind.partition("-")
    if name == "tokens":
        return Tokens(
            random(*batch, 2, D),
            block=block or 0,
            keep=variant != "dropped",
            positioned=variant == "positioned",
        )
    if name == "prefix":
        return Prefix(random(*batch, 3, D), random(*batch, 3, D), block or 0, mode=variant)  # type: ignore[arg-type]
    if name == "adapter":
        return Adapter(
            down=random(*batch, D, RANK),
            down_bias=random(*batch, RANK),
            up=random(*batch, RANK, D),
            up_bias=random(*batch, D),
            block=block or 0,
            scale=0.7,
            at=variant or "mlp",  # type: ignore[arg-type]
            activation="gelu" if variant == "attention" else "relu",
        )
    if name == "lora":
        i, o = LAYERS[variant]
        return Lora(random(*batch, i, RANK), random(*batch, RANK, o), block or 0, target=variant)  # type: ignore[arg-type]
    width = WIDTHS[variant]
    return ScaleShift(1 + random(*batch, width), random(*batch, width), variant, block)  # type: ignore[arg-type]


def tensors_of(item: SiteItem) -> dict[str, Tensor]:
    return {name: value for name, value in vars(item).items() if isinstance(value, Tensor)}


def at_image(item: SiteItem, image: int) -> SiteItem:
    return replace(item, **{name: value[image] for name, value in tensors_of(item).items()})


# -- neutral injections


def identities(block: int, batch: tuple[int, ...]) -> dict[str, SiteItem]:
    zeros, ones = torch.zeros, torch.ones
    noise = torch.randn(*batch, D, RANK)
    found: dict[str, SiteItem] = {
        "adapter": Adapter(
            noise, ones(*batch, RANK), zeros(*batch, RANK, D), zeros(*batch, D), block
        ),
        "adapter-attention": Adapter(
            noise,
            ones(*batch, RANK),
            zeros(*batch, RANK, D),
            zeros(*batch, D),
            block,
            at="attention",
            activation="gelu",
        ),
        "prefix-residual": Prefix(
            torch.randn(*batch, 3, D), zeros(*batch, 3, D), block, mode="residual"
        ),
        "pixels": Pixels(zeros(*batch, 3, 32, 32)),
    }
    found["projection"] = Projection(zeros(*batch, D, D))
    for target, (i, o) in LAYERS.items():
        a = torch.randn(*batch, i, RANK)
        found[f"lora-{target}"] = Lora(a, zeros(*batch, RANK, o), block, target)  # type: ignore[arg-type]
    for point, width in WIDTHS.items():
        where = None if point in {"patch", "norm"} else block
        found[point] = ScaleShift(ones(*batch, width), zeros(*batch, width), point, where)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("kind", identities(0, ()))
@pytest.mark.parametrize("batch", [(), (1,), (3,)])
@pytest.mark.parametrize("block", [0, 1])
def test_identities_reproduce_the_plain_backbone_in_float32(
    tiny_backbone: Backbone, kind: str, batch: tuple[int, ...], block: int
) -> None:
    pixels = torch.randn(batch[0] if batch else 2, 3, 32, 32)
    same(
        tiny_backbone.model(pixels, (identities(block, batch)[kind],)),
        tiny_backbone.model(pixels),
        atol=1e-6,
    )


def test_all_identities_at_once_reproduce_the_plain_backbone(tiny_backbone: Backbone) -> None:
    injection = tuple(item for block in (0, 1) for item in identities(block, ()).values())
    pixels = torch.randn(2, 3, 32, 32)
    same(tiny_backbone.model(pixels, injection), tiny_backbone.model(pixels), atol=1e-6)


@pytest.mark.parametrize("mode", ["concatenated", "compensated"])
def test_a_zero_prefix_is_not_neutral(vit: ViT, pixels: Tensor, mode: str) -> None:
    zero = torch.zeros(3, D, dtype=torch.float64)
    prefixed = vit(pixels, (Prefix(zero, zero, 1, mode=mode),)).cls  # type: ignore[arg-type]
    assert differ(prefixed, vit(pixels).cls)


def test_zero_tokens_are_not_neutral(vit: ViT, pixels: Tensor) -> None:
    zero = torch.zeros(3, D, dtype=torch.float64)
    assert differ(vit(pixels, (Tokens(zero),)).cls, vit(pixels).cls)


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(
    "kind", ["tokens", "prefix-concatenated", "prefix-compensated", "prefix-residual"]
)
def test_no_tokens_are_no_injection(
    vit: ViT, pixels: Tensor, kind: str, batch: tuple[int, ...]
) -> None:
    empty = torch.zeros(*batch, 0, D, dtype=torch.float64)
    name, _, mode = kind.partition("-")
    item = Tokens(empty) if name == "tokens" else Prefix(empty, empty, 0, mode=mode)  # type: ignore[arg-type]
    same(vit(pixels, (item,)), vit(pixels))


# -- padding


def padded(rows: Tensor, real: int, fill: float) -> tuple[Tensor, Tensor]:
    """Replace the rows from `real` on by padding; return them and the mask."""
    rows = rows.clone()
    rows[..., real:, :] = fill
    mask = torch.zeros(rows.shape[-2], dtype=rows.dtype)
    mask[real:] = PAD
    return rows, mask


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("real", [0, 1, 2])
@pytest.mark.parametrize(("block", "keep"), [(0, True), (1, True), (0, False), (1, False)])
def test_masked_tokens_equal_the_shorter_prompt(
    vit: ViT,
    pixels: Tensor,
    random: Random,
    batch: tuple[int, ...],
    real: int,
    block: int,
    keep: bool,
) -> None:
    rows, mask = padded(random(*batch, 4, D), real, fill=0.5)
    short = Tokens(rows[..., :real, :], block, keep)
    same(vit(pixels, (Tokens(rows, block, keep, mask=mask),)), vit(pixels, (short,)))


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("real", [0, 1, 2])
@pytest.mark.parametrize("mode", ["concatenated", "compensated", "residual"])
def test_masked_prefix_equals_the_shorter_prefix(
    vit: ViT, pixels: Tensor, random: Random, batch: tuple[int, ...], real: int, mode: str
) -> None:
    keys, mask = padded(random(*batch, 4, D), real, fill=0.5)
    values, _ = padded(random(*batch, 4, D), real, fill=0)
    long = Prefix(keys, values, 1, mode=mode, mask=mask)  # type: ignore[arg-type]
    short = Prefix(keys[..., :real, :], values[..., :real, :], 1, mode=mode)  # type: ignore[arg-type]
    same(vit(pixels, (long,)), vit(pixels, (short,)))
    if not real:
        same(vit(pixels, (long,)), vit(pixels))


def test_padding_equals_the_true_length_in_float32(tiny_backbone: Backbone) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 32, 32)
    rows, mask = padded(torch.randn(2, 5, D), 3, fill=0)
    long = (Tokens(rows, mask=mask), Prefix(rows, rows, 1, mask=mask))
    short = (Tokens(rows[:, :3]), Prefix(rows[:, :3], rows[:, :3], 1))
    same(tiny_backbone.model(pixels, long), tiny_backbone.model(pixels, short), atol=2e-6)


def test_all_padding_is_no_injection(vit: ViT, pixels: Tensor, random: Random) -> None:
    rows, mask = padded(random(4, D), 0, fill=0)
    same(vit(pixels, (Tokens(rows, mask=mask),)), vit(pixels))
    assert vit(pixels).prompt.abs().max() == 0


def test_masked_and_unmasked_items_go_together(vit: ViT, pixels: Tensor, random: Random) -> None:
    rows, mask = padded(random(3, D), 2, fill=0)
    deep, prefix = Tokens(random(2, D), block=1), Prefix(random(2, D), random(2, D), 1)
    last = Tokens(random(1, D), keep=False)
    long = (Tokens(rows, mask=mask), last, deep, prefix)
    same(vit(pixels, long), vit(pixels, (Tokens(rows[:2]), last, deep, prefix)))


# -- batch axis, combination, order


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_one_injection_per_image_equals_each_image_alone(
    vit: ViT, pixels: Tensor, random: Random, kind: str, block: int
) -> None:
    item = item_of(kind, block, random, batch=(3,))
    together = vit(pixels, (item,))
    for image in range(3):
        alone = vit(pixels[image : image + 1], (at_image(item, image),))
        same(together.select(slice(image, image + 1)), alone)


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_one_injection_per_run_of_images_equals_each_run_alone(
    vit: ViT, random: Random, kind: str, block: int
) -> None:
    """The batch is two runs of three images; each has its injection, shared by its images."""
    pixels = 3 * random(6, 3, 32, 32)
    item = item_of(kind, block, random, batch=(2,))
    together = vit(pixels, (item,))
    for run in range(2):
        rows = slice(3 * run, 3 * run + 3)
        same(together.select(rows), vit(pixels[rows], (at_image(item, run),)))


@pytest.mark.parametrize("point", ["patch", "norm"])
def test_scale_shift_outside_the_blocks_per_image(
    vit: ViT, pixels: Tensor, random: Random, point: str
) -> None:
    item = item_of(f"scale_shift-{point}", None, random, batch=(3,))
    together = vit(pixels, (item,)).cls
    assert differ(together, vit(pixels).cls)
    for image in range(3):
        alone = vit(pixels[image : image + 1], (at_image(item, image),)).cls
        torch.testing.assert_close(together[image : image + 1], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("batch", [(), (2,), (6,)])
def test_pixels_are_added_to_the_image(vit: ViT, random: Random, batch: tuple[int, ...]) -> None:
    """They are shared, those of a run of three images, or each image's own."""
    pixels, value = 3 * random(6, 3, 32, 32), random(*batch, 3, 32, 32).requires_grad_()
    each = value if not batch else value.repeat_interleave(6 // batch[0], dim=0)
    found = vit(pixels, (Pixels(value),))
    same(found, vit(pixels + each))
    assert differ(found.cls, vit(pixels).cls)
    (found.cls * random(6, D)).sum().backward()
    assert value.grad is not None
    assert value.grad.abs().min() > 0, "every pixel learns"


def test_a_change_of_the_projection_is_another_projection(pixels: Tensor, random: Random) -> None:
    """Shared or each image's own; prompts go through it too. Without a projection it is from I."""
    config = ViTConfig(image_size=32, patch=16, width=24, depth=1, heads=2, projection=8)
    model = ViT(config).double()
    assert model.projection is not None
    deltas, tokens = random(3, 24, 8), Tokens(random(2, 24))
    for delta in deltas:
        changed = copy.deepcopy(model)
        assert changed.projection is not None
        changed.projection.data += delta
        want = changed(pixels, (tokens,))
        assert differ(want.prompt, model(pixels, (tokens,)).prompt)
        same(model(pixels, (tokens, Projection(delta))), want)
    together = model(pixels, (Projection(deltas),))
    for image in range(3):
        alone = model(pixels[image : image + 1], (Projection(deltas[image]),))
        same(together.select(slice(image, image + 1)), alone)
    model.projection = None
    delta = random(24, 24)
    plain = model(pixels).cls
    torch.testing.assert_close(model(pixels, (Projection(delta),)).cls, plain + plain @ delta)


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_every_site_at_every_block_changes_the_feature_and_learns(
    vit: ViT, pixels: Tensor, random: Random, kind: str, block: int
) -> None:
    item = item_of(kind, block, random)
    for tensor in tensors_of(item).values():
        tensor.requires_grad_()
    injected = vit(pixels, (item,)).cls
    assert differ(injected, vit(pixels).cls)
    (injected * random(3, D)).sum().backward()
    for name, tensor in tensors_of(item).items():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


def test_sites_add_up(vit: ViT, pixels: Tensor, random: Random) -> None:
    """Two adapters of one block add; items for different blocks and kinds all act."""
    one, two = (item_of("adapter-mlp", 0, random) for _ in range(2))
    assert isinstance(one, Adapter)
    assert isinstance(two, Adapter)
    stacked = Adapter(
        torch.cat([one.down, two.down], dim=1),
        torch.cat([one.down_bias, two.down_bias]),
        torch.cat([one.up, two.up]),
        one.up_bias + two.up_bias,
        0,
        scale=0.7,
    )
    same(vit(pixels, (one, two)), vit(pixels, (stacked,)))
    items = [
        item_of(kind, block, random)
        for block in (0, 1)
        for kind in KINDS
        if kind not in {"prefix-compensated", "prefix-residual"}
    ]
    full = vit(pixels, tuple(items)).cls
    for left_out in range(len(items)):
        fewer = tuple(item for index, item in enumerate(items) if index != left_out)
        assert differ(vit(pixels, fewer).cls, full), items[left_out]


def spy(vit: ViT, pixels: Tensor, injection: Injection) -> list[tuple[Tensor, Tensor]]:
    """Return what goes into and comes out of every block."""
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [
        block.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
        for block in vit.blocks
    ]
    vit(pixels, injection)
    for hook in hooks:
        hook.remove()
    return seen


def test_tokens_are_between_cls_and_patches_in_their_order(
    vit: ViT, pixels: Tensor, random: Random
) -> None:
    first, second = random(2, D), random(1, D)
    (entering, _), _ = spy(vit, pixels, (Tokens(first), Tokens(second)))
    (plain, _), _ = spy(vit, pixels, ())
    expected = torch.cat(
        [plain[:, :1], first.expand(3, 2, D), second.expand(3, 1, D), plain[:, 1:]], dim=1
    )
    torch.testing.assert_close(entering, expected)


def test_positioned_tokens_get_the_position_of_cls(
    vit: ViT, pixels: Tensor, random: Random
) -> None:
    rows = random(2, D)
    (entering, _), _ = spy(vit, pixels, (Tokens(rows, positioned=True),))
    torch.testing.assert_close(entering[0, 1:3], rows + vit.pos_embed[0, 0])


def test_kept_tokens_stay_and_others_are_for_one_block(
    vit: ViT, pixels: Tensor, random: Random
) -> None:
    kept, dropped, deep = Tokens(random(2, D)), Tokens(random(1, D), keep=False), random(1, D)
    (one, after_one), (two, _) = spy(
        vit, pixels, (kept, dropped, Tokens(deep, block=1, keep=False))
    )
    assert [one.shape[1], two.shape[1]] == [1 + 1 + 2 + 4, 1 + 1 + 2 + 4]
    torch.testing.assert_close(one[0, 1:2], dropped.value)  # dropped rows come first
    torch.testing.assert_close(two[:, 1:2], deep.expand(3, 1, D))
    torch.testing.assert_close(
        two[:, 2:], after_one[:, 2:]
    )  # the dropped row is gone, the kept ones go on


def test_prompt_is_the_mean_of_the_kept_tokens_after_the_final_norm(
    vit: ViT, pixels: Tensor, random: Random
) -> None:
    injection = (
        Tokens(random(2, D)),
        Tokens(random(3, D), keep=False),
        Tokens(random(1, D), block=1),
    )
    _, (_, last) = spy(vit, pixels, injection)
    # The token of block 1 comes before those of block 0.
    torch.testing.assert_close(vit(pixels, injection).prompt, vit.norm(last)[:, 1:4].mean(dim=1))


def test_the_adapter_reads_the_stream_before_norm2(
    vit: ViT, pixels: Tensor, random: Random
) -> None:
    item = item_of("adapter-mlp", 1, random)
    assert isinstance(item, Adapter)
    seen = []
    hook = vit.blocks[1].norm2.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    plain = spy(vit, pixels, ())[1][1]
    adapted = spy(vit, pixels, (item,))[1][1]
    hook.remove()
    hidden = torch.relu(seen[0] @ item.down + item.down_bias)
    torch.testing.assert_close(adapted, plain + 0.7 * (hidden @ item.up + item.up_bias))


def test_the_adapter_at_the_attention_reads_the_input_of_the_attention(
    vit: ViT, pixels: Tensor, random: Random
) -> None:
    item = item_of("adapter-attention", 0, random)
    assert isinstance(item, Adapter)
    block = vit.blocks[0]
    seen: dict[str, Tensor] = {}
    hooks = [
        block.norm1.register_forward_hook(lambda _, args, out: seen.update(x=args[0], inner=out)),
        block.attn.register_forward_hook(lambda _, args, out: seen.update(attended=out)),
        block.norm2.register_forward_hook(lambda _, args, out: seen.update(stream=args[0])),
    ]
    vit(pixels, (item,))
    for hook in hooks:
        hook.remove()
    hidden = torch.nn.functional.gelu(seen["inner"] @ item.down + item.down_bias)
    parallel = 0.7 * (hidden @ item.up + item.up_bias)
    torch.testing.assert_close(seen["stream"], seen["x"] + seen["attended"] + parallel)


def test_a_projection_applies_to_cls_and_prompt() -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8, patch=4, width=12, depth=1, heads=2, pre_norm=True, layer_scale=True,
        activation="quick_gelu", patch_bias=False, projection=5,
    )  # fmt: skip
    features = ViT(config).eval()(torch.randn(1, 3, 8, 8), (Tokens(torch.randn(2, 12)),))
    assert {n: row.shape for n, row in features.named().items()} == {
        "cls": (1, 5),
        "prompt": (1, 5),
    }


@pytest.mark.parametrize("batch", [1, 2])
def test_the_plain_feature_does_not_depend_on_the_batch(
    vit: ViT, pixels: Tensor, batch: int
) -> None:
    torch.testing.assert_close(vit(pixels).cls[:batch], vit(pixels[:batch]).cls)


# -- errors


@pytest.mark.parametrize("block", [-1, 2])
@pytest.mark.parametrize(
    "kind", ["tokens", "prefix-residual", "adapter", "lora-q", "scale_shift-fc1"]
)
def test_a_block_that_does_not_exist(
    vit: ViT, pixels: Tensor, random: Random, kind: str, block: int
) -> None:
    item = replace(item_of(kind, 0, random), block=block)
    with pytest.raises(BackboneError, match=r"\[0, 2\), got -?\d. Use a deeper backbone"):
        vit(pixels, (item,))


def test_pixels_of_another_image_size(vit: ViT, pixels: Tensor, random: Random) -> None:
    with pytest.raises(BackboneError, match=r"32 x 32 .* got \(16, 16\). Train it at this image"):
        vit(pixels, (Pixels(random(3, 16, 16)),))


@pytest.mark.parametrize(("point", "block"), [("norm", 0), ("patch", 1), ("fc1", None)])
def test_a_point_with_the_wrong_block(
    vit: ViT, pixels: Tensor, random: Random, point: str, block: int | None
) -> None:
    item = item_of(f"scale_shift-{point}", block, random)
    with pytest.raises(BackboneError, match="Name the block, or the point"):
        vit(pixels, (item,))


def test_two_prefixes_at_one_block(vit: ViT, pixels: Tensor, random: Random) -> None:
    one, two = (item_of("prefix-concatenated", 1, random) for _ in range(2))
    with pytest.raises(BackboneError, match=r"got 2 at block 1. Concatenate their keys"):
        vit(pixels, (one, two))
    vit(pixels, (one, replace(two, block=0)))


def test_sizes_that_do_not_divide() -> None:
    with pytest.raises(BackboneError, match=r"got 30. Use 32."):
        ViTConfig(image_size=30, patch=16)
    with pytest.raises(BackboneError, match="Mend the preset"):
        ViTConfig(width=10, heads=3)

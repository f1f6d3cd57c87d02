"""Scales and shifts after every operation of the backbone."""

import copy

import numpy as np
import pytest
import torch
from tests.edgecl.support import NOTHING, images, noise, same, started, through

from edgecl.backbones import Backbone
from edgecl.backbones.sites import ScaleShift
from edgecl.program.injectors import ScaleShiftStack

D, HIDDEN, DEPTH = 192, 768, 2


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

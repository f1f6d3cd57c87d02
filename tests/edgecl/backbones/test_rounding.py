"""int8 weights that methods learn on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecl.backbones import Backbone, BackboneError, load_backbone
from edgecl.backbones.rounding import LARGEST, read_weights, round_matrix, spelled
from edgecl_export.quantize.gptq import Moments, gptq


def tiny(**options: Any) -> Backbone:
    return load_backbone("vit-tiny-16", image_size=32, depth=2, random_seed=0, **options)


@given(seed=st.integers(0, 2**32), low=st.integers(-20, 0), span=st.integers(0, 20))
def test_a_matrix_is_rounded_once(seed: int, low: int, span: int) -> None:
    """Rounding changes it by at most half a scale, and again by nothing."""
    generator = torch.Generator().manual_seed(seed)
    rows = 10.0 ** torch.randint(low, low + span + 1, (5, 1), generator=generator)
    matrix = torch.randn(5, 7, generator=generator) * rows
    matrix[2] = 0
    once = round_matrix(matrix)
    scales = matrix.abs().amax(dim=1, keepdim=True) / LARGEST
    assert ((once - matrix).abs() <= 0.5001 * scales).all()
    assert not once[2].any()
    torch.testing.assert_close(round_matrix(once), once, rtol=3e-7, atol=0)


def test_the_exporter_rounds_these_weights_to_themselves() -> None:
    """Whatever images it looks at."""
    weight = round_matrix(torch.randn(48, 96, generator=torch.Generator().manual_seed(1)))
    moments = Moments(96)
    moments.add(torch.randn(200, 96, generator=torch.Generator().manual_seed(2)).numpy())
    found = gptq(weight.T.contiguous().numpy(), moments)
    torch.testing.assert_close(torch.from_numpy(found.dequantised()).T, weight, rtol=3e-7, atol=0)


def test_a_rounded_backbone_is_another_backbone(tmp_path: Path) -> None:
    plain, rounded = tiny(), tiny(weights="int8")
    assert plain.digest != rounded.digest
    assert rounded.digest == tiny(weights="int8").digest
    assert (plain.rounded, rounded.rounded) == (False, True)
    changed = {
        name
        for name, tensor in plain.model.state_dict().items()
        if not torch.equal(tensor, rounded.model.state_dict()[name])
    }
    linear = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    assert changed == {f"blocks.{block}.{name}" for block in (0, 1) for name in linear}


def test_a_rounded_backbone_loads_again_from_its_description(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(tiny().model.state_dict(), file)
    options = {"name": "vit-tiny-16", "image_size": 32, "depth": 2}
    rounded = load_backbone(**options, weights=f"int8:{file}")
    assert rounded.spec["weights"] == f"int8:{file}"
    assert load_backbone(**rounded.spec).digest == rounded.digest
    assert tiny(weights="int8").spec["weights"] == "int8"
    assert load_backbone(**options, weights=file).digest != rounded.digest


def test_the_words_of_weights() -> None:
    assert read_weights(None) == (None, False)
    assert read_weights("int8") == (None, True)
    assert read_weights("./int8") == (Path("int8"), False)
    assert read_weights("int8:a:b") == (Path("a:b"), True)
    assert read_weights(Path("int8")) == (Path("int8"), False)
    assert spelled(None) is None
    assert spelled("int8") == "int8"
    assert spelled("int8:w") == f"int8:{Path('w').absolute()}"
    with pytest.raises(BackboneError, match="int8:FILE, got 'int8:'"):
        read_weights("int8:")


def test_what_cannot_be_rounded_is_refused() -> None:
    with pytest.raises(BackboneError, match="blocks of a ViT, got efficientnet-lite0"):
        load_backbone("efficientnet-lite0", random_seed=0, weights="int8")

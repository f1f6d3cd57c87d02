"""Our backbones give timm's and open_clip's features with the same random weights, fp32."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgecl.backbones import load_backbone, loaders, prepare_torchvision
from edgecl.backbones.sources import Timm

prepare_torchvision()
import open_clip  # noqa: E402 torchvision is prepared first
import timm  # noqa: E402
from timm.layers import resample_abs_pos_embed  # noqa: E402

TOLERANCE = 1e-5  # relative error of the feature


def randomised(model: nn.Module) -> dict[str, Tensor]:
    """Fill a model so that every part matters (LayerScale starts at 1e-5); return its state."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    weights = loaders.random_weights(shapes, seed=3)
    model.load_state_dict(weights)
    model.eval()
    return weights


def pixels(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(4))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
def check(model: nn.Module, theirs: nn.Module, size: int) -> None:
    x = pixels(size, batch=1)
    expected = theirs(x)
    assert float(expected.std()) > 1e-2  # a collapsed feature would prove nothing
    assert relative_error(model(x).cls, expected) <= TOLERANCE


@pytest.mark.parametrize("width", ["tiny", "small", "base"])
def test_timm_vit(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = timm.create_model(f"vit_{width}_patch16_224", num_classes=0)
    weights = randomised(theirs)
    monkeypatch.setattr(Timm, "download", lambda _: weights)  # no file of 340 MB
    check(load_backbone(f"vit-{width}-16").model, theirs, 224)


@pytest.mark.parametrize(("size", "depth"), [(518, 2), (224, 12), (112, 5)])
def test_dinov2_at_other_sizes_and_depths(tmp_path: Path, size: int, depth: int) -> None:
    name = "vit_small_patch14_dinov2"
    weights = randomised(timm.create_model(name, num_classes=0))
    assert weights["pos_embed"].shape[1] == 1 + 37 * 37
    save_file(weights, tmp_path / "dinov2.safetensors")
    theirs = timm.create_model(name, num_classes=0, img_size=size, depth=depth).eval()
    grid = size // 14
    resampled = resample_abs_pos_embed(weights["pos_embed"], [grid, grid])
    used = {key: weights[key] for key in theirs.state_dict()} | {"pos_embed": resampled}
    theirs.load_state_dict(used)
    ours = load_backbone(
        "dinov2-s14", weights=tmp_path / "dinov2.safetensors", image_size=size, depth=depth
    )
    assert torch.equal(ours.model.state_dict()["pos_embed"], resampled)
    check(ours.model, theirs, size)


@pytest.mark.parametrize(
    ("name", "quick_gelu"), [("clip-b32", True), ("open_clip:ViT-B-32/laion2b_s34b_b79k", False)]
)
def test_open_clip_image_tower(tmp_path: Path, name: str, quick_gelu: bool) -> None:
    config: Mapping[str, Any] = open_clip.get_model_config("ViT-B-32")
    theirs = open_clip.model._build_vision_tower(
        config["embed_dim"], open_clip.CLIPVisionCfg(**config["vision_cfg"]), quick_gelu=quick_gelu
    )
    tower = randomised(theirs)
    # A training checkpoint of a whole CLIP model, as open_clip writes it.
    whole = {f"module.visual.{key}": value for key, value in tower.items()}
    whole["module.logit_scale"] = torch.tensor(4.6)
    whole["module.transformer.resblocks.0.ln_1.weight"] = torch.ones(512)  # of the text tower
    torch.save({"epoch": 3, "state_dict": whole}, tmp_path / "epoch_3.pt")
    ours = load_backbone(name, weights=tmp_path / "epoch_3.pt")
    assert ours.width == 512
    check(ours.model, theirs, 224)


def test_timm_cnn(tmp_path: Path) -> None:
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    save_file(theirs.state_dict(), tmp_path / "cnn.safetensors")
    ours = load_backbone("efficientnet-lite0", weights=tmp_path / "cnn.safetensors")
    x = pixels(224, batch=1)
    with torch.no_grad():
        assert relative_error(ours.model(x).cls, theirs(x)) <= TOLERANCE

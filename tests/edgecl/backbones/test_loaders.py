"""Names, sizes and weights files: what loads, and what a user reads when it does not."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgecl.backbones import BackboneError, ViTConfig, list_backbones, load_backbone
from edgecl.backbones._presets import read_preset
from edgecl.backbones.loaders import find_preset
from edgecl.backbones.sites import Tokens
from edgecl.backbones.sources import Hub, Timm

TINY: dict[str, Any] = {"name": "vit-tiny-16", "image_size": 32, "depth": 2}


def tiny_state(seed: int = 0) -> dict[str, Tensor]:
    return dict(load_backbone(**TINY, random_seed=seed).model.state_dict())


def load_file(path: Path, weights: dict[str, Tensor], **changes: Any) -> Any:
    save_file(weights, path)
    return load_backbone(**{**TINY, **changes}, weights=path)


# Names and presets


def test_there_are_the_named_presets() -> None:
    assert set(list_backbones()) == {
        "clip-b16",
        "clip-b32",
        "dinov2-s14",
        "edgecl-clip-s",
        "efficientnet-lite0",
        "vit-base-16",
        "vit-s14",
        "vit-small-16",
        "vit-tiny-16",
    }


@pytest.mark.parametrize("name", list_backbones())
def test_every_preset_is_consistent(name: str) -> None:
    preset = read_preset(name)
    size = preset.use.get("image_size", preset.config["image_size"])
    assert preset.preprocess.size == size
    assert preset.licence
    assert preset.about
    if preset.architecture == "vit":
        assert ViTConfig(**preset.config).image_size % preset.config["patch"] == 0
        assert size % preset.config["patch"] == 0


@pytest.mark.parametrize(
    "name", [n for n in list_backbones() if isinstance(read_preset(n).source, Hub)]
)
def test_a_preset_says_what_the_hubs_library_says(name: str) -> None:
    preset = read_preset(name)
    assert isinstance(preset.source, Hub)
    separator = "." if isinstance(preset.source, Timm) else "/"
    model = f"{preset.source.kind}:{preset.source.model}"
    hub = find_preset(f"{model}{separator}{preset.source.tag}")
    assert hub.config == preset.config
    assert replace(hub.source, name=name) == preset.source
    assert (hub.preprocess.mean, hub.preprocess.std) == (
        preset.preprocess.mean,
        preset.preprocess.std,
    )
    if not preset.use:
        assert hub.preprocess == preset.preprocess


def test_an_unknown_name_lists_the_names_and_guesses() -> None:
    with pytest.raises(BackboneError, match=r"got 'vit-s41'. Did you mean 'vit-s14'\?"):
        load_backbone("vit-s41")
    with pytest.raises(BackboneError, match=r"timm:NAME\[.TAG\] .* got 'timm'"):
        load_backbone("timm")


def test_a_timm_name_is_a_preset_without_a_file() -> None:
    ours = load_backbone("timm:vit_tiny_patch16_224", image_size=32, depth=2, random_seed=0)
    assert torch.equal(ours.model.state_dict()["pos_embed"], tiny_state()["pos_embed"])
    cnn = load_backbone("timm:resnet10t", random_seed=0)
    assert (cnn.width, cnn.sites) == (512, frozenset())


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("timm:vit_huge_patch99", "timm.list_models"),
        ("timm:vit_tiny_patch16_224.no_such_tag", "timm.list_models"),
        ("timm:vit_small_patch14_reg4_dinov2", "Pick a vit_"),
        ("timm:vit_base_patch16_siglip_224", "Pick a vit_"),
        ("timm:vit_base_patch16_clip_quickgelu_224.openai_nope", "timm.list_models"),
        ("open_clip:RN50", "Pick one of open_clip.list_models"),
        ("open_clip:ViT-Z-99/openai", "Pick one of open_clip.list_models"),
    ],
)
def test_a_hub_name_that_is_not_ours_is_an_error(name: str, action: str) -> None:
    with pytest.raises(BackboneError, match=action):
        load_backbone(name, random_seed=0)


def test_another_tag_takes_its_activation_and_normalisation() -> None:
    preset = read_preset("clip-b32")
    assert preset.config["activation"] == "quick_gelu"
    ours = load_backbone("clip-b32", tag="laion2b_s34b_b79k", depth=1, random_seed=0)
    assert ours.model.config.activation == "gelu"  # type: ignore[union-attr]
    dino = load_backbone("vit-base-16", tag="dino", depth=1, image_size=32, random_seed=0)
    assert dino.preprocess.mean == (0.485, 0.456, 0.406)


def test_a_tag_for_a_package_is_an_error() -> None:
    with pytest.raises(BackboneError, match="Leave the tag out"):
        load_backbone("vit-s14", tag="v2")


@pytest.mark.parametrize("name", ["vit-tiny-16", "open_clip:ViT-B-32/laion2b_s34b_b79k"])
def test_offline_the_hub_is_one_clear_error(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match=r"must come from the hub.*weights=FILE"):
        load_backbone(name)


def test_open_clip_without_a_tag_lists_the_tags() -> None:
    with pytest.raises(BackboneError, match=r"laion2b_s34b_b79k.*Give one: open_clip:ViT-B-32/TAG"):
        load_backbone("open_clip:ViT-B-32")


def test_a_missing_open_clip_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(BackboneError, match=r"pip install 'edgecl\[clip\]'"):
        load_backbone("open_clip:ViT-B-32/openai", random_seed=0)


# What is loaded


def test_it_is_frozen_and_says_what_it_is() -> None:
    backbone = load_backbone(**TINY, random_seed=0)
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert backbone.sites == {
        *("tokens", "prefix", "adapter", "lora", "scale_shift", "pixels", "projection"),
    }
    assert (backbone.name, backbone.width, len(backbone.digest)) == ("vit-tiny-16", 192, 64)
    assert len(backbone.model.blocks) == 2  # type: ignore[union-attr]
    assert (backbone.preprocess.size, backbone.preprocess.resize) == (32, round(248 * 32 / 224))


def test_the_spec_holds_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(tiny_state(), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    backbone = load_backbone(**TINY, weights="w.safetensors")
    monkeypatch.chdir("/")
    assert load_backbone(**backbone.spec).digest == backbone.digest


def test_the_spec_loads_the_same_again(tmp_path: Path) -> None:
    first = load_file(tmp_path / "w.safetensors", tiny_state())
    again = load_backbone(**json.loads(json.dumps(first.spec)))
    assert (again.digest, again.spec) == (first.digest, first.spec)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.model(x).cls, first.model(x).cls)
    assert load_backbone(**TINY, random_seed=0).digest == first.digest


def test_sizes_and_weights_are_in_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = tiny_state()
    digests = {load_file(path, state, **changes).digest for changes in (
        {}, {"image_size": 48}, {"depth": 1}
    )}  # fmt: skip
    state["norm.bias"][0] += 1e-3
    digests.add(load_file(path, state).digest)
    assert len(digests) == 4


def test_random_weights_are_reproducible_and_spend_no_global_randomness() -> None:
    before = torch.random.get_rng_state()
    one, two = load_backbone(**TINY, random_seed=1), load_backbone(**TINY, random_seed=1)
    load_backbone("timm:resnet10t", random_seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.digest == two.digest != load_backbone(**TINY, random_seed=2).digest


def test_a_cnn_takes_no_injection_and_no_depth() -> None:
    backbone = load_backbone("timm:resnet10t", random_seed=0, image_size=64)
    x = torch.randn(2, 3, 64, 64)
    features = backbone.model(x)
    assert features.cls.shape == features.prompt.shape == (2, 512)
    assert not features.prompt.any()
    with pytest.raises(BackboneError, match="Use a method without injection"):
        backbone.model(x, (Tokens(torch.zeros(1, 512)),))
    with pytest.raises(BackboneError, match="Leave it out"):
        load_backbone("efficientnet-lite0", depth=3, random_seed=0)


def test_the_cnn_exports_with_a_dynamic_batch() -> None:
    model = load_backbone("efficientnet-lite0", image_size=64, random_seed=0).model
    batch = torch.export.Dim("b", min=1, max=64)
    program = torch.export.export(
        model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: batch}, None)[:1]
    )
    x = torch.randn(5, 3, 64, 64)
    assert torch.allclose(program.module()(x).cls, model(x).cls, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({"depth": 0}, "Give a smaller depth"),
        ({"depth": 13}, "Give a smaller depth"),
        ({"image_size": 33}, "Use 32"),
        ({"image_size": 0}, "Leave it out for 224"),
        ({"weights": "x.safetensors"}, "Give one of them"),
    ],
)
def test_bad_arguments_are_errors(changes: dict[str, Any], action: str) -> None:
    with pytest.raises(BackboneError, match=action):
        load_backbone(**{**TINY, "random_seed": 0, **changes})


# Weights files, which are untrusted


def test_floats_of_any_width_become_float32(tmp_path: Path) -> None:
    half = {name: value.half() for name, value in tiny_state().items()}
    model = load_file(tmp_path / "w.safetensors", half).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
def test_a_torch_checkpoint_with_a_classifier_loads(tmp_path: Path, nest: str | None) -> None:
    state = tiny_state()
    saved = {**state, "head.weight": torch.zeros(9, 192), "mask_token": torch.zeros(1, 192)}
    torch.save({nest: saved, "epoch": 1} if nest else saved, tmp_path / "w.pth")
    model = load_backbone(**TINY, weights=tmp_path / "w.pth").model
    assert torch.equal(model.state_dict()["norm.bias"], state["norm.bias"])


class Evil:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickled_object_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(BackboneError, match="pickled objects are never opened"):
        load_backbone(**TINY, weights=tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("data", [b"", b"garbage" * 9, b"\xff" * 64, b"PK\x03\x04torn"])
def test_a_broken_file_is_an_error(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BackboneError, match="Get it again"):
        load_backbone(**TINY, weights=tmp_path / name)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    for name, save in (("w.safetensors", save_file), ("w.pt", torch.save)):
        save(tiny_state(), tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(BackboneError, match="Get it again"):
            load_backbone(**TINY, weights=tmp_path / name)


@pytest.mark.parametrize(
    "payload",
    [[torch.zeros(1)], {"a": [1, 2]}, {3: torch.zeros(1)}, {"a": torch.eye(2).to_sparse()}],
)
def test_what_is_no_state_dict_is_an_error(tmp_path: Path, payload: object) -> None:
    torch.save(payload, tmp_path / "w.pt")
    with pytest.raises(BackboneError, match=r"Save the model's state_dict\(\)"):
        load_backbone(**TINY, weights=tmp_path / "w.pt")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="Check the path"):
        load_backbone(**TINY, weights=tmp_path / "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    state = tiny_state()
    state["blocks.1.mlp.fc1.bias"][3] = value
    with pytest.raises(BackboneError, match=r"blocks.1.mlp.fc1.bias of .*Get the file again"):
        load_file(tmp_path / "w.safetensors", state)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = tiny_state()
    del state["norm.bias"]
    state["extra"] = torch.zeros(1)
    state["norm.weight"] = torch.zeros(7)
    message = (
        r"1 missing, as norm.bias; 1 unexpected, as extra; "
        r"1 misshaped, as norm.weight \[7\] instead of \[192\]. Pick the preset"
    )
    with pytest.raises(BackboneError, match=message):
        load_file(tmp_path / "w.safetensors", state)


def test_a_change_of_a_weight_is_no_weight(tmp_path: Path) -> None:
    """Files have no pairs to be added up, as the built-in delta has."""
    state = tiny_state()
    state["blocks.0.attn.qkv.weight.a"] = torch.zeros(2, 192)
    with pytest.raises(BackboneError, match=r"1 unexpected, as blocks.0.attn.qkv.weight.a"):
        load_file(tmp_path / "w.safetensors", state)


def test_more_blocks_than_the_model_has_are_not_dropped_in_silence(tmp_path: Path) -> None:
    state = tiny_state()
    state["blocks.12.norm1.weight"] = torch.zeros(192)
    with pytest.raises(BackboneError, match=r"1 unexpected, as blocks\.12\.norm1\.weight"):
        load_file(tmp_path / "w.safetensors", state)


def test_a_position_embedding_without_a_square_grid_is_an_error(tmp_path: Path) -> None:
    state = tiny_state()
    state["pos_embed"] = torch.zeros(1, 1 + 6, 192)
    with pytest.raises(BackboneError, match=r"pos_embed \[1, 7, 192\] instead of \[1, 5, 192\]"):
        load_file(tmp_path / "w.safetensors", state)

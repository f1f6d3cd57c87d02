"""Our CLIP gives open_clip's features with the same random weights, and says when it cannot."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgecl.backbones import (
    BackboneError,
    Clip,
    Tokenizer,
    load_backbone,
    load_clip,
    loaders,
    prepare_torchvision,
)
from edgecl.backbones.sites import Prefix
from edgecl.backbones.sources import OpenClip

prepare_torchvision()
import open_clip  # noqa: E402 torchvision is prepared first

TOLERANCE = 1e-5  # relative error of the feature
NAMES = ["cat", "fire engine", "jack-o'-lantern", "🎃"]
TEMPLATES = ["a photo of a {}.", "a bad sketch of the {}, 42 of them", "{}"]
CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 32, "patch_size": 16, "width": 64, "head_width": 32, "layers": 2,
    },
    "text_cfg": {
        "context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3,
    },
}  # fmt: skip


def changed(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a configuration with other settings: text_cfg__layers=2."""
    config = json.loads(json.dumps(config))
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (config[section] if section else config)[key] = value
    return config


def randomised(config: dict[str, Any]) -> dict[str, Tensor]:
    """Return weights with which texts and images differ, under open_clip's names."""
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    weights = loaders.random_weights(shapes, seed=3)
    for name, value in weights.items():
        if ".ln_" in name and name.endswith("weight"):
            value += 1
    return weights | {"logit_scale": torch.tensor(4.0)}


def theirs_of(config: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    model = open_clip.CLIP(**config)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def write(folder: Path, config: Any, weights: dict[str, Tensor] | None = None) -> dict[str, str]:
    """Write a configuration and its weights; return what `load_clip` takes."""
    (folder / "model.json").write_text(json.dumps(config))
    spec = {"name": str(folder / "model.json")}
    if weights is not None:
        save_file(weights, folder / "model.safetensors")
        spec["weights"] = str(folder / "model.safetensors")
    return spec


@torch.no_grad()
def check_parity(ours: Clip, theirs: nn.Module, size: int) -> None:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(4))
    texts = [f"a photo of a {name}." for name in NAMES]
    tokens = open_clip.tokenize(texts, ours.tokenizer.context_length)
    pairs = {
        "image": (ours.visual.model(images).cls, theirs.encode_image(images)),
        "text": (ours.text(ours.tokenizer(texts)), theirs.encode_text(tokens)),
        "padded": (ours.text(tokens), theirs.encode_text(tokens)),
    }
    for name, (found, expected) in pairs.items():
        # What texts have in common would hide an error in what tells them apart.
        for left, right in ((found, expected), (found.diff(dim=0), expected.diff(dim=0))):
            assert float((left - right).norm() / right.norm()) <= TOLERANCE, name
            assert float(right.std()) > 1e-2, name
    assert ours.logit_scale == pytest.approx(float(theirs.logit_scale))


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return randomised(CONFIG)


@pytest.fixture(scope="module")
def theirs(weights: dict[str, Tensor]) -> nn.Module:
    return theirs_of(CONFIG, weights)


@pytest.fixture(scope="module")
def clip(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return load_clip(**write(tmp_path_factory.mktemp("clip"), CONFIG, weights))


# Parity with open_clip


@pytest.fixture(scope="module")
def weights_b32() -> dict[str, Tensor]:
    return randomised(open_clip.get_model_config("ViT-B-32"))


@pytest.mark.parametrize(
    ("name", "model"),
    [("clip-b32", "ViT-B-32-quickgelu"), ("open_clip:ViT-B-32/laion2b_s34b_b79k", "ViT-B-32")],
)
def test_vit_b_32(
    name: str, model: str, weights_b32: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenClip, "download", lambda _: weights_b32)  # no file of 600 MB
    ours = load_clip(name)
    quick = "quick_gelu" if "quickgelu" in model else "gelu"
    assert ours.visual.model.config.activation == ours.text.config.activation == quick  # type: ignore[union-attr]
    check_parity(ours, theirs_of(open_clip.get_model_config(model), weights_b32), 224)


def test_a_configuration_file(clip: Clip, theirs: nn.Module) -> None:
    check_parity(clip, theirs, 32)
    assert (clip.name, clip.visual.width, clip.text.width) == ("model", 24, 24)


def test_a_folder_as_open_clip_saves_it(
    tmp_path: Path, weights: dict[str, Tensor], clip: Clip
) -> None:
    preprocessing = {
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bilinear",
        "resize_mode": "shortest", "mode": "RGB", "fill_color": 0,
    }  # fmt: skip
    # All settings, as it writes them; and the custom text class, which has another prefix.
    vision = vars(open_clip.CLIPVisionCfg(**CONFIG["vision_cfg"]))
    text = vars(open_clip.CLIPTextCfg(**CONFIG["text_cfg"]))
    model = CONFIG | {"vision_cfg": vision, "text_cfg": text, "custom_text": True}
    named = {
        name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": tensor
        for name, tensor in weights.items()
    }
    ours = load_clip(
        **write(tmp_path, {"model_cfg": model, "preprocess_cfg": preprocessing}, named)
    )
    assert ours.visual.preprocess.mean == (0.5, 0.4, 0.3)
    assert ours.visual.preprocess.interpolation == "bilinear"
    assert torch.equal(ours.encode_text(NAMES), clip.encode_text(NAMES))
    assert ours.visual.preprocess.fit == "crop"
    preprocessing["resize_mode"] = "longest"
    with pytest.raises(BackboneError, match="give weights=FILE, and choose the fit yourself"):
        load_clip(**write(tmp_path, {"model_cfg": model, "preprocess_cfg": preprocessing}, named))
    preprocessing["resize_mode"] = "squash"
    squashed = load_clip(
        **write(tmp_path, {"model_cfg": model, "preprocess_cfg": preprocessing}, named)
    )
    theirs = open_clip.image_transform(
        32, is_train=False, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2),
        interpolation="bilinear", resize_mode="squash",
    )  # fmt: skip
    frame = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 77, 3), np.uint8))
    pixels = torch.from_numpy(squashed.visual.preprocess(frame))
    torch.testing.assert_close(
        squashed.visual.preprocess.normalise(pixels[None])[0], theirs(frame), atol=1e-6, rtol=0
    )


def test_layer_scale_and_quick_gelu(tmp_path: Path) -> None:
    config = changed(
        CONFIG, text_cfg__ls_init_value=0.1, vision_cfg__ls_init_value=0.1, quick_gelu=True
    )
    weights = randomised(config)
    check_parity(load_clip(**write(tmp_path, config, weights)), theirs_of(config, weights), 32)


def test_class_embeddings_are_open_clips(clip: Clip, theirs: nn.Module) -> None:
    def tokenize(texts: list[str]) -> Tensor:
        return open_clip.tokenize(texts, 20)

    expected = open_clip.build_zero_shot_classifier(theirs, tokenize, NAMES, TEMPLATES)
    found = clip.encode_text(NAMES, TEMPLATES)
    torch.testing.assert_close(found, expected.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(NAMES)))


# Every text alone, and DIKI at its start


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_a_name_alone_is_the_name_among_others(clip: Clip, batch_size: int) -> None:
    together = clip.encode_text(NAMES, TEMPLATES, batch_size)
    for index, name in enumerate(NAMES):
        alone = clip.encode_text([name], TEMPLATES)
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-6)


def test_residual_prefixes_with_zero_values_are_the_plain_towers(clip: Clip) -> None:
    images, tokens = torch.randn(3, 3, 32, 32), clip.tokenizer(["a cat", "a dog", "a red house"])
    weight = torch.tensor([0.1, 0.5, 0.9])

    def start(width: int, blocks: int) -> tuple[Prefix, ...]:
        return tuple(
            Prefix(torch.rand(8, width) * 2 - 1, torch.zeros(8, width), block, "residual", weight)
            for block in range(blocks)
        )

    for left, right in (
        (clip.visual.model(images, start(64, 2)).cls, clip.visual.model(images).cls),
        (clip.text(tokens, start(32, 3)), clip.text(tokens)),
    ):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


# The tokenizer


def test_the_tokenizer_is_open_clips_and_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tokens = Tokenizer(77)(NAMES)
    expected = open_clip.get_tokenizer("ViT-B-32")(NAMES)
    assert torch.equal(tokens, expected[:, : tokens.shape[1]])
    assert not expected[:, tokens.shape[1] :].any()
    assert tokens.shape[1] == int(expected.argmax(dim=-1).max()) + 1


def test_a_text_is_never_cut(clip: Clip) -> None:
    text = "a " * 18
    assert clip.tokenizer([text]).shape == (1, 20)
    for texts, reserve in (([text], 1), (["a", text + "a"], 0), (["a"], 30)):
        limit = 20 - reserve
        with pytest.raises(BackboneError, match=rf"at most {limit} tokens.*Shorten the class"):
            clip.tokenizer(texts, reserve)


@pytest.mark.parametrize("text", ["cat <end_of_text> red", "<END_OF_TEXT>"])
def test_the_end_mark_is_refused_inside_a_text(clip: Clip, text: str) -> None:
    with pytest.raises(BackboneError, match=rf"got '{text}': .*Change the class name"):
        clip.tokenizer(["a dog", text])


# What is loaded


def test_it_is_frozen_and_loads_again(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not clip.text.training
    assert not any(parameter.requires_grad for parameter in clip.text.parameters())
    monkeypatch.chdir(tmp_path)
    again = load_clip(**json.loads(json.dumps(clip.spec)))
    assert (again.digest, again.visual.digest) == (clip.digest, clip.visual.digest)
    assert load_backbone(**clip.visual.spec).digest == clip.visual.digest


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, CONFIG)
    monkeypatch.chdir(tmp_path)
    clip = load_clip("model.json", random_seed=0, image_size=48)
    assert clip.spec == {
        "name": str(tmp_path / "model.json"), "weights": None, "image_size": 48, "tag": None,
        "random_seed": 0, "fit": None, "window": None, "background": None,
    }  # fmt: skip
    assert clip.visual.preprocess.size == 48


def test_the_digest_covers_both_towers_and_the_temperature(
    clip: Clip, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    found = {clip.digest}
    for name in ("visual.proj", "ln_final.bias", "logit_scale"):
        other = load_clip(**write(tmp_path, CONFIG, weights | {name: weights[name] + 1}))
        assert (other.visual.digest == clip.visual.digest) == (name != "visual.proj")
        found.add(other.digest)
    quick = load_clip(**write(tmp_path, CONFIG | {"quick_gelu": True}, weights))
    assert len(found | {quick.digest}) == 5


def test_random_weights_tell_texts_apart(tmp_path: Path) -> None:
    spec = write(tmp_path, CONFIG)
    clip = load_clip(**spec, random_seed=1)
    embeddings = clip.encode_text(NAMES)
    assert float((embeddings @ embeddings.T).fill_diagonal_(0).max()) < 0.99
    assert load_clip(**spec, random_seed=1).digest == clip.digest
    assert load_clip(**spec, random_seed=2).digest != clip.digest
    assert torch.tensor(clip.logit_scale).exp() == pytest.approx(1 / 0.07)


def test_zero_shot_scores_are_cosines_times_the_temperature(clip: Clip, theirs: nn.Module) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = F.normalize(clip.visual.model(images).cls, dim=-1)
        expected, _ = theirs.get_logits(images, open_clip.tokenize(NAMES, 20))
    found = torch.tensor(clip.logit_scale).exp() * features @ clip.encode_text(NAMES, ["{}"]).T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


# Errors


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit-tiny-16", r"comes from timm and has none. Give clip-b16"),
        ("timm:resnet10t", r"comes from timm and has none. Give clip-b16"),
        ("open_clip:roberta-ViT-B-32", "text tower .* sets hf_model_name"),
        ("open_clip:ViT-H-14-worldwide", "text tower .* sets hf_tokenizer_name"),
        ("open_clip:coca_ViT-B-32", "image tower .* sets attentional_pool"),
        ("open_clip:ViT-B-16-SigLIP", "image tower .* sets timm_model_name"),
        ("open_clip:RN50", "Pick one of open_clip.list_models"),
        ("open_clip:ViT-Z-99", "must name a model of open_clip, got ViT-Z-99"),
    ],
)
def test_a_model_that_is_no_plain_clip(name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        load_clip(name, random_seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_cfg__pool_type": "last"}, "text tower .* sets pool_type"),
        ({"text_cfg__no_causal_mask": True}, "text tower .* sets no_causal_mask"),
        ({"text_cfg__embed_cls": True}, "text tower .* sets embed_cls"),
        ({"text_cfg__tokenizer_kwargs": {"clean": "canonicalize"}}, "sets tokenizer_kwargs"),
        ({"text_cfg__made_up": 1}, "text tower .* sets made_up"),
        ({"text_cfg__vocab_size": 1000}, "at least 49408.*Pad token_embedding.weight"),
        ({"text_cfg__layers": "3"}, "layers of the text tower .* got '3'. Pick one"),
        ({"text_cfg__heads": 5}, "multiple of heads=5, got 32. Mend"),
        ({"vision_cfg__pool_type": "avg"}, "image tower .* sets pool_type"),
        ({"vision_cfg__layers": 0}, "layers of the image tower .* got 0. Pick one"),
        ({"vision_cfg": [1]}, "image tower .* Pick one"),
        ({"vision_cfg__head_width": 50}, "multiple of its head_width, got .* and 50. Pick one"),
        ({"vision_cfg__mlp_ratio": 0.001}, "MLP of the image tower .* got .* 0.001. Pick one"),
        ({"quick_gelu": "no"}, "quick_gelu .* true or false .* got 'no'.*Pick one"),
        ({"embed_dim": None}, "embed_dim .* above 0, got None"),
        ({"init_logit_bias": -10}, "sets init_logit_bias. Pick one"),
        ({"multimodal_cfg": {}}, "must be a plain CLIP.* sets multimodal_cfg. Pick one"),
    ],
)
def test_a_configuration_that_is_not_ours(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackboneError, match=message):
        load_clip(**write(tmp_path, changed(CONFIG, **changes)), random_seed=0)


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    for config in ([1], {"embed_dim": 24}, {"model_cfg": 3}):
        with pytest.raises(BackboneError, match=r"got .*model\.json without them. Write it as"):
            load_clip(**write(tmp_path, config))
    (tmp_path / "model.json").write_text("{")
    for name in ("model.json", "none.json"):
        with pytest.raises(BackboneError, match=rf"{name}: .*Check the path"):
            load_backbone(str(tmp_path / name))


def test_a_configuration_file_has_no_weights_and_no_tags(tmp_path: Path) -> None:
    spec = write(tmp_path, CONFIG)
    with pytest.raises(BackboneError, match=r"must be given.*Give weights=FILE"):
        load_clip(**spec)
    with pytest.raises(BackboneError, match="Leave the tag out"):
        load_clip(**spec, tag="openai")


def test_weights_that_do_not_fit_the_text_tower(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    only_image = {key: value for key, value in weights.items() if key.startswith("visual.")}
    with pytest.raises(BackboneError, match=r"text tower in .*model\.safetensors .* missing, as"):
        load_clip(**write(tmp_path, CONFIG, only_image))
    longer = weights | {"positional_embedding": torch.zeros(77, 32)}
    with pytest.raises(BackboneError, match=r"pos_embed \[77, 32\] instead of \[20, 32\]"):
        load_clip(**write(tmp_path, CONFIG, longer))


@pytest.mark.parametrize(("names", "templates"), [([], ["{}"]), (["a"], []), (["a"], ["a photo"])])
def test_names_and_templates_must_be_there(
    clip: Clip, names: list[str], templates: list[str]
) -> None:
    with pytest.raises(BackboneError, match="Give templates such as"):
        clip.encode_text(names, templates)

"""The built-in CLIP: it ships in the package, nothing of it can be exchanged, and it can read."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from edgecl.backbones import (
    BackboneError,
    Clip,
    ViT,
    fetch_weights,
    load_backbone,
    load_clip,
)
from edgecl.backbones._presets import read_preset
from edgecl.backbones.sources import Blueprint, Delta, delta
from edgecl.backbones.sources.delta import merged, untrained_embedding, write_delta
from edgecl.backbones.sources.package import weights_path
from edgecl.streams import load_stream
from edgecl.streams._openemoji_fetch import openemoji10_folder
from edgecl_deploy.format import parse_pack

NAME = "edgecl-clip-s"
EMBEDDING = "token_embedding.weight"
MAX_BYTES = 6_000_000
DIGEST = "3e319709a6568e6ac8caf10fb029735bce64197299428c2c0b0f370288645a12"
VISUAL_DIGEST = "9b4cdb06014b81b91eeae070dbf14b697cad461ace3b9b5e5e84afaaaa7787c5"


def source() -> Delta:
    found = read_preset(NAME).source
    assert isinstance(found, Delta)
    return found


def read_manifest() -> bytes:
    (path,) = (delta.DELTAS / NAME / "packs").iterdir()
    return path.read_bytes()


# What ships


def test_it_says_what_it_changes() -> None:
    pack = parse_pack(read_manifest())
    assert (pack.name, pack.backbone) == (NAME, load_backbone("vit-s14").digest)
    assert {tensor.dtype for tensor in pack.tensors.values()} == {"float16", "int32"}


def test_it_is_small_and_the_wheel_holds_no_other_delta() -> None:
    files = [path for path in (delta.DELTAS / NAME).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    (blob,) = parse_pack(read_manifest()).blobs
    assert {path.name for path in files} == {
        f"{source().pack}.json",
        f"{blob}.safetensors",
        "NOTICE",
    }
    assert [path.name for path in delta.DELTAS.iterdir()] == [NAME]


def test_it_is_float16_and_finite() -> None:
    weights = source().read()
    for name, value in weights.items():
        if value.is_floating_point():
            assert bool(torch.isfinite(value).all()), name
            assert torch.equal(value, value.half().float()), name


def test_untrained_tokens_have_embeddings_of_their_own() -> None:
    size = torch.Size([49408, 192])
    table = source().text_tower(Blueprint({EMBEDDING: size}, lambda _: {}))[EMBEDDING]
    stored = source().read()
    known = stored["text.tokens"].long()
    assert table.shape == size
    assert known[-2:].tolist() == [49406, 49407], "[SOS] and [EOT]"
    assert torch.equal(table[known], stored[f"text.{EMBEDDING}"])
    assert len(table.unique(dim=0)) == len(table)
    assert torch.equal(table, table.half().float())


def test_untrained_embeddings_are_even_and_the_same_everywhere() -> None:
    table = untrained_embedding(400, 192)
    assert table.abs().max() <= 1 / 8
    assert float(table.mean()) == pytest.approx(0, abs=1e-3)
    assert float(table.std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.02)
    assert torch.equal(table[:7], untrained_embedding(7, 192))
    assert (table[0, :4] * 1024).tolist() == [64.5, 51.5, 40.5, 119.5]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the delta, which is read instead."""
    shutil.copytree(delta.DELTAS / NAME, tmp_path / NAME)
    monkeypatch.setattr(delta, "DELTAS", tmp_path)
    return tmp_path / NAME


@pytest.mark.parametrize("part", ["packs", "blobs"])
@pytest.mark.parametrize("harm", ["flipped", "truncated", "longer", "gone"])
def test_a_damaged_file_is_refused(copied: Path, part: str, harm: str) -> None:
    (path,) = (copied / part).iterdir()
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        half = len(data) // 2
        path.write_bytes(
            {
                "flipped": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
                "truncated": data[:-1],
                "longer": data + b" ",
            }[harm]
        )
    with pytest.raises(BackboneError, match=r"must be the one that edgecl ships.*Install edgecl"):
        load_backbone(NAME)


def test_what_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {
        "blocks.0.attn.qkv.weight.a": torch.randn(2, 3).half().float(),
        "text.tokens": torch.tensor([3, 5]),
        "text.logit_scale": torch.tensor([2.5]),
    }
    pack = write_delta(tmp_path / "own", "own", "0" * 64, weights)
    monkeypatch.setattr(delta, "DELTAS", tmp_path)
    found = replace(source(), name="own", pack=pack).read()
    assert set(found) == set(weights)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, check_dtype=False, rtol=0, atol=0)


def test_a_pair_changes_its_weight_only() -> None:
    weights = {"w": torch.zeros(3, 2), "v": torch.ones(2), "w.a": torch.ones(1, 2)}
    weights["w.b"] = torch.tensor([[1.0], [2.0], [3.0]])
    found = merged(weights)
    assert list(found) == ["w", "v"]
    assert found["w"].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert found["v"] is weights["v"]


# Without its base


def test_the_weights_of_its_base_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match="edgecl weights fetch vit-s14"):
        load_clip(NAME)


def test_fetching_it_fetches_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    path = weights_path("vit-s14")
    assert fetch_weights(NAME, progress=said.append) == path
    assert said == [f"vit-s14: already in {path}"]


def test_it_has_no_tags() -> None:
    with pytest.raises(BackboneError, match="Leave the tag out"):
        load_clip(NAME, tag="openai")


def test_random_weights_need_no_file() -> None:
    clip = load_clip(NAME, image_size=28, random_seed=0)
    assert clip.encode_text(["cat", "zebra crossing"]).shape == (2, 256)


# With the real weights, which `make test` fetches first


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(NAME)


def test_its_digests_are_pinned(clip: Clip) -> None:
    assert clip.digest == DIGEST
    assert clip.visual.digest == VISUAL_DIGEST
    again = load_clip(**clip.spec)
    assert (again.digest, again.visual.digest) == (DIGEST, VISUAL_DIGEST)
    assert load_backbone(**clip.visual.spec).digest == VISUAL_DIGEST
    assert load_backbone("vit-s14").digest != VISUAL_DIGEST


def test_its_towers_are_a_plain_vit_and_a_text_tower(clip: Clip) -> None:
    model = clip.visual.model
    assert isinstance(model, ViT)
    base = load_backbone("vit-s14").model
    changed = [
        name
        for name, value in base.state_dict().items()
        if not torch.equal(value, model.state_dict()[name])
    ]
    assert set(model.state_dict()) - set(base.state_dict()) == {"projection"}
    assert {name.split(".")[0] for name in changed} == {"blocks", "norm"}
    assert model(torch.zeros(2, 3, 112, 112)).cls.shape == (2, 256)
    assert clip.text(clip.tokenizer(["a cat"])).shape == (1, 256)
    assert clip.templates[0] == "{}"
    assert not any(p.requires_grad for p in (*model.parameters(), *clip.text.parameters()))


def test_words_that_it_was_never_trained_on_are_apart(clip: Clip) -> None:
    """Else no training of the text tower could tell their classes from each other."""
    known = source().read()["text.tokens"].tolist()
    names = ["croissant", "pizza", "taco", "lobster"]
    tokens = clip.tokenizer(names)[:, 1:-1]
    assert not set(tokens.flatten().tolist()) & set(known)
    texts = clip.encode_text(names, clip.templates)
    cosines = (texts @ texts.T)[~torch.eye(len(names), dtype=torch.bool)]
    assert float(cosines.max()) < 0.9


def test_fewer_blocks_are_fewer_changes(clip: Clip) -> None:
    shallow = load_backbone(NAME, depth=3)
    assert shallow.digest != clip.visual.digest
    assert torch.equal(
        shallow.model.state_dict()["blocks.2.mlp.fc1.weight"],
        clip.visual.model.state_dict()["blocks.2.mlp.fc1.weight"],
    )


def zero_shot(clip: Clip, style: str, name: str, **options: Any) -> tuple[float, int]:
    """Return the share of a style's images whose nearest class name is theirs.

    At most twelve images of every task count.
    """
    stream = load_stream(name, **options)
    classes = clip.encode_text([n.replace("-", " ") for n in stream.classes], clip.templates)
    right = count = 0
    for task in stream.tasks:
        rows = [i for i, text in enumerate(task.test.names) if f"{style}/" in text][:12]
        pixels = [torch.from_numpy(clip.visual.preprocess(task.test.image(i))) for i in rows]
        features = clip.visual.model(clip.visual.preprocess.normalise(torch.stack(pixels))).cls
        nearest = (F.normalize(features, dim=-1) @ classes.T).argmax(dim=1).tolist()
        right += sum(got == task.test.labels[i] for got, i in zip(nearest, rows, strict=True))
        count += len(rows)
    return right / count, count


def test_it_reads_names_that_it_was_never_trained_on(clip: Clip) -> None:
    """In a style that it was never trained on, among 60 names; chance is 1.7 %."""
    found, count = zero_shot(clip, "fluent-emoji", "emoji-demo")
    assert count == 60
    assert found >= 0.1


@pytest.mark.skipif(
    not (openemoji10_folder() / "index.json").exists(), reason="run `edgecl data fetch openemoji10`"
)
@pytest.mark.parametrize(("style", "floor"), [("fluent-emoji", 0.9), ("emojione-v1", 0.65)])
def test_it_reads_the_names_that_it_knows_in_new_styles(
    clip: Clip, style: str, floor: float
) -> None:
    """Among all seen concepts."""
    found, count = zero_shot(
        clip, style, "openemoji10", concepts="seen", test_styles=(style,), increment=96
    )
    assert count >= 60
    assert found >= floor

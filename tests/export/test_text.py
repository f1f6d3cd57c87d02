"""`edgecl export text`: the device tokenises as open_clip and embeds as PyTorch."""

import json
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional as F

from edgecl.backbones import BackboneError, Clip, load_backbone, load_clip, prepare_torchvision
from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import build_method
from edgecl_deploy import TextEncoder
from edgecl_deploy.commands import edgecl
from edgecl_deploy.errors import DigestError, OptionError, SizeError, WrongBackboneError
from edgecl_deploy.text import TEXT_FILE
from edgecl_deploy.tokenizer import _STRAIGHT, Tokenizer
from edgecl_export.bundle import export_program
from edgecl_export.errors import GraphError
from edgecl_export.inspection import inspect
from edgecl_export.text import TOLERANCE, export_text

prepare_torchvision()
import ftfy  # noqa: E402 a dependency of open_clip
import open_clip  # noqa: E402 torchvision is prepared first

CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "head_width": 32, "layers": 2},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}
NAMES = ["cat", "fire engine", "jack-o'-lantern", "🎃", "Straße 42", "it's  they’ll", "!?#%"]
TEMPLATES = ("a photo of a {}.", "a bad sketch of the {}, 42 of them", "{}")
many = settings(max_examples=400, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "model.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def clip(config: Path) -> Clip:
    """Return a random CLIP whose texts differ: its random norms are near 0."""
    clip = load_clip(str(config), random_seed=0)
    for name, parameter in clip.text.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter += 1
    return clip


@pytest.fixture(scope="module")
def exported(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text program that no test changes."""
    out = tmp_path_factory.mktemp("exported") / "text"
    assert export_text(clip, out, TEMPLATES).max_error <= TOLERANCE
    return out


@pytest.fixture
def text(exported: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    return shutil.copytree(exported, tmp_path / "text")


@pytest.fixture(scope="module")
def device(exported: Path) -> TextEncoder:
    return TextEncoder.open(exported)


# -- the tokenizer --


@pytest.fixture(scope="module")
def tokenizer(device: TextEncoder) -> Tokenizer:
    return device.tokenizer


@pytest.fixture(scope="module")
def theirs() -> Callable[[str], list[int]]:
    encode: Callable[[str], list[int]] = open_clip.SimpleTokenizer().encode
    return encode


# What this Python's Unicode does not know yet has no kind for it; a surrogate is no character.
characters = st.characters(exclude_categories=("Cs", "Cn"))
words = st.sampled_from([
    "photo", "jack-o'-lantern", "Don'T", "we’ll", "x'ſ", "<end_of_text>", "<START_OF_TEXT>", "'",
    "''s", "--'re", "3.14", "²½Ⅷ", "&amp;amp;", "&eacute;", "&#9731;", "İI", "ǅ", "e\u0301",
    "\u0345", "α\u0345β", "一二", "😀😀", "👩‍🚒", "🇩🇪", "ʼ", "“q”", "\x1c", "\u3000", "a" * 300,
    "supercalifragilistic",
])  # fmt: skip
texts = st.one_of(
    st.text(characters, max_size=40),
    st.text(st.characters(max_codepoint=127), max_size=60),
    st.text("'sSdTrevlm ", max_size=30),
    st.lists(st.one_of(words, st.text(characters, max_size=6)), max_size=8).map(" ".join),
    st.lists(words, max_size=8).map("".join),
)


def plain(text: str) -> str:
    """Do what the device does in ftfy's place: straight quotes, composed letters."""
    return unicodedata.normalize("NFC", text.translate(_STRAIGHT))


@many
@given(text=texts)
@example(text="Kelvin K, ſ'ſ, ﬁ")
def test_tokens_are_open_clips_behind_ftfy(
    tokenizer: Tokenizer, theirs: Callable[[str], list[int]], text: str
) -> None:
    """Given what ftfy makes of any text, the device gives open_clip's tokens."""
    assert tokenizer.encode(ftfy.fix_text(text)) == theirs(text)


@many
@given(text=texts)
@example(text="“it’s” a cafe\u0301")
def test_tokens_are_open_clips_where_ftfy_does_no_more(
    tokenizer: Tokenizer, theirs: Callable[[str], list[int]], text: str
) -> None:
    """Left out is what ftfy alone changes: mojibake, ligatures, widths, control characters."""
    assume(ftfy.fix_text(text) == plain(text))
    assert tokenizer.encode(text) == theirs(text)


def test_every_character_has_open_clips_tokens(
    tokenizer: Tokenizer, theirs: Callable[[str], list[int]]
) -> None:
    """Alone, and between letters: the classes of the pattern, over all of Unicode's planes."""
    compared = 0
    for code in [*range(0x3000), *range(0x3000, 0x110000, 31)]:
        text = f"a{chr(code)}1{chr(code)}!{chr(code)}"
        if unicodedata.category(chr(code)) in {"Cs", "Cn"} or ftfy.fix_text(text) != plain(text):
            continue
        assert tokenizer.encode(text) == theirs(text), hex(code)
        compared += 1
    assert compared > 10_000


def test_rows_are_those_of_the_workstation(clip: Clip, tokenizer: Tokenizer) -> None:
    assert tokenizer(NAMES).tolist() == clip.tokenizer(NAMES).tolist()
    longest = "cat " * (CONFIG["text_cfg"]["context_length"] - 2)
    assert tokenizer([longest]).tolist() == clip.tokenizer([longest]).tolist()
    with pytest.raises(BackboneError, match="Shorten the class name"):
        clip.tokenizer([longest + "cat"])
    with pytest.raises(OptionError, match="Shorten the class name"):
        tokenizer([longest + "cat"])


# -- the embeddings --


@pytest.mark.parametrize("templates", [None, ("{}",), ("the {}", "a {} and a {}", "{} 2024")])
def test_embeddings_are_pytorchs(clip: Clip, device: TextEncoder, templates: Any) -> None:
    found = device.embed(NAMES, templates)
    expected = clip.encode_text(NAMES, templates or TEMPLATES).numpy()
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    assert np.abs(found - expected).max() <= TOLERANCE
    assert np.abs(np.diff(expected, axis=0)).max(axis=1).min() > 100 * TOLERANCE
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    assert device.scale == pytest.approx(np.exp(clip.logit_scale))


@pytest.mark.parametrize("length", [2, 3, 17, 40])
@pytest.mark.parametrize("batch", [1, 5])
def test_any_length_and_batch(clip: Clip, device: TextEncoder, length: int, batch: int) -> None:
    """[EOT] is the largest id, the first of them; what follows it does not count."""
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(0, 49407, (batch, length), generator=generator)
    tokens[:, length // 2] = tokens[:, -1] = 49407
    with torch.no_grad():
        expected = F.normalize(clip.text(tokens), dim=-1).numpy()
    found = device.encode(tokens.numpy())
    assert np.abs(found - expected).max() <= TOLERANCE
    tokens[:, length // 2 + 1 :] = 0
    np.testing.assert_allclose(device.encode(tokens.numpy()), found, atol=1e-6)


def test_the_device_needs_no_torch(exported: Path) -> None:
    code = (
        "import sys; from edgecl_deploy import TextEncoder; "
        f"TextEncoder.open({str(exported)!r}).embed(['cat']); print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    modules = {name.partition(".")[0] for name in result.stdout.split()}
    assert "onnxruntime" in modules
    assert not modules & {"torch", "edgecl", "edgecl_export", "open_clip", "ftfy", "regex", "onnx"}


# -- the folder --


def test_a_text_program_belongs_to_the_bundle_of_its_images(
    config: Path, text: Path, tmp_path: Path
) -> None:
    backbone = load_backbone(str(config), random_seed=0)
    method = build_method("simplecil", BackboneSpec.of(backbone), {})
    export_program(method.program, backbone, tmp_path / "bundle")
    program = TextEncoder.open(text, tmp_path / "bundle").program
    other = replace(program, backbone=load_backbone(str(config), random_seed=1).digest)
    (text / TEXT_FILE).write_bytes(other.to_bytes())
    with pytest.raises(WrongBackboneError, match="Install the text program that was exported"):
        TextEncoder.open(text, tmp_path / "bundle")


@pytest.mark.parametrize("name", ["text.onnx", "weights.bin", "merges.txt"])
def test_damaged_files_are_refused(text: Path, name: str) -> None:
    data = (text / name).read_bytes()
    (text / name).write_bytes(data[:-1])
    with pytest.raises(SizeError, match="Copy the"):
        TextEncoder.open(text)
    (text / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DigestError, match="Copy the"):
        TextEncoder.open(text)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_export_repeats_itself_and_replaces(clip: Clip, text: Path) -> None:
    before = contents(text)
    assert sorted(before) == ["merges.txt", "text.json", "text.onnx", "weights.bin"]
    export_text(clip, text, TEMPLATES)
    assert contents(text) == before
    export_text(clip, text)
    assert TextEncoder.open(text).program.templates == clip.templates
    assert [path.name for path in text.parent.iterdir()] == ["text"]


def test_a_graph_that_differs_is_not_exported(
    clip: Clip, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(text)
    monkeypatch.setattr(TextEncoder, "encode", lambda self, tokens: np.full((len(tokens), 24), 0.3))
    with pytest.raises(GraphError, match="report this with the versions"):
        export_text(clip, text)
    assert contents(text) == before


def test_an_interrupted_export_is_mended(clip: Clip, text: Path) -> None:
    before = contents(text)
    text.rename(text.with_name(".text.old"))  # what a kill between two renames leaves
    with pytest.raises(BackboneError, match="every template must hold"):
        export_text(clip, text, ["a photo"])
    assert contents(text) == before


def test_other_folders_are_left_alone(clip: Clip, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GraphError, match="Export to a new folder"):
        export_text(clip, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


# -- the command --


def test_the_command(config: Path, clip: Clip, tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: v.shape for name, v in open_clip.CLIP(**CONFIG).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "model.safetensors")
    arguments = [
        "export", "text", str(config), "--weights", str(tmp_path / "model.safetensors"),
        "--template", "the {}", "--image-size", "48", "-o", str(tmp_path / "text"),
    ]  # fmt: skip
    result = CliRunner().invoke(edgecl, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    model = load_clip(str(config), weights=tmp_path / "model.safetensors", image_size=48)
    assert said["text"] == str(tmp_path / "text")
    assert (said["clip"], said["backbone"]) == (model.digest, model.visual.digest)
    assert said["max_error"] <= TOLERANCE
    shown = inspect(tmp_path / "text")
    assert (shown["kind"], shown["digest"], shown["templates"]) == (
        "text",
        said["digest"],
        ["the {}"],
    )
    assert sum(shown["bytes"].values()) == said["bytes"]
    found = TextEncoder.open(tmp_path / "text").embed(NAMES)
    assert np.abs(found - model.encode_text(NAMES, ["the {}"]).numpy()).max() <= TOLERANCE

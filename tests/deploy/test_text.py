"""The text program on a device: a tokenizer without packages, digests before use, named errors."""

import json
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner
from tests.deploy.support.texts import MERGES, TABLE, VOCAB, WIDTH, write_text

from edgecl_deploy import TextEncoder, engines, errors
from edgecl_deploy.cli import device
from edgecl_deploy.format import (
    digest,
    parse_merges,
    parse_text,
    write_merges,
)
from edgecl_deploy.tokenizer import Tokenizer


@pytest.fixture
def make(world):
    """Return a function that writes a text program for the world's bundle."""
    return partial(write_text, world)


def unit(row):
    return row / np.linalg.norm(row)


# -- the tokenizer --


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("", ""),
        ("abc", "abc</w>"),
        ("ABC  abc\n", "abc</w> abc</w>"),
        ("caab", "ca a b</w>"),
        ("ab", "a b</w>"),
        ("12", "1</w> 2</w>"),
        ("a'd!?", "a</w> ' d</w> ! ?</w>"),
        ("a’d", "a</w> ' d</w>"),
        ("&lt;", "<</w>"),
        ("é", "Ã ©</w>"),
        ("e\u0301", "Ã ©</w>"),
    ],
)
def test_words_and_merges(text, symbols):
    tokenizer = Tokenizer(MERGES, 8)
    assert tokenizer.encode(text) == [tokenizer._ids[symbol] for symbol in symbols.split()]


def test_the_markers_are_words():
    tokenizer = Tokenizer(MERGES, 8)
    assert (tokenizer.start, tokenizer.end) == (517, 518)
    assert tokenizer.encode("<END_of_text><start_of_text>") == [518, 517]


def test_rows_are_as_long_as_the_longest_text():
    tokenizer = Tokenizer(MERGES, 8)
    abc, a, b = (tokenizer._ids[symbol] for symbol in ("abc</w>", "a</w>", "b</w>"))
    tokens = tokenizer(["abc", "a b"])
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [[517, abc, 518, 0], [517, a, b, 518]]


def test_a_long_text_is_refused_not_cut():
    tokenizer = Tokenizer(MERGES, 8)
    assert tokenizer(["1 2 3 4 5 6"]).shape == (1, 8)
    with pytest.raises(errors.OptionError, match=r"9 in '1 2 3 4 5 6 7'. Shorten the class name"):
        tokenizer(["1", "1 2 3 4 5 6 7"])


def test_the_end_mark_is_refused_inside_a_text():
    tokenizer = Tokenizer(MERGES, 8)
    with pytest.raises(errors.OptionError, match=r"<end_of_text>.*'a <END_OF_TEXT> b'. Change"):
        tokenizer(["a b", "a <END_OF_TEXT> b"])


# -- the encoder --


def test_embeddings_are_means_over_templates(make, world):
    encoder = TextEncoder.open(make(), world.bundle_path)
    abc, a = (encoder.tokenizer._ids[symbol] for symbol in ("abc</w>", "a</w>"))
    alone = TABLE[[517, abc, 518]].sum(axis=0)
    found = encoder.embed(["abc"], ["{}"])
    np.testing.assert_allclose(found, [unit(alone)], rtol=1e-5)
    assert found.dtype == np.float32
    # This graph sums all columns: the shorter text ends with a zero.
    both = unit(alone + TABLE[0]) + unit(TABLE[[517, a, abc, 518]].sum(axis=0))
    np.testing.assert_allclose(encoder.embed(["abc"]), [unit(both)], rtol=1e-5)
    assert encoder.scale == 1.0


def test_many_texts_go_in_several_runs(make):
    encoder = TextEncoder.open(make())
    names = [f"{i:02d}" for i in range(40)]
    found = encoder.embed(names, ["{}"])
    one = np.concatenate([encoder.embed([name], ["{}"]) for name in names])
    np.testing.assert_allclose(found, one, rtol=1e-6)


def test_a_name_is_embedded_in_the_form_that_packs_hold(make):
    encoder = TextEncoder.open(make())
    composed, decomposed = encoder.embed(["K\u00e4se"]), encoder.embed([" Ka\u0308se "])
    assert np.array_equal(composed, decomposed)


@pytest.mark.parametrize(
    ("names", "templates", "action"),
    [
        ([], None, "Give one"),
        (["a"], [], "Give one"),
        ("abc", None, "Give one"),
        ([""], None, "Rename it"),
        (["a\nb"], None, "Rename it"),
        (["\ud800"], None, "Rename it"),
        (["a" * 201], None, "Rename it"),
        (["a"], ["a photo"], "Write it so"),
    ],
)
def test_names_and_templates_are_checked(make, names, templates, action):
    encoder = TextEncoder.open(make())
    with pytest.raises(errors.OptionError, match=action):
        encoder.embed(names, templates)


@pytest.mark.parametrize("name", ["text.onnx", "weights.bin", "merges.txt"])
def test_damaged_files_are_refused(make, name):
    folder = make()
    data = (folder / name).read_bytes()
    for damaged, error in (
        (data[:-1], errors.SizeError),
        (data + b"\n", errors.SizeError),
        (bytes([data[0] ^ 1]) + data[1:], errors.DigestError),
    ):
        (folder / name).write_bytes(damaged)
        with pytest.raises(error, match="Copy the"):
            TextEncoder.open(folder)
    (folder / name).unlink()
    with pytest.raises(errors.MissingFileError, match="Copy the whole directory"):
        TextEncoder.open(folder)


def test_the_image_tower_must_be_the_bundles(make, world):
    folder = make(backbone=digest(b"another"))
    TextEncoder.open(folder)
    with pytest.raises(errors.WrongBackboneError, match="Install the text program"):
        TextEncoder.open(folder, world.bundle_path)


def test_the_graph_must_keep_its_contract(make):
    with pytest.raises(errors.EngineError, match="edgecl export text"):
        TextEncoder.open(make(output="other"))
    encoder = TextEncoder.open(make(width=WIDTH + 1))
    with pytest.raises(errors.EngineError, match="edgecl export text"):
        encoder.embed(["abc"])


def test_an_engine_needs_dynamic_shapes(make, fake_engine):
    fake_engine.able = engines.Capabilities(empty_tensors=True, dynamic_shapes=False)
    with pytest.raises(errors.OptionError, match="Use engine='onnxruntime'"):
        TextEncoder.open(make(), engine="fake")


# -- the files --


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"format": "edgecl-text/2"}, errors.FormatVersionError, "Install the edgecl-deploy"),
        ({"format": "edgecl-bundle/1"}, errors.ManifestError, "Pass the right file"),
        ({"backbone": "../x"}, errors.PathError, "backbone must be a SHA-256"),
        ({"tokenizer": "words"}, errors.ManifestError, "tokenizer must be one of clip-bpe"),
        ({"context_length": 2}, errors.ManifestError, "context_length must be"),
        ({"vocab_size": 512}, errors.ManifestError, "vocab_size must be"),
        ({"logit_scale": 1e3}, errors.ManifestError, "logit_scale must be"),
        ({"templates": []}, errors.ManifestError, "templates must be texts with"),
        ({"templates": ["a photo"]}, errors.ManifestError, "templates must be texts with"),
        ({"templates": ["{}"] * 1025}, errors.LimitError, "at most 1024"),
        ({"tolerance": -1}, errors.ManifestError, "tolerance must be"),
    ],
)
def test_a_malformed_manifest_is_refused(make, changes, error, message):
    value = json.loads((make() / "text.json").read_bytes())
    with pytest.raises(error, match=message):
        parse_text(json.dumps({**value, **changes}).encode())


def test_files_are_different_and_plain(make):
    value = json.loads((make() / "text.json").read_bytes())
    with pytest.raises(errors.ManifestError, match="must name different files"):
        parse_text(json.dumps({**value, "merges": value["graph"]}).encode())
    outside = {**value["graph"], "file": "../text.onnx"}
    with pytest.raises(errors.PathError, match="without a folder"):
        parse_text(json.dumps({**value, "graph": outside}).encode())


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"\xff", errors.ManifestError, "must be UTF-8"),
        (b"a b", errors.ManifestError, "lines of two parts"),
        (b"a  b\n", errors.ManifestError, "lines of two parts"),
        (b"a\n", errors.ManifestError, "lines of two parts"),
        (b"a b\nb c\na d\n", errors.LimitError, "at most 2"),
        (b"a bc\nab c\n", errors.DuplicateKeyError, "make each token once"),
    ],
)
def test_malformed_merges_are_refused(data, error, message):
    with pytest.raises(error, match=message):
        parse_merges(data, 516)


def test_merges_round_trip():
    assert parse_merges(write_merges(MERGES), VOCAB) == MERGES
    assert parse_merges(b"", VOCAB) == ()


# -- the command --


@pytest.fixture
def run():
    def invoke(*arguments):
        return CliRunner().invoke(device, ["text", *map(str, arguments)])

    return invoke


def test_the_command_embeds_names(make, world, run):
    folder = make()
    result = run(folder, "abc", "12", "--bundle", world.bundle_path)
    assert result.exit_code == 0, result.output
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["abc", "12"]
    assert result.stdout.endswith("3 numbers\n")
    result = run(folder, "abc", "12", "--template", "{}", "--json")
    said = json.loads(result.stdout)
    assert (said["clip"], said["scale"]) == (digest(b"clip"), 1.0)
    assert said["backbone"] == world.bundle.backbone.digest
    expected = TextEncoder.open(folder).embed(["abc", "12"], ["{}"])
    np.testing.assert_allclose(list(said["embeddings"].values()), expected, rtol=1e-6)


def test_the_command_fails_in_one_line(make, world, run):
    result = run(make(backbone=digest(b"another")), "abc", "--bundle", world.bundle_path)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    result = run(make(), "1 2 3 4 5 6 7")
    assert result.exit_code == 2
    assert "Shorten the class name or the template." in result.stderr

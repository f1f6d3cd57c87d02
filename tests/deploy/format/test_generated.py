"""Tensors that the device makes, heads that every task replaces, taps, and one adapted pass."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.deploy.support.world import INJECT, MEAN, node, scoring, write_graph

from edgecl_deploy import Classifier, errors
from edgecl_deploy.format import (
    IRWIN_HALL,
    Generator,
    LearnedSpec,
    PackTensor,
    Program,
    digest,
    generate,
    learned_from,
    parse_bundle,
    parse_pack,
    probe,
    write_tensors,
)

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "generated.json"
# A change here is a change of the generator: give it another name, and keep this one.
GOLDEN_DIGEST = "52685ec4fc830a0c875862fe438bebf9d55ea3b154ab20556c5ccff3fed9e776"
FIRST = [0.195281982421875, -0.3812408447265625, 0.0090789794921875, -0.8635406494140625]
SHAPE = (384, 50)
PROBE = "47b33b1652cd47a428503c602ac9ee4729e6401f44506e8ec1e7a8f08ecb3068"


# -- the generator


def philox(seed: int, blocks: int) -> list[int]:
    """Philox4x64-10 (Salmon et al., SC 2011) in whole numbers, from the counter 1 on."""
    mask = 2**64 - 1
    words = []
    for counter in range(1, blocks + 1):
        a, b, c, d = counter, 0, 0, 0
        left, right = seed, 0
        for _ in range(10):
            one, two = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
            a, b, c, d = (
                (two >> 64) ^ b ^ left, two & mask, (one >> 64) ^ d ^ right, one & mask,
            )  # fmt: skip
            left, right = left + 0x9E3779B97F4A7C15 & mask, right + 0xBB67AE8584CAA73B & mask
        words += [a, b, c, d]
    return words


@pytest.mark.parametrize("seed", [0, 1993, 2**53 - 1])
def test_the_values_are_those_of_the_documentation(seed):
    words = philox(seed, 15)  # 60 words: 20 values
    integers = [word >> shift & 0xFFFF for word in words for shift in (0, 16, 32, 48)]
    sums = [sum(integers[start : start + 12]) for start in range(0, len(integers), 12)]
    want = [(each - 12 * 65535 / 2) / 2**16 for each in sums]
    assert generate(IRWIN_HALL, seed, (20,)).tolist() == want


def test_the_golden_tensor():
    array = generate(IRWIN_HALL, 1993, SHAPE)
    assert array.dtype == np.float32
    assert not array.flags.writeable
    assert array[0, :4].tolist() == FIRST
    assert probe(array) == PROBE
    np.testing.assert_array_equal(generate(IRWIN_HALL, 1993, (5, 2)).ravel(), array.ravel()[:10])
    assert not np.array_equal(generate(IRWIN_HALL, 1994, SHAPE), array)


def test_chunks_leave_no_seam(monkeypatch):
    whole = generate(IRWIN_HALL, 5, (1000,))
    monkeypatch.setattr("edgecl_deploy.format._generated._CHUNK", 64)
    np.testing.assert_array_equal(generate(IRWIN_HALL, 5, (1000,)), whole)


def test_the_values_are_nearly_normal():
    values = generate(IRWIN_HALL, 7, (400_000,)).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - (3 - 1.2 / 12)) < 0.05  # Irwin-Hall's kurtosis
    assert np.abs(values).max() < 6


def test_another_process_makes_the_same_bits():
    code = f"from edgecl_deploy.format import *;print(probe(generate(IRWIN_HALL, 1993, {SHAPE})))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == PROBE


def test_what_cannot_be_generated():
    with pytest.raises(errors.GeneratorError, match=r"one of philox-irwin-hall/1.*Install the"):
        generate("xorshift/1", 0, (2,))
    for shape in ((4097, 4096), (2**31, 2**31), (0, 2**40)):
        with pytest.raises(errors.LimitError, match="Learn with a smaller projection"):
            generate(IRWIN_HALL, 0, shape)


# -- in a pack


def spec():
    return LearnedSpec(("d", "m"), {"d": SHAPE[0], "m": SHAPE[1]}, None)


def tensor(**changes):
    how = Generator(IRWIN_HALL, 1993, PROBE)
    own = PackTensor("float32", SHAPE, ("d", "m"), None, None, generator=how)
    return replace(own, **changes)


def with_projection(world, pack, **changes):
    own, blobs = pack
    return replace(own, tensors={**own.tensors, "projection": tensor(**changes)}), blobs


def program_with(world, **learned):
    plain = world.bundle.programs["plain"]
    return replace(plain, learned={**plain.learned, **learned})


def joined(program, *packs):
    blobs = {name: data for _, each in packs for name, data in each.items()}
    return learned_from(program, [pack for pack, _ in packs], blobs)


def test_a_golden_manifest_is_read_and_written_back():
    data = GOLDEN.read_bytes()
    assert digest(data) == GOLDEN_DIGEST
    pack = parse_pack(data)
    assert pack.to_bytes() == data
    assert pack.tensors["projection"] == tensor()
    assert pack.tensors["projection"].generator.make(SHAPE)[0, :4].tolist() == FIRST


def test_it_is_made_once_and_never_again(world):
    program = program_with(world, projection=spec())
    first = with_projection(world, world.pack(0, ("red",)))
    learned = joined(program, first, world.pack(1, ("green",)))
    assert probe(learned["projection"]) == PROBE
    assert not learned["projection"].flags.writeable
    assert learned["projection"].flags.c_contiguous
    assert learned["prototypes"].shape == (2, 3)


def test_a_wrong_probe_is_refused_before_use(world):
    program = program_with(world, projection=spec())
    wrong = Generator(IRWIN_HALL, 1994, PROBE)
    pack = with_projection(world, world.pack(0, ("red",)), generator=wrong)
    with pytest.raises(errors.GeneratorError, match=r"digest .* Export the task again"):
        joined(program, pack)


def test_nothing_is_made_before_the_sizes_are_known(world, monkeypatch):
    monkeypatch.setattr("edgecl_deploy.manifest.limits.MAX_LEARNED", 1000)
    monkeypatch.setattr(
        "edgecl_deploy.format._generated.generate", lambda *_: pytest.fail("too early")
    )
    pack = with_projection(world, world.pack(0, ("red",)))
    with pytest.raises(errors.LimitError, match="Release fewer tasks"):
        joined(program_with(world, projection=spec()), pack)


def test_it_must_be_what_the_program_declares(world):
    program = program_with(world, projection=spec())
    for changes, error in [
        ({"shape": (384, 51)}, errors.TensorShapeError),
        ({"axes": ("m", "d")}, errors.TensorAxesError),
    ]:
        with pytest.raises(error, match="Export the task again"):
            joined(program, with_projection(world, world.pack(0, ("red",)), **changes))
    with pytest.raises(errors.ExtraTensorError, match="Export the task again"):
        joined(world.bundle.programs["plain"], with_projection(world, world.pack(0, ("red",))))


def test_a_tensor_from_nowhere(world):
    program = program_with(world, projection=spec())
    pack = with_projection(world, world.pack(0, ("red",)), generator=None)
    with pytest.raises(errors.MissingTensorError, match="in a blob or generated"):
        joined(program, pack)


# -- a head that every task replaces


def with_head(pack, rows):
    own, blobs = pack
    blob = write_tensors({"head": np.ones((rows, 2), np.float32)})
    entry = PackTensor("float32", (rows, 2), ("c", "m"), None, digest(blob))
    return (
        replace(own, tensors={**own.tensors, "head": entry},
                blobs={**own.blobs, digest(blob): len(blob)}),
        {**blobs, digest(blob): blob},
    )  # fmt: skip


def test_a_replaced_head_has_the_rows_of_all_packs_so_far(world):
    program = program_with(world, head=LearnedSpec(("c", "m"), {"m": 2}, None))
    first = with_head(world.pack(0, ("red",)), 1)
    second = with_head(world.pack(1, ("green", "blue")), 3)
    assert joined(program, first, second)["head"].shape == (3, 2)
    assert joined(program, first)["head"].shape == (1, 2)
    short = with_head(world.pack(1, ("green", "blue")), 2)
    with pytest.raises(errors.TensorShapeError, match=r"head of pack 1 must have 3 .* Export the"):
        joined(program, first, short)
    with pytest.raises(errors.TensorShapeError, match=r"head of pack 1 must have 2 .* Export the"):
        joined(program, second)
    with pytest.raises(errors.TensorShapeError, match=r"the axis c of head must have the size 2"):
        joined(program, first, world.pack(1, ("green",)))


def test_rows_of_a_domain_count(world):
    program = program_with(world, head=LearnedSpec(("c", "m"), {"m": 2}, None))
    first = with_head(world.pack(0, ("red",)), 1)
    again = with_head(world.pack(1, ("red",), known=("red",)), 2)
    assert joined(program, first, again)["head"].shape == (2, 2)


# -- programs with taps, and with the adapted pass alone


def rewrite(world, **programs: Program):
    bundle = replace(world.bundle, programs=programs)
    (world.bundle_path / "bundle.json").write_bytes(bundle.to_bytes())
    assert parse_bundle(bundle.to_bytes()) == bundle


def test_taps_reach_the_classifier(world):
    """The plain program whose colour comes by way of the taps; its cls is twice as large."""
    folder, plain = world.bundle_path, world.bundle.programs["plain"]
    encode = write_graph(
        folder / "plain.encode.onnx",
        [*MEAN, node("Identity", "colour", "taps"), node("Add", "colour colour", "cls"),
         node("Identity", "colour", "prompt")],
        "image",
        "cls prompt taps",
    )  # fmt: skip
    classify = write_graph(
        folder / "plain.classify.onnx",
        scoring("plain_taps"),
        "plain_taps prototypes",
        "scores feature",
    )
    staged = replace(plain.staged, encode_dynamic=encode, encode_fixed=encode, classify=classify)
    rewrite(world, plain=replace(plain, staged=staged, taps=1))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    release = world.release("red", "green")
    want = Classifier.open(folder, release, form="fused").scores(images).scores
    for slots in ("dynamic", "fixed"):
        device = Classifier.open(folder, release, form="staged", slots=slots)
        np.testing.assert_allclose(device.scores(images).scores, want, atol=1e-6)


def test_tokens_reach_the_classifier_which_may_make_the_match_itself(world):
    """The plain program whose colour comes by way of the tokens, with a match found after them."""
    folder, plain = world.bundle_path, world.bundle.programs["plain"]
    encode = write_graph(
        folder / "plain.encode.onnx",
        [*MEAN, node("Identity", "colour", "tokens"), node("Add", "colour colour", "cls"),
         node("Identity", "colour", "prompt")],
        "image",
        "cls prompt tokens",
    )  # fmt: skip
    best = [
        node("ReduceMax", "scores axis_1", "match_score", keepdims=1),
        node("ArgMax", "scores", "match", axis=1, keepdims=1),
    ]
    classify = write_graph(
        folder / "plain.classify.onnx",
        [*scoring("plain_tokens"), *best],
        "plain_tokens prototypes",
        "scores feature match match_score",
    )
    staged = replace(plain.staged, encode_dynamic=encode, encode_fixed=encode, classify=classify)
    rewrite(world, plain=replace(plain, staged=staged, tokens=True))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    release = world.release("red", "green")
    want = Classifier.open(folder, release, form="fused").scores(images).scores
    for slots in ("dynamic", "fixed"):
        got = Classifier.open(folder, release, form="staged", slots=slots).scores(images)
        np.testing.assert_allclose(got.scores, want, atol=1e-6)
        np.testing.assert_array_equal(got.match[:, 0], want.argmax(axis=1))
        np.testing.assert_allclose(got.match_score[:, 0], want.max(axis=1), atol=1e-6)


def test_a_program_without_taps_or_tokens_is_written_as_before(world):
    data = world.bundle.to_bytes()
    assert b"taps" not in data
    assert b"tokens" not in data
    assert parse_bundle(data).programs["plain"].taps == 0
    assert not parse_bundle(data).programs["plain"].tokens
    with pytest.raises(errors.ManifestError, match="true or false"):
        parse_bundle(data.replace(b'"slots":{},', b'"slots":{},"tokens":1,'))
    with pytest.raises(errors.ManifestError, match="a whole number"):
        parse_bundle(data.replace(b'"slots":{},', b'"slots":{},"taps":-1,'))


def test_the_adapted_pass_alone(world):
    """The shift of `pool` without its match and without a plain pass."""
    folder, pool = world.bundle_path, world.bundle.programs["pool"]
    shift = [INJECT[1], node("Add", "colour shift_sum", "shifted")]
    ends = [node("Identity", "shifted", "cls"), node("Identity", "shifted", "prompt")]
    flat = [
        node("ReduceMin", "colour axis_1", "low", keepdims=1),
        node("Sub", "low low", "nought"),
        node("Cast", "nought", "match", to=7),
        node("Exp", "nought", "match_score"),
    ]
    encode = write_graph(
        folder / "pool.encode.onnx", [*MEAN, *shift, *ends], "image shift", "cls prompt"
    )
    program = replace(
        pool,
        learned={name: pool.learned[name] for name in ("prototypes", "shift")},
        passes=("injected",),
        slots={"shift": pool.slots["shift"]},
        matcher="none",
        fused=write_graph(
            folder / "pool.fused.onnx",
            [*MEAN, *flat, *shift, *scoring("shifted")],
            "image prototypes shift",
            "scores feature match match_score",
        ),
        staged=replace(pool.staged, match=None, encode_dynamic=encode, encode_fixed=encode),
    )
    rewrite(world, pool=program)
    tensors = {"prototypes": np.eye(3, dtype=np.float32)[:1], "shift": np.full((1, 3), 0.5)}
    pack = world.pack(0, ("red",), program="pool", tensors=tensors)
    release = world.made(pack).write(world.fresh())
    images = np.full((2, 8, 8, 3), 51, np.uint8)
    for form, slots in (("fused", "dynamic"), ("staged", "dynamic")):
        got = Classifier.open(folder, release, form=form, slots=slots).scores(images)
        np.testing.assert_allclose(got.scores, np.full((2, 1), 0.7), atol=1e-3)
        assert got.match.tolist() == [[0], [0]]


def test_a_match_needs_the_plain_pass(world):
    data = world.bundle.to_bytes().replace(b'["plain","injected"]', b'["injected"]')
    with pytest.raises(errors.ManifestError, match="with plain where there is a match"):
        parse_bundle(data)

"""Variants of a bundle and the licence of a release: what is read, what counts as absent."""

import copy
import json
from pathlib import Path

import pytest

from edgecl_deploy.errors import LimitError, ManifestError
from edgecl_deploy.format import Licence, parse_bundle, parse_release

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
BUNDLE = json.loads((GOLDEN / "bundle.int8.json").read_bytes())
RELEASE = json.loads((GOLDEN / "release.int8.json").read_bytes())


def changed(original, path, value):
    found = copy.deepcopy(original)
    inner = found
    *keys, last = path.split("/")
    for key in keys:
        inner = inner[key]
    inner[last] = value
    return json.dumps(found).encode()


def test_a_variant_is_the_program_with_other_encoders():
    bundle = parse_bundle((GOLDEN / "bundle.int8.json").read_bytes())
    assert bundle.precisions("pool") == ("float32", "bfloat16", "int8", "int8-bfloat16")
    assert bundle.build("pool", "int8-bfloat16") == bundle.build("pool", "int8")
    build, floats = bundle.build("pool", "int8"), bundle.build("pool", "float32")
    assert (build.weights.file, build.group) == ("weights.int8.bin", 64)
    assert build.program.fused.file == "pool.int8.fused.onnx"
    assert build.program.staged.encode_fixed.file == "pool.int8.encode.fixed.onnx"
    assert build.program.staged.match == floats.program.staged.match
    assert build.program.staged.classify == floats.program.staged.classify
    assert (floats.weights, floats.group) == (bundle.weights, 0)
    assert bundle.build("pool", "bfloat16") == floats
    ran = {ref.file for ref in build.program.files()}
    assert not ran & {"pool.fused.onnx", "pool.encode.onnx", "pool.encode.fixed.onnx"}


def test_the_files_of_variants_are_listed():
    old = parse_bundle((GOLDEN / "bundle.json").read_bytes()).files()
    new = parse_bundle((GOLDEN / "bundle.int8.json").read_bytes()).files()
    assert {ref.file for ref in new} - {ref.file for ref in old} == {
        "weights.int8.bin",
        "plain.int8.fused.onnx",
        "plain.int8.encode.onnx",
        "pool.int8.fused.onnx",
        "pool.int8.encode.onnx",
        "pool.int8.encode.fixed.onnx",
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("variants/int8/scheme", "w4-block"),
        ("variants/int8", {"scheme": "w4-block"}),  # whatever else it needs
        ("variants", {"int3": {"scheme": "w8-column"}}),
    ],
)
def test_what_a_reader_does_not_know_is_absent_and_kept(path, value):
    data = changed(BUNDLE, path, value)
    if path == "variants/int8":
        other = json.loads(data)
        other["programs"]["pool"]["variants"]["int8"] = {"blocks": [4]}
        data = json.dumps(other).encode()
    bundle = parse_bundle(data)
    assert bundle.precisions("pool") == ("float32", "bfloat16")
    assert not [ref for ref in bundle.files() if "int8" in ref.file]
    assert json.loads(bundle.to_bytes()) == json.loads(data)


def test_a_licence_of_an_unknown_precision_is_absent_and_kept():
    data = changed(RELEASE, "canaries/variants/int3", {"blocks": [4]})
    release = parse_release(data)
    assert release.licence("int8") == Licence(0.004, 0.99375, 160, 1, "openvino 2026.4.1")
    assert release.licence("int3") is None
    assert json.loads(release.to_bytes()) == json.loads(data)


def test_a_release_without_canaries_has_no_licence():
    data = changed(RELEASE, "canaries", None)
    assert parse_release(data).licence("int8") is None


@pytest.mark.parametrize("group", [0, 16, 48, 64, 384, 4096])
def test_groups(group):
    found = parse_bundle(changed(BUNDLE, "variants/int8/group", group))
    assert found.variants["int8"].group == group


@pytest.mark.parametrize("group", [-1, 8, 12, 20, 65, 80, 6144, 2**63, True, "64", 64.0])
def test_other_groups_are_refused(group):
    with pytest.raises(ManifestError, match="group must be"):
        parse_bundle(changed(BUNDLE, "variants/int8/group", group))


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("variants/int8/weights/file", "../weights.bin", "plain file name"),
        ("variants/int8/calibration/images", 0, "images must be"),
        ("programs/pool/variants/int8/fused", {}, "must have the field"),
        ("programs/pool/variants/int8/fused/file", "weights.bin", "one digest"),
        ("variants", {f"int{n}": {} for n in range(9)}, "at most 8"),
    ],
)
def test_malformed_variants_are_refused(path, value, error):
    with pytest.raises((ManifestError, LimitError), match=error):
        parse_bundle(changed(BUNDLE, path, value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("atol", -1),
        ("agreement", 1.1),
        ("images", 0),
        ("lost", 161),
        ("rejected", 161),
        ("rejected", None),
    ],
)
def test_malformed_licences_are_refused(field, value):
    with pytest.raises(ManifestError, match=f"int8.{field} must be"):
        parse_release(changed(RELEASE, f"canaries/variants/int8/{field}", value))

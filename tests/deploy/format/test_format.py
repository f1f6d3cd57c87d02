"""The format: golden files, canonical form, unknown fields, and how packs join."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from edgecl_deploy import errors
from edgecl_deploy.format import (
    PackIndex,
    canonical,
    check_release,
    class_rows,
    digest,
    learned_from,
    live_rows,
    parse_bundle,
    parse_index,
    parse_pack,
    parse_release,
    parse_text,
    read_tensors,
    verify,
    write_tensors,
)

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
PARSERS = {
    "bundle.json": parse_bundle,
    "bundle.int8.json": parse_bundle,
    "pack.json": parse_pack,
    "release.json": parse_release,
    "release.int8.json": parse_release,
    "index.json": parse_index,
    "text.json": parse_text,
}
# A change here is a change of the format: bump its version, and read the old one too.
DIGESTS = {
    "bundle.json": "46b7de4268ae6c3d3c857321f24e6005c1b8b9a402685ec7a7f53c5d98c2dc9f",
    "bundle.int8.json": "3584e93539146e8fc62ef12a39e84afe8eb87831a62207b6b69880d24452e875",
    "release.int8.json": "b59058807dfd29c4e67dd78d3acae639c9a66ae549b04dd6b2a3a5a8e36fc454",
    "pack.json": "2cb0acffb219419c11fee973f9f76cd1d9723027513715c037d4ffad0c5c7550",
    "release.json": "0112ab8ee687a55afc8854a530506dd3091894f0efe397f9b9d0f0721ab92a39",
    "index.json": "9e363a414c7f633bdb24b981e306354439b23f8678dfac7f6d76e4a24e92cde3",
    "text.json": "d859e3bb56b22ad558c5b916a1313baee9bedd1e7d1c84287c57e5c8125e11d0",
    "blob.safetensors": "e01a5aecfbfe8dc88cb859d96ab2cddac5d8ec3816e6b37b934cbd0120ffbfd0",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_golden_files_are_unchanged(name):
    assert digest((GOLDEN / name).read_bytes()) == DIGESTS[name]


@pytest.mark.parametrize("name", PARSERS)
def test_golden_manifests_are_read_and_written_back(name):
    data = (GOLDEN / name).read_bytes()
    assert PARSERS[name](data).to_bytes() == data


def test_golden_values():
    bundle = parse_bundle((GOLDEN / "bundle.json").read_bytes())
    pack = parse_pack((GOLDEN / "pack.json").read_bytes())
    release = parse_release((GOLDEN / "release.json").read_bytes())
    blob = (GOLDEN / "blob.safetensors").read_bytes()
    assert release.packs == (digest((GOLDEN / "pack.json").read_bytes()),)
    assert release.bundle == digest((GOLDEN / "bundle.json").read_bytes())
    assert (release.number, release.parent, release.calibration.unknown_below) == (2, 1, 0.5)
    assert (pack.task, pack.classes) == (0, ("red", "grün"))
    program = bundle.programs["pool"]
    assert program.slots["chosen"].shape(2, 0) == (2, 0, 3)
    learned = learned_from(program, [pack], {digest(blob): blob})
    np.testing.assert_array_equal(learned["prototypes"], [[1, 0, 0], [0, 1, 0]])
    assert {name: array.shape for name, array in learned.items()} == {
        "prototypes": (2, 3),
        "keys": (1, 3),
        "prompts": (1, 2, 3),
        "shift": (1, 3),
    }


def test_the_golden_blob_is_written_byte_for_byte():
    blob = (GOLDEN / "blob.safetensors").read_bytes()
    assert write_tensors(read_tensors(blob)) == blob


@pytest.mark.parametrize("name", PARSERS)
def test_unknown_fields_are_kept(name):
    value = json.loads((GOLDEN / name).read_bytes())
    value["later"] = {"a": [1, 2.5, None, "x"]}
    if name == "bundle.json":
        value["programs"]["pool"]["slots"]["chosen"]["later"] = True
        value["programs"]["pool"]["fused"]["later"] = True
    if name == "pack.json":
        value["tensors"]["keys"]["later"] = "x"
    assert json.loads(PARSERS[name](canonical(value)).to_bytes()) == value


def test_canonical_form_is_sorted_compact_utf8():
    assert canonical({"b": 1, "a": ["ü", 0.5, None]}) == '{"a":["ü",0.5,null],"b":1}'.encode()
    with pytest.raises(ValueError, match="Out of range float"):
        canonical({"a": float("nan")})


def test_an_index_round_trips():
    index = PackIndex(("ab" * 32, "cd" * 32))
    assert parse_index(index.to_bytes()) == index


def test_verify_has_one_error_for_the_size_and_one_for_the_digest():
    verify(b"abc", digest(b"abc"), 3, "blob")
    verify(b"abc", digest(b"abc"), None, "blob")
    with pytest.raises(errors.SizeError, match="Copy the file again"):
        verify(b"ab", digest(b"abc"), 3, "blob")
    with pytest.raises(errors.DigestError, match="Copy the file again"):
        verify(b"abd", digest(b"abc"), 3, "blob")


def test_tensors_round_trip_and_are_read_only():
    tensors = {
        name: np.arange(6).reshape(shape).astype(dtype)
        for name, shape, dtype in [
            ("half", (2, 3), np.float16), ("single", (6,), np.float32), ("double", (1, 6), float),
            ("long", (3, 2), np.int64), ("int", (6, 1), np.int32), ("byte", (6,), np.uint8),
            ("small", (2, 3), np.int8),
        ]
    }  # fmt: skip
    tensors.update(empty=np.zeros((0, 4), np.float32), scalar=np.array(2.5, np.float32))
    data = write_tensors(tensors)
    theirs, ours = safetensors.numpy.load(data), read_tensors(data)
    assert ours.keys() == theirs.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(ours[name], array)
        np.testing.assert_array_equal(theirs[name], array)
        assert ours[name].dtype == array.dtype
        assert ours[name].shape == array.shape
        assert not ours[name].flags.writeable
    assert write_tensors(dict(reversed(tensors.items()))) == data


def test_an_array_that_is_not_contiguous_is_written_as_it_reads():
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(read_tensors(write_tensors({"a": array}))["a"], array)


def test_a_dtype_outside_the_list_is_not_written():
    with pytest.raises(errors.TensorDtypeError, match=r"array\.astype\(numpy\.float32\)"):
        write_tensors({"a": np.zeros(2, np.complex64)})


def test_metadata_of_a_blob_is_ignored():
    data = safetensors.numpy.save({"a": np.ones(2, np.float32)}, {"made": "elsewhere"})
    assert list(read_tensors(data)) == ["a"]


def joined(world, *packs, program="plain"):
    blobs = {name: data for _, each in packs for name, data in each.items()}
    return learned_from(world.bundle.programs[program], [pack for pack, _ in packs], blobs)


def test_packs_are_appended_or_replaced(world):
    packs = [world.pack(i, (name,), program="pool") for i, name in enumerate(["red", "green"])]
    learned = joined(world, *packs, program="pool")
    np.testing.assert_array_equal(learned["prototypes"], [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(learned["keys"], np.eye(3)[:2])
    assert learned["prompts"].shape == (2, 3, 3)
    np.testing.assert_allclose(learned["shift"], np.full((1, 3), 0.001), rtol=1e-3)  # the last one
    for array in learned.values():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert not array.flags.writeable


def test_a_pack_without_a_replaced_tensor_leaves_the_former(world):
    first = world.pack(0, ("red",), program="pool")
    tensors = world.tensors(1, ("green",), "pool")
    del tensors["shift"]
    second = world.pack(1, ("green",), program="pool", tensors=tensors)
    np.testing.assert_array_equal(joined(world, first, second, program="pool")["shift"], 0)


def test_a_pack_without_classes_may_replace_only(world):
    first = world.pack(0, ("red",), program="pool")
    shift = {"shift": np.ones((1, 3), np.float32)}
    second = world.pack(1, (), program="pool", tensors=shift)
    learned = joined(world, first, second, program="pool")
    np.testing.assert_array_equal(learned["shift"], shift["shift"])
    assert learned["prototypes"].shape == (1, 3)


def changed_entry(world, pack, name="prototypes", **changes):
    own, blobs = pack
    return replace(own, tensors={**own.tensors, name: replace(own.tensors[name], **changes)}), blobs


def test_what_does_not_fit_the_program_is_refused(world):
    red = np.array([[1, 0, 0]], np.float32)
    good = world.pack(0, ("red",))
    for pack, error, action in [
        (world.pack(0, ("red",), tensors={"prototypes": red, "more": red}),
         errors.ExtraTensorError, "edgecl export pack"),
        (changed_entry(world, good, axes=("d", "c")), errors.TensorAxesError, "edgecl export pack"),
        (changed_entry(world, good, concat_axis=None), errors.TensorAxesError, "Export the task"),
        (world.pack(0, ("red",), dtype="float64"), errors.TensorDtypeError, "--dtype float16"),
        (world.pack(0, ("red",), tensors={"prototypes": red[:, :2]}), errors.TensorShapeError,
         "Export the task again"),
        (world.pack(0, ("red", "blue"), tensors={"prototypes": red}), errors.TensorShapeError,
         "Export the task again"),
    ]:  # fmt: skip
        with pytest.raises(error, match=action):
            joined(world, pack)


def test_missing_tensors_are_named(world):
    full = world.tensors(0, ("red",), "pool")
    first = world.pack(0, ("red",), program="pool")
    for name in full:
        less = {key: array for key, array in full.items() if key != name}
        pack = world.pack(0, ("red",), program="pool", tensors=less)
        with pytest.raises(errors.MissingTensorError, match=r"Release the packs|Export the task"):
            joined(world, pack, program="pool")
    no_key = {key: array for key, array in full.items() if key != "keys"}
    second = world.pack(1, ("green",), program="pool", tensors=no_key)
    with pytest.raises(errors.MissingTensorError, match=r"none in pack 1\. Export the task again"):
        joined(world, first, second, program="pool")


def test_an_axis_has_one_size_throughout(world):
    tensors = world.tensors(0, ("red",), "pool")
    tensors["keys"] = np.eye(3, dtype=np.float32)[:2]  # two tasks here, one in prompts
    with pytest.raises(errors.TensorShapeError, match="Export the task again"):
        joined(world, world.pack(0, ("red",), program="pool", tensors=tensors), program="pool")
    first = world.pack(0, ("red",), program="pool")
    tensors = world.tensors(1, ("green",), "pool")
    tensors["prompts"] = tensors["prompts"][:, :2]  # shorter prompts than those of task 0
    second = world.pack(1, ("green",), program="pool", tensors=tensors)
    with pytest.raises(errors.TensorShapeError, match=r"2 in pack 1\. Export the task again"):
        joined(world, first, second, program="pool")


def test_a_missing_blob_is_named(world):
    pack, _ = world.pack(0, ("red",))
    with pytest.raises(errors.MissingFileError, match="Copy the whole release directory again"):
        learned_from(world.bundle.programs["plain"], [pack], {})


def test_a_class_comes_once_or_is_known(world):
    red, again = world.pack(0, ("red",))[0], world.pack(1, ("red", "blue"), known=("red",))[0]
    assert class_rows([red, again]) == ("red", "red", "blue")
    with pytest.raises(errors.DuplicateClassError, match="Rename the class"):
        class_rows([red, world.pack(1, ("red",))[0]])
    with pytest.raises(errors.DuplicateClassError, match="in the order of their tasks"):
        class_rows([again, red])


def test_a_row_counts_until_a_pack_moves_its_class(world):
    packs = [
        world.pack(0, ("red", "blue"))[0],
        replace(world.pack(1, ("green", "red"), known=("red",))[0], moved=("red",)),
        world.pack(2, ("red",), known=("red",))[0],
    ]
    assert live_rows(packs) == (False, True, True, True, True)
    for pack in packs:
        assert parse_pack(pack.to_bytes()) == pack
    assert b"moved" not in packs[0].to_bytes()
    with pytest.raises(errors.DuplicateClassError, match="moved must be some of those under known"):
        parse_pack(replace(packs[1], known=()).to_bytes())
    with pytest.raises(errors.DuplicateClassError, match="moved must name each class once"):
        parse_pack(replace(packs[1], moved=("red", "red")).to_bytes())


def test_learned_tensors_have_a_limit(world, monkeypatch):
    monkeypatch.setattr("edgecl_deploy.manifest.limits.MAX_LEARNED", 11)
    with pytest.raises(errors.LimitError, match="Release fewer tasks"):
        joined(world, world.pack(0, ("red",)))


def test_a_blob_must_hold_the_tensors_of_its_manifest(world):
    pack, blobs = world.pack(0, ("red",))
    more = replace(pack, tensors={**pack.tensors, "keys": pack.tensors["prototypes"]})
    with pytest.raises(errors.MissingTensorError, match="edgecl export pack"):
        joined(world, (more, blobs))


def test_a_release_must_hold_a_class(world):
    made = world.made(world.pack(0, ("red",)))
    pack = replace(world.pack(0, ("red",))[0], classes=())
    with pytest.raises(errors.ManifestError, match="edgecl export pack"):
        check_release(world.bundle, made.release, [pack])


def test_one_blob_may_serve_two_packs(world):
    pack, blobs = world.pack(0, ("red",))
    other = replace(pack, task=1, classes=("blue",))
    assert joined(world, (pack, blobs), (other, blobs))["prototypes"].shape == (2, 3)

"""Hostile manifests and blobs, made by code; `tests/deploy/format/test_attacks.py` feeds them in.

Every attack is bytes for one reader, with the named error and the action in its message.
"""

import json
import struct
from dataclasses import dataclass
from typing import Any

HEX = "ab" * 32
OTHER = "cd" * 32
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Attack:
    """Bytes that a reader must refuse."""

    name: str
    reader: str  # pack, release, bundle, index or tensors
    data: bytes
    error: str
    action: str  # a regular expression for the action of the message


def pack() -> dict[str, Any]:
    return {
        "format": "edgecl-pack/1", "task": 0, "name": "first", "program": "plain",
        "interface": HEX, "backbone": HEX, "classes": ["cat", "dog"], "known": [],
        "tensors": {
            "prototypes": {
                "dtype": "float16", "shape": [2, 3], "axes": ["c", "d"], "concat_axis": "c",
                "blob": HEX,
            }
        },
        "blobs": {HEX: 100},
    }  # fmt: skip


def generating(**changes: Any) -> bytes:
    """A pack whose only tensor is made by a generator; `...` leaves a field out."""
    tensor = {
        "dtype": "float32", "shape": [3, 4], "axes": ["d", "m"], "concat_axis": None,
        "generator": {"name": "philox-irwin-hall/1", "seed": 1, "probe": HEX},
    }  # fmt: skip
    for key, value in changes.items():
        own = tensor if key in {*tensor, "blob"} else tensor["generator"]
        if value is ...:
            del own[key]
        else:
            own[key] = value
    return json.dumps({**pack(), "tensors": {"projection": tensor}}).encode()


def release() -> dict[str, Any]:
    return {
        "format": "edgecl-release/1", "number": 2, "parent": 1, "bundle": HEX, "backbone": HEX,
        "program": "plain", "interface": HEX, "packs": [HEX], "canaries": None,
        "calibration": None, "blobs": {},
    }  # fmt: skip


def bundle() -> dict[str, Any]:
    def file(name: str) -> dict[str, Any]:
        return {"file": name, "sha256": HEX, "size": 10}

    return {
        "format": "edgecl-bundle/2",
        "backbone": {"name": "vit", "digest": HEX, "width": 3},
        "preprocessing": {
            "size": 8, "resize": 8, "interpolation": "bicubic", "mean": [0, 0, 0],
            "std": [1, 1, 1], "background": [255, 255, 255], "fit": "crop", "window": None,
        },
        "weights": file("weights.bin"),
        "programs": {
            "pool": {
                "interface": HEX,
                "learned": {
                    "prototypes": {
                        "axes": ["c", "d"], "sizes": {"d": 3}, "concat_axis": "c",
                        "dtype": "float32",
                    }
                },
                "passes": ["plain", "injected"],
                "slots": {
                    "chosen": {
                        "axes": ["b", "p", "d"], "sizes": {"d": 3}, "pad_axis": "p",
                        "capacity": 4, "masked": True, "source": "match",
                    }
                },
                "matcher": "top-k",
                "fused": file("pool.fused.onnx"),
                "staged": {
                    "match": file("pool.match.onnx"),
                    "classify": file("pool.classify.onnx"),
                    "encode": {"dynamic": file("pool.onnx"), "fixed": file("pool.fixed.onnx")},
                },
                "tolerance": {"scores": 1e-5, "feature": 1e-5},
            }
        },
        "created_by": "edgecl-export 0.1.0",
    }  # fmt: skip


def changed(value: Any, path: str, new: Any) -> bytes:
    """A copy with one field replaced; the path has dots, `...` deletes the field."""
    *parents, last = path.split("/")
    inner = value
    for key in parents:
        inner = inner[key]
    if new is ...:
        del inner[last]
    else:
        inner[last] = new
    return json.dumps(value).encode()


def blob(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


REEXPORT = "Make the file again"
COPY = "Copy the blob again"


Rows = list[tuple[Any, ...]]  # name, reader, bytes, and the error unless it is a ManifestError


def manifest_attacks() -> list[Attack]:
    rows = [*json_attacks(), *pack_attacks(), *release_attacks(), *bundle_attacks()]
    malformed = ("ManifestError", REEXPORT)
    return [Attack(*row[:3], *(row[3:] or malformed)) for row in rows]


def json_attacks() -> Rows:
    return [
        ("empty", "pack", b""),
        ("not-utf8", "pack", b"\xff\xfe{}"),
        ("byte-order-mark", "pack", b"\xef\xbb\xbf{}"),
        ("truncated", "pack", json.dumps(pack()).encode()[:-20]),
        ("a-list", "pack", b"[]"),
        ("trailing", "release", json.dumps(release()).encode() + b"{}"),
        ("oversized", "pack", b" " * (8 * MEBIBYTE + 1), "LimitError", "Split the task"),
        (
            "oversized-for-its-rows",
            "pack",
            changed(pack(), "notes", "x" * 80_000),
            "LimitError",
            "Split the task",
        ),
        ("oversized-release", "release", b" " * (MEBIBYTE + 1), "LimitError", "Split the task"),
        ("deep", "pack", b'{"a":' * 10000, "LimitError", REEXPORT),
        ("deep-lists", "release", b'{"a":' + b"[" * 500_000, "LimitError", REEXPORT),
        ("open-string", "pack", b'{"' + b'\\"' * 30_000),
        ("nan", "pack", changed(pack(), "task", float("nan"))),
        ("infinity", "release", changed(release(), "calibration", {"unknown_below": float("inf")})),
        ("huge-exponent", "release", b'{"format":1e999}'),
        ("huge-integer", "release", b'{"format":' + b"9" * 100_000 + b"}"),
        ("lone-surrogate", "pack", b'{"format":"\\ud800"}'),
        ("duplicate-key", "pack", b'{"format":"edgecl-pack/1","format":"edgecl-pack/1"}',
         "DuplicateKeyError", REEXPORT),
        ("duplicate-inner-key", "pack", b'{"tensors":{"a":1,"a":2}}', "DuplicateKeyError",
         REEXPORT),
        ("no-format", "pack", b"{}"),
        ("next-version", "pack", changed(pack(), "format", "edgecl-pack/2"), "FormatVersionError",
         "Install the edgecl-deploy release whose notes say that it reads 'edgecl-pack/2'"),
        ("next-bundle", "bundle", changed(bundle(), "format", "edgecl-bundle/9"),
         "FormatVersionError", "or export the file again with edgecl-export 0.1"),
        ("another-kind", "pack", json.dumps(release()).encode(), "ManifestError",
         "bundle, packs and release are different directories"),
    ]  # fmt: skip


def pack_attacks() -> Rows:
    tensor = "tensors/prototypes"
    return [
        ("missing-field", "pack", changed(pack(), "classes", ...)),
        ("boolean-number", "pack", changed(pack(), "task", True)),
        ("fraction", "pack", changed(pack(), "task", 0.5)),
        ("negative", "pack", changed(pack(), "task", -1)),
        ("long-class", "pack", changed(pack(), "classes", ["x" * 201])),
        ("control-in-class", "pack", changed(pack(), "classes", ["a\x1b[2J"])),
        ("empty-class", "pack", changed(pack(), "classes", [""])),
        ("classes-no-list", "pack", changed(pack(), "classes", "cat")),
        ("duplicate-class", "pack", changed(pack(), "classes", ["cat", "cat"]),
         "DuplicateClassError", "Merge the two folders of the class"),
        ("stray-known", "pack", changed(pack(), "known", ["cow"]), "DuplicateClassError",
         "Export the task again"),
        ("program-path", "pack", changed(pack(), "program", "../../l2p")),
        ("digest-path", "pack", changed(pack(), f"{tensor}/blob", "../../etc/passwd"), "PathError",
         REEXPORT),
        ("digest-upper-case", "pack", changed(pack(), "backbone", HEX.upper()), "PathError",
         REEXPORT),
        ("digest-newline", "pack", changed(pack(), "backbone", HEX[:-1] + "\n"), "PathError",
         REEXPORT),
        ("blob-path", "pack", changed(pack(), "blobs", {"../x": 1}), "PathError", REEXPORT),
        ("blob-of-nobody", "pack", changed(pack(), f"{tensor}/blob", OTHER)),
        ("huge-blob", "pack", changed(pack(), f"blobs/{HEX}", 2**40)),
        ("huge-shape", "pack", changed(pack(), f"{tensor}/shape", [2**31 - 1, 2**31 - 1]),
         "TensorShapeError", "Do not use this pack"),
        ("overflowing-shape", "pack", changed(pack(), f"{tensor}/shape", [2**63, 2])),
        ("shape-without-axis", "pack", changed(pack(), f"{tensor}/shape", [2])),
        ("many-axes", "pack", changed(pack(), f"{tensor}/axes", list("abcdefghijk")), "LimitError",
         REEXPORT),
        ("repeated-axis", "pack", changed(pack(), f"{tensor}/axes", ["c", "c"])),
        ("axis-no-name", "pack", changed(pack(), f"{tensor}/axes", ["c", "../d"])),
        ("foreign-concat", "pack", changed(pack(), f"{tensor}/concat_axis", "t")),
        ("code-dtype", "pack", changed(pack(), f"{tensor}/dtype", "object")),
        ("tensor-name", "pack", changed(pack(), "tensors", {"../a": {}})),
        ("tensors-no-object", "pack", changed(pack(), "tensors", [])),
        ("many-tensors", "pack", changed(pack(), "tensors", {f"t{i}": 0 for i in range(1025)}),
         "LimitError", REEXPORT),
    ]  # fmt: skip


def release_attacks() -> Rows:
    return [
        ("no-packs", "release", changed(release(), "packs", [])),
        ("pack-path", "release", changed(release(), "packs", ["../pack"]), "PathError", REEXPORT),
        ("repeated-pack", "release", changed(release(), "packs", [HEX, HEX])),
        ("own-parent", "release", changed(release(), "parent", 2)),
        ("number-zero", "release", changed(release(), "number", 0)),
        ("canary-of-nobody", "release",
         changed(release(), "canaries", {"images": [HEX], "scores": HEX, "atol": 1})),
        ("index-path", "index", b'{"format":"edgecl-packs/1","packs":["../a"]}', "PathError",
         REEXPORT),
    ]  # fmt: skip


def bundle_attacks() -> Rows:
    path = "Do not use this file"
    program = "programs/pool"
    return [
        ("weights-path", "bundle", changed(bundle(), "weights/file", "../weights.bin"), "PathError",
         path),
        ("absolute-path", "bundle", changed(bundle(), "weights/file", "/etc/shadow"), "PathError",
         path),
        ("backslash", "bundle", changed(bundle(), f"{program}/fused/file", "..\\a"), "PathError",
         path),
        ("dots", "bundle", changed(bundle(), f"{program}/fused/file", ".."), "PathError", path),
        ("nul", "bundle", changed(bundle(), f"{program}/fused/file", "a\x00.o"), "PathError", path),
        ("one-file-two-digests", "bundle",
         changed(bundle(), f"{program}/fused",
                 {"file": "weights.bin", "sha256": OTHER, "size": 1})),
        ("program-name", "bundle", changed(bundle(), "programs", {"../a": {}})),
        ("crop-over-resize", "bundle", changed(bundle(), "preprocessing/size", 9)),
        ("two-colours", "bundle", changed(bundle(), "preprocessing/mean", [0, 0])),
        ("half-a-byte", "bundle", changed(bundle(), "preprocessing/background", [0, 0.5, 0])),
        ("unknown-fit", "bundle", changed(bundle(), "preprocessing/fit", "stretch")),
        ("window-upside-down", "bundle", changed(bundle(), "preprocessing/window", [5, 1])),
        ("window-of-one", "bundle", changed(bundle(), "preprocessing/window", [5])),
        ("window-of-text", "bundle", changed(bundle(), "preprocessing/window", ["0", "9"])),
        ("endless-window", "bundle", changed(bundle(), "preprocessing/window", [0, 1e300])),
        ("unknown-decode", "bundle",
         changed({**bundle(), "format": "edgecl-bundle/3"}, "preprocessing/decode", "draft4")),
        ("decode-of-none", "bundle",
         changed({**bundle(), "format": "edgecl-bundle/3"}, "preprocessing/decode", None)),
        ("decode-in-an-older-format", "bundle",
         changed(bundle(), "preprocessing/decode", "draft2")),
        ("full-decode-in-a-newer-format", "bundle",
         changed(bundle(), "format", "edgecl-bundle/3")),
        ("zero-std", "bundle", changed(bundle(), "preprocessing/std", [0, 1, 1])),
        ("interpolation", "bundle", changed(bundle(), "preprocessing/interpolation", "magic")),
        ("passes", "bundle", changed(bundle(), f"{program}/passes", ["injected"])),
        ("fixed-concat", "bundle",
         changed(bundle(), f"{program}/learned/prototypes/concat_axis", "d")),
        ("size-of-nothing", "bundle",
         changed(bundle(), f"{program}/learned/prototypes/sizes", {"x": 1})),
        ("slot-pads-batch", "bundle", changed(bundle(), f"{program}/slots/chosen/pad_axis", "b")),
        ("slot-batch-inside", "bundle",
         changed(bundle(), f"{program}/slots/chosen/axes", ["p", "b", "d"])),
        ("slot-open-size", "bundle", changed(bundle(), f"{program}/slots/chosen/sizes", {})),
        ("slot-masked", "bundle", changed(bundle(), f"{program}/slots/chosen/masked", 1)),
        ("slot-of-nobody", "bundle",
         changed(bundle(), f"{program}/slots/chosen/source", "learned")),
        ("slot-without-matcher", "bundle", changed(bundle(), f"{program}/staged/match", None)),
    ]  # fmt: skip


def generated_attacks() -> list[Attack]:
    update = "Install the version of edgecl-deploy that the release notes name"
    smaller = "Learn with a smaller projection"
    rows: list[tuple[Any, ...]] = [
        ("unknown", generating(name="mersenne-twister/1"), "GeneratorError", update),
        ("next-version", generating(name="philox-irwin-hall/2"), "GeneratorError", update),
        ("name-no-text", generating(name=7)),
        ("no-seed", generating(seed=...)),
        ("seed-negative", generating(seed=-1)),
        ("seed-over-53-bits", generating(seed=2**53)),
        ("seed-fraction", generating(seed=0.5)),
        ("no-probe", generating(probe=...)),
        ("probe-path", generating(probe="../x"), "PathError", REEXPORT),
        ("no-object", generating(generator="philox-irwin-hall/1")),
        ("neither-blob-nor-generator", generating(generator=...)),
        ("both-blob-and-generator", generating(blob=HEX)),
        ("half", generating(dtype="float16")),
        ("appended", generating(concat_axis="m")),
        ("large", generating(shape=[4096, 4097]), "LimitError", smaller),
        ("huge", generating(shape=[2**31 - 1, 2**31 - 1]), "LimitError", smaller),
        ("huge-but-empty", generating(shape=[0, 2**31 - 1]), "LimitError", smaller),
    ]
    malformed = ("ManifestError", REEXPORT)
    return [Attack(f"generated-{row[0]}", "pack", row[1], *(row[2:] or malformed)) for row in rows]


def tensor_attacks() -> list[Attack]:
    two = {"a": entry(), "b": entry(offsets=(8, 16))}
    rows: list[tuple[str, bytes, str, str]] = [
        ("empty-file", b"", "TensorFileError", COPY),
        ("short-prefix", b"\x01\x00", "TensorFileError", COPY),
        ("header-over-limit", blob(b"", length=MEBIBYTE + 1), "TensorFileError", COPY),
        ("header-over-everything", blob(b"{}", length=2**64 - 1), "TensorFileError", COPY),
        ("truncated-header", blob(b"{}", length=100), "TensorFileError", COPY),
        ("header-no-json", blob(b"\x80\x04."), "ManifestError", REEXPORT),
        ("header-a-list", blob([]), "ManifestError", REEXPORT),
        ("duplicate-tensor", blob(b'{"a":1,"a":1}'), "DuplicateKeyError", REEXPORT),
        ("truncated-data", blob({"a": entry()}, b"1234"), "TensorFileError", COPY),
        ("trailing-data", blob({"a": entry()}, b"123456789"), "TensorFileError", COPY),
        ("data-of-nobody", blob({}, b"12345678"), "TensorFileError", COPY),
        ("hole", blob({**two, "b": entry(offsets=(12, 20))}, bytes(20)), "TensorFileError", COPY),
        ("hole-in-front", blob({"a": entry(offsets=(4, 12))}, bytes(12)), "TensorFileError", COPY),
        ("overlap", blob({**two, "b": entry(offsets=(4, 12))}, bytes(12)), "TensorFileError", COPY),
        ("same-bytes-twice", blob({"a": entry(), "b": entry()}, bytes(8)), "TensorFileError", COPY),
        ("backwards", blob({"a": entry(offsets=(8, 0))}, bytes(8)), "TensorFileError", COPY),
        ("negative-offset", blob({"a": entry(offsets=(-8, 0))}), "TensorFileError", COPY),
        ("one-offset", blob({"a": entry(offsets=(8,))}, bytes(8)), "TensorFileError", COPY),
        ("offset-text", blob({"a": entry(offsets=("0", "8"))}, bytes(8)), "TensorFileError", COPY),
        ("shape-over-data", blob({"a": entry(shape=(3,))}, bytes(8)), "TensorFileError", COPY),
        ("huge-shape", blob({"a": entry(shape=(2**31, 2**31))}, bytes(8)), "TensorFileError", COPY),
        ("huge-shape-and-offset", blob({"a": entry("U8", (2**39,), (0, 2**39))}), "TensorFileError",
         COPY),
        ("overflow-to-zero", blob({"a": entry(shape=(2**32, 2**32), offsets=(0, 0))}),
         "TensorFileError", COPY),
        ("huge-but-empty", blob({"a": entry(shape=(0, 2**40, 2**40), offsets=(0, 0))}),
         "TensorFileError", COPY),
        ("negative-shape", blob({"a": entry(shape=(-2, -1))}, bytes(8)), "TensorFileError", COPY),
        ("boolean-shape", blob({"a": entry(shape=(True, 2))}, bytes(8)), "TensorFileError", COPY),
        ("many-axes", blob({"a": entry(shape=[1] * 8 + [2])}, bytes(8)), "TensorFileError", COPY),
        ("shape-no-list", blob({"a": entry(shape=2)}, bytes(8)), "TensorFileError", COPY),
        ("extra-field", blob({"a": {**entry(), "x": 1}}, bytes(8)), "TensorFileError", COPY),
        ("entry-no-object", blob({"a": 1}), "TensorFileError", COPY),
        ("many-tensors", blob({f"t{i}": 0 for i in range(1025)}), "TensorFileError", COPY),
        ("strange-dtype", blob({"a": entry("BF16", (4,))}, bytes(8)), "TensorDtypeError",
         "--dtype float16 or float32"),
        ("dtype-no-text", blob({"a": entry(["F32"])}, bytes(8)), "TensorDtypeError",
         "--dtype float16 or float32"),
    ]  # fmt: skip
    return [Attack(name, "tensors", *rest) for name, *rest in rows]


def attacks() -> list[Attack]:
    """All of them; the table of readers is in the test."""
    return [*manifest_attacks(), *generated_attacks(), *tensor_attacks()]

"""A device that is offered hostile releases."""

import io
import json
import os
import pickle
import struct
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

from onnx import helper
from tests.deploy.format.test_attacks import make
from tests.deploy.support.sources import MemorySource, make_release, make_store
from tests.deploy.support.world import COLOURS, Made, picture

from edgecl_deploy import Classifier
from edgecl_deploy.format import digest
from edgecl_deploy.store.fsck import check
from edgecl_deploy.store.records import Limits
from edgecl_deploy.update.machine import update

QUICKLY = 0.05  # seconds: a refusal by the parser, measured in a process that does nothing else
PARSER_MEMORY = 20 * 1024 * 1024  # bytes besides those of a process that has imported the package
SOON = 10.0  # seconds: a whole update with a hostile release, its self-test in a process included
NAMES = list(COLOURS)
MEBIBYTE = 1024 * 1024


class Device:
    """A store that serves release 1, with a classifier that follows it."""

    def __init__(self, world, folder: Path, limits: Limits) -> None:
        self.world = world
        self.first = make_release(world, 1)
        self.store = make_store(world, folder / "store", self.first, limits=limits)
        self.source = MemorySource()
        self.classifier = Classifier.open(self.store.path, threads=1)

    def take(self, made: Made, **options):
        return self.after(self.source, made, **options)

    def after(self, source, made: Made | None = None, test=None, **fields):
        """Update, and see that nothing has changed for the service."""
        if made is not None:
            self.source.publish(made, **fields)
        begin = time.monotonic()
        result = update(self.store, source, **({} if test is None else {"test": test}))
        assert time.monotonic() - begin < SOON
        self.unharmed()
        return result

    def unharmed(self) -> None:
        assert self.store.current() == 0
        assert check(self.store) == []
        answers = self.classifier.predict([picture(name) for name in NAMES[:2]])
        assert [(each.label, each.release) for each in answers] == [("red", 1), ("green", 1)]


def with_blob(world, data: bytes, number: int = 2, **changes) -> Made:
    """A release whose one pack names `data` as the blob of its prototypes."""
    pack, _ = world.pack(0, ("red",))
    entry = replace(pack.tensors["prototypes"], blob=digest(data), **changes)
    own = replace(pack, tensors={"prototypes": entry}, blobs={digest(data): len(data)})
    return world.made((own, {digest(data): data}), number=number)


ENTRY = make.entry("F16", (1, 3), (0, 6))
SIX = bytes(6)


def duplicate_key() -> bytes:
    """Two tensors of one name: the library takes the last one, others the first."""
    other = {**ENTRY, "dtype": "U8", "shape": (6,)}
    text = f'{{"prototypes":{json.dumps(ENTRY)},"prototypes":{json.dumps(other)}}}'
    return make.blob(text.encode(), SIX)


def many_empty() -> bytes:
    """1.3 million tensors of nothing, an 86 MB header: 1.1 GB in the library."""
    each = b'"%07d":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}'
    return make.blob(b"{" + b",".join(each % i for i in range(1_300_000)) + b"}")


def long_metadata() -> bytes:
    """90 MB of text for people: 0.4 GB in the library."""
    return make.blob(b'{"__metadata__":{"a":"' + b"x" * 90_000_000 + b'"}}')


def some_empty() -> bytes:
    """As many tensors of nothing as a header has room for."""
    each = {f"t{i}": make.entry("F16", (0,), (0, 0)) for i in range(900)}
    return make.blob(json.dumps(each, separators=(",", ":")).encode())


def some_metadata() -> bytes:
    return make.blob(b'{"__metadata__":{"a":"' + b"x" * 65_000 + b'"}}')


def nested(levels: int) -> bytes:
    return make.blob(b'{"prototypes":' + b"[" * levels + b"]" * levels + b"}")


class Harmless:
    """What a pickle would run on a device that loaded it."""

    def __reduce__(self):
        return (os.system, ("touch /tmp/edgecl-was-here",))


def archive(kind: str) -> bytes:
    data, inner = io.BytesIO(), make.blob({"prototypes": ENTRY}, SIX)
    if kind == "zip":
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("../../prototypes.safetensors", inner)
    else:
        with tarfile.open(fileobj=data, mode="w:gz") as file:
            info = tarfile.TarInfo("../../prototypes.safetensors")
            info.size = len(inner)
            file.addfile(info, io.BytesIO(inner))
    return data.getvalue()


def onnx_model() -> bytes:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.metadata_props.add(key="pad", value="x" * 100)
    return model.SerializeToString()


GOOD = make.blob({"prototypes": ENTRY}, SIX)
BLOBS = {
    "length-2-64": lambda: struct.pack("<Q", 2**64 - 1) + GOOD[8:],
    "length-100-million": lambda: struct.pack("<Q", 100_000_000) + GOOD[8:],
    "overlap": lambda: make.blob(
        {"prototypes": ENTRY, "b": make.entry("F16", (3,), (4, 10))}, bytes(10)
    ),
    "hole": lambda: make.blob({"prototypes": make.entry("F16", (1, 3), (2, 8))}, bytes(8)),
    "trailing": lambda: GOOD + b"x",
    "truncated": lambda: GOOD[:-1],
    "shape-overflow": lambda: make.blob(
        {"prototypes": make.entry("F16", (2**32, 2**32), (0, 0))}, SIX
    ),
    "nesting-200k": lambda: nested(200_000),
    "nesting-30k": lambda: nested(30_000),
    "duplicate-key": duplicate_key,
    "many-empty": many_empty,
    "long-metadata": long_metadata,
    "strange-dtype": lambda: make.blob({"prototypes": make.entry("BF16", (1, 3), (0, 6))}, SIX),
    "many-axes": lambda: make.blob(
        {"prototypes": make.entry("F16", (1,) * 8 + (3,), (0, 6))}, SIX
    ),
    "no-float": lambda: make.blob(b'{"prototypes":{"dtype":"F16","shape":[NaN,3]}}', SIX),
    "pickle": lambda: pickle.dumps([Harmless()] * 10),
    "onnx": onnx_model,
    "zip": lambda: archive("zip"),
    "tar": lambda: archive("tar"),
}  # fmt: skip


def never(store, generation):
    raise AssertionError("a refused release must not be tested")


PEAK = """
import re
from pathlib import Path
def peak():  # bytes since the last call; the kernel's ru_maxrss begins with the parent's
    most = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    Path("/proc/self/clear_refs").write_text("5")
    return most
"""

"""One weights file for all graphs of a bundle: each tensor once, found by the hash of its bytes.

Names do not identify a tensor: the exporter numbers folded constants anew in every graph. Offsets
are aligned to 4096 bytes so that runtimes can map the file.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

WEIGHTS_FILE = "weights.bin"
ALIGNMENT = 4096  # bytes
SMALLEST = 1024  # bytes; smaller tensors stay inside the graph


def content_key(array: NDArray[np.generic]) -> str:
    """Return the digest of a tensor's bytes; the graph has its shape."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the values of a constant, None where they are computed."""
    if value is None or value.const_value is None:
        return None
    array: NDArray[np.generic] = value.const_value.numpy()
    return array


def drop_unread(graph: ir.Graph) -> None:
    """Remove the weights of a graph that nothing reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


class WeightsFile:
    """The weights file of one bundle folder, appended to and never rewritten.

    Args:
        folder: the bundle's folder. The graphs in it list what the file holds.
        name: of the file.
    """

    def __init__(self, folder: Path, name: str = WEIGHTS_FILE):
        self.path = folder / name
        self._places: dict[str, tuple[int, int]] = {}
        self.path.touch()
        data = np.memmap(self.path, mode="r") if self.path.stat().st_size else None
        for graph in sorted(folder.glob("*.onnx")):
            for offset, length in external_places(graph, name):
                assert data is not None, f"{graph.name} refers to an empty {name}"
                self._places[content_key(data[offset : offset + length])] = (offset, length)

    def externalise(self, model: ir.Model) -> int:
        """Move a graph's large tensors into the file; return how many bytes were added."""
        before = self.path.stat().st_size
        with self.path.open("ab") as file:
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < SMALLEST:
                    continue
                array = np.ascontiguousarray(tensor.numpy())
                key = content_key(array)
                if key not in self._places:
                    file.write(b"\0" * (-file.tell() % ALIGNMENT))
                    self._places[key] = (file.tell(), array.nbytes)
                    file.write(array.tobytes())
                offset, length = self._places[key]
                value.const_value = ir.ExternalTensor(
                    self.path.name,
                    offset,
                    length,
                    tensor.dtype,
                    shape=ir.Shape(array.shape),
                    name=str(value.name),
                    base_dir=self.path.parent,
                )
            file.flush()
            os.fsync(file.fileno())
        return self.path.stat().st_size - before


def external_places(graph: Path, name: str = WEIGHTS_FILE) -> Iterable[tuple[int, int]]:
    """Yield offset and length of every tensor of a graph that is in a weights file."""
    for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location") == name:
            yield int(entries["offset"]), int(entries["length"])


def copy_bundle(source: Path, target: Path) -> None:
    """Copy a bundle; graphs are linked where possible, the weights file may grow and is copied."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name == WEIGHTS_FILE or file.suffix != ".onnx":
            shutil.copy2(file, target / file.name)
        else:
            try:
                os.link(file, target / file.name)
            except OSError:
                shutil.copy2(file, target / file.name)

"""The part of NVIDIA's CUDA runtime that engines use: memory, copies and streams of device 0."""

import importlib
import weakref
from typing import Any

import numpy as np

from edgecl_deploy.errors import EngineError, EngineMissingError, one_line

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")  # the second before cuda-python 12.6


class Cuda:
    """The CUDA runtime.

    Raises:
        EngineMissingError: Its Python package is not installed.
    """

    def __init__(self, engine: str) -> None:
        self._library = _runtime(engine)
        self._success = self._library.cudaError_t.cudaSuccess

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime and return its value.

        Raises:
            EngineError: It fails.
        """
        status, *values = getattr(self._library, name)(*arguments)
        if status != self._success:
            raise EngineError(
                f"{name} must succeed on the GPU",
                str(getattr(status, "name", status)),
                "Look at `nvidia-smi` and its driver, or use engine='onnxruntime'.",
            )
        return values[0] if values else None

    def hardware(self) -> str:
        """Return what a compiled graph depends on: the GPU, its kind and size, and the driver."""
        found = self.call("cudaGetDeviceProperties", 0)
        name = (
            found.name.decode("ascii", "replace") if isinstance(found.name, bytes) else found.name
        )
        driver, runtime = self.call("cudaDriverGetVersion"), self.call("cudaRuntimeGetVersion")
        return (
            f"{name} {found.major}.{found.minor} x{found.multiProcessorCount} "
            f"driver {driver} runtime {runtime}"
        )

    def release(self, name: str, handle: Any) -> None:
        """Call a function that gives something back; what it answers helps nobody."""
        getattr(self._library, name)(handle)

    def copy(self, target: int, source: int, count: int, kind: str, stream: "Stream") -> None:
        """Queue a copy."""
        way = getattr(self._library.cudaMemcpyKind, kind)
        self.call("cudaMemcpyAsync", target, source, count, way, stream.handle)


class Stream:
    """A queue of work on the GPU; it ends with the last reference to it."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.handle = cuda.call("cudaStreamCreate")
        self._end = weakref.finalize(self, cuda.release, "cudaStreamDestroy", self.handle)
        self._end.atexit = False  # the driver may be gone by then, and frees it all

    def __int__(self) -> int:
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait until all that was queued is done."""
        self._cuda.call("cudaStreamSynchronize", self.handle)


class Memory:
    """Some memory of the GPU; it is freed with the last reference to it."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda = cuda
        self.size = size
        self.pointer = int(cuda.call("cudaMalloc", size))
        self._end = weakref.finalize(self, cuda.release, "cudaFree", self.pointer)
        self._end.atexit = False

    def take(self, array: np.ndarray, stream: Stream) -> None:
        """Queue a copy from an array, which must stay as it is until the stream is done."""
        kind = "cudaMemcpyHostToDevice"
        self._cuda.copy(self.pointer, array.ctypes.data, array.nbytes, kind, stream)

    def give(self, array: np.ndarray, stream: Stream) -> None:
        """Queue a copy into an array, which is filled when the stream is done."""
        kind = "cudaMemcpyDeviceToHost"
        self._cuda.copy(array.ctypes.data, self.pointer, array.nbytes, kind, stream)


def _runtime(engine: str) -> Any:
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            last = error
    raise EngineMissingError(
        f"engine={engine!r} needs the package cuda-bindings",
        one_line(last),
        "Install it with: pip install 'edgecl-deploy[tensorrt]'",
    ) from last

"""A CUDA runtime without a GPU: its memory is in this process, its streams run when awaited.

A copy or a run that is queued happens in `cudaStreamSynchronize` and not before, so a missing wait
shows as a wrong result. What is called is recorded, and any call can be made to fail.
"""

import ctypes
import threading
from collections import Counter
from collections.abc import Callable
from enum import Enum
from types import ModuleType, SimpleNamespace

import numpy as np


class Calls:
    """What was called; a call can be made to fail."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.arguments: dict[str, list[tuple[object, ...]]] = {}
        self.failing: str | None = None
        self._lock = threading.Lock()

    def fails(self, name: str, *arguments: object) -> bool:
        """Record a call; return whether it shall fail."""
        with self._lock:
            self.made[name] += 1
            self.arguments.setdefault(name, []).append(arguments)
        return name == self.failing


Error = Enum("cudaError_t", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2})
Kind = Enum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})


class Stream:
    def __init__(self, number: int) -> None:
        self.number = number
        self.work: list[Callable[[], None]] = []

    def __int__(self) -> int:
        return self.number


class Device:
    """The GPU."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.blocks: dict[int, np.ndarray] = {}  # by their address
        self.streams: dict[int, Stream] = {}
        self._lock = threading.Lock()
        self._last = 0

    def block(self, pointer: int, size: int) -> np.ndarray:
        """Return the first bytes of allocated memory."""
        found = self.blocks[pointer]
        assert 0 < size <= len(found), "beyond the end of what was allocated"
        return found[:size]

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        self.streams[stream].work.append(work)

    def malloc(self, size: int) -> int:
        memory = np.full(size, 0xAA, np.uint8)
        with self._lock:
            self.blocks[memory.ctypes.data] = memory
        return memory.ctypes.data

    def free(self, pointer: int) -> None:
        with self._lock:
            del self.blocks[pointer]

    def stream(self) -> Stream:
        with self._lock:
            self._last += 1
            self.streams[self._last] = Stream(self._last)
            return self.streams[self._last]

    def copy(self, to: int, source: int, size: int, kind: Kind, stream: Stream) -> None:
        def work() -> None:
            if kind is Kind.cudaMemcpyHostToDevice:
                ctypes.memmove(self.block(to, size).ctypes.data, source, size)
            else:
                ctypes.memmove(to, self.block(source, size).ctypes.data, size)

        self.queue(stream.number, work)

    def synchronize(self, stream: Stream) -> None:
        work, stream.work = stream.work, []
        for each in work:
            each()

    def properties(self, _device: int) -> SimpleNamespace:
        return SimpleNamespace(name=b"Fake GPU", major=8, minor=7, multiProcessorCount=8)


def make_cudart(device: Device) -> ModuleType:
    """Return a module in the place of `cuda.bindings.runtime`."""
    calls = device.calls
    functions: dict[str, Callable[..., object]] = {
        "cudaMalloc": device.malloc,
        "cudaFree": device.free,
        "cudaMemcpyAsync": device.copy,
        "cudaStreamCreate": device.stream,
        "cudaStreamDestroy": lambda stream: device.streams.pop(stream.number),
        "cudaStreamSynchronize": device.synchronize,
        "cudaGetDeviceProperties": device.properties,
        "cudaMemGetInfo": lambda: 1 << 30,  # what is free; the total comes after it
        "cudaDriverGetVersion": lambda: 12060,
        "cudaRuntimeGetVersion": lambda: 12060,
    }
    without_value = {"cudaFree", "cudaMemcpyAsync", "cudaStreamDestroy", "cudaStreamSynchronize"}

    def wrapped(name: str) -> Callable[..., tuple[object, ...]]:
        def call(*arguments: object) -> tuple[object, ...]:
            if calls.fails(name, *arguments):
                failed = (Error.cudaErrorMemoryAllocation,)
                return failed if name in without_value else (*failed, None)
            value = functions[name](*arguments)
            done = (Error.cudaSuccess,)
            return done if name in without_value else (*done, value)

        return call

    module = ModuleType("cuda.bindings.runtime")
    module.cudaError_t, module.cudaMemcpyKind = Error, Kind
    for name in functions:
        setattr(module, name, wrapped(name))
    return module

"""TensorRT 10 and 11 on an NVIDIA GPU, for the graphs that hold the backbone.

Written to the documentation, checked against the published type stubs and a fake; it has not
run on a GPU (docs/engines-nvidia.md).
"""

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import tensorrt as trt

from edgecl_deploy.engines._cudart import Cuda, Memory, Stream
from edgecl_deploy.engines._onnxruntime import OnnxRuntimeEngine
from edgecl_deploy.engines._plans import Log, build
from edgecl_deploy.engines._profiles import COMPILED, images_of, plan_key
from edgecl_deploy.engines._types import Arrays, Capabilities, Graph, OnDevice, Session
from edgecl_deploy.engines.artefacts import Artefacts
from edgecl_deploy.engines.refused import REPORT, arrays_of, refusals
from edgecl_deploy.errors import EngineError, OptionError

_NAME = "tensorrt"
_OLDEST = 10


@dataclass(frozen=True)
class Tensor:
    """An input or output of a plan."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]  # -1 where it is dynamic


@dataclass(frozen=True)
class Resident:
    """An input that is on the GPU."""

    memory: Memory
    shape: tuple[int, ...]


class Plan:
    """A compiled graph that is loaded; many threads may use it."""

    def __init__(self, cuda: Cuda, log: Log, engine: trt.ICudaEngine, name: str) -> None:
        self.cuda = cuda
        self.log = log
        self.engine = engine
        self.name = name
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for index in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(index)
            if engine.get_tensor_location(tensor) != trt.TensorLocation.DEVICE:
                raise log.error(f"{name} must have {tensor} in the memory of the GPU")
            mode = engine.get_tensor_mode(tensor)
            found = self.inputs if mode == trt.TensorIOMode.INPUT else self.outputs
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(tensor)))
            found[tensor] = Tensor(dtype, engine.get_tensor_shape(tensor)[:])

    def must(self, done: bool, what: str) -> None:
        """Check what a call of TensorRT answered.

        Args:
            done: The answer.
            what: What was called.
        """
        if not done:
            raise self.log.error(f"{self.name} must run: {what} must succeed")

    def check(self, name: str, array: np.ndarray) -> None:
        """Check an input against its declaration.

        Raises:
            EngineError: It differs, or there is no such input.
        """
        tensor = self.inputs.get(name)
        fits = (
            tensor is not None
            and array.dtype == tensor.dtype
            and len(array.shape) == len(tensor.shape)
            and all(a == b or b < 0 for a, b in zip(array.shape, tensor.shape, strict=True))
            and array.size > 0
            and array.flags.c_contiguous
        )
        if not fits:
            raise EngineError(
                arrays_of(self.name),
                f"{name} as {array.dtype} {list(array.shape)}",
                REPORT,
            )


class Runner:
    """What one call at a time needs: a context, a stream and memory for what comes and goes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stream = Stream(plan.cuda)
        self._memory: dict[str, Memory] = {}
        context = plan.engine.create_execution_context()
        if context is None:
            raise plan.log.error(f"{plan.name} must have place in the memory of the GPU")
        self._context = context
        chosen = context.set_optimization_profile_async(0, int(self._stream))
        plan.must(chosen, "set_optimization_profile_async")

    def run(self, held: Mapping[str, Resident], feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph; after an error this runner must not be used again."""
        try:
            results = self._queue(held, feeds)
            self._stream.synchronize()
        except BaseException:
            with suppress(EngineError):  # no copy may write into an array that is gone
                self._stream.synchronize()
            raise
        return results

    def _queue(self, held: Mapping[str, Resident], feeds: Arrays) -> dict[str, np.ndarray]:
        plan, context, stream = self._plan, self._context, self._stream
        for name in plan.inputs:
            resident = held.get(name)
            if resident is None:
                array = feeds[name]
                memory, shape = self._at_least(name, array.nbytes), array.shape
                memory.take(array, stream)
            else:
                memory, shape = resident.memory, resident.shape
            plan.must(context.set_input_shape(name, shape), f"set_input_shape of {name}")
            plan.must(
                context.set_tensor_address(name, memory.pointer), f"set_tensor_address of {name}"
            )
        plan.must(not context.infer_shapes(), "infer_shapes")
        results = {}
        for name, tensor in plan.outputs.items():
            shape = context.get_tensor_shape(name)[:]
            plan.must(min(shape, default=0) >= 0, f"get_tensor_shape of {name}")
            results[name] = np.empty(shape, tensor.dtype)
            memory = self._at_least(name, results[name].nbytes)
            plan.must(
                context.set_tensor_address(name, memory.pointer), f"set_tensor_address of {name}"
            )
        plan.must(context.execute_async_v3(int(stream)), "execute_async_v3")
        for name, array in results.items():
            self._memory[name].give(array, stream)
        return results

    def _at_least(self, name: str, size: int) -> Memory:
        """Return memory for a tensor; it grows with the largest batch."""
        memory = self._memory.get(name)
        if memory is None or memory.size < size:
            memory = self._memory[name] = Memory(self._plan.cuda, max(size, 1))
        return memory


class TensorrtSession:
    """One graph in TensorRT."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._idle: list[Runner] = []  # a runner runs one call at a time
        self._lock = threading.Lock()
        self.inputs = tuple(plan.inputs)
        self.outputs = tuple(plan.outputs)

    def pin(self, held: Arrays) -> OnDevice:
        """Copy inputs to the GPU, where they stay until the last one who uses them ends."""
        stream = Stream(self._plan.cuda)
        resident = {}
        for name, array in held.items():
            self._plan.check(name, array)
            resident[name] = Resident(Memory(self._plan.cuda, array.nbytes), array.shape)
            resident[name].memory.take(array, stream)
        stream.synchronize()
        return OnDevice(self, resident)

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph."""
        return self.run_on({}, feeds)

    def run_on(self, held: Mapping[str, Resident], feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            held: Inputs that are on the GPU.
            feeds: The other inputs.

        Raises:
            EngineError: An input is missing or differs from its declaration, or TensorRT fails.
        """
        for name, array in feeds.items():
            self._plan.check(name, array)
        lacking = set(self.inputs) - set(held) - set(feeds)
        if lacking:
            raise EngineError(
                arrays_of(self._plan.name),
                f"no {', '.join(sorted(lacking))}",
                REPORT,
            )
        with self._lock:
            runner = self._idle.pop() if self._idle else None
        with refusals(f"{self._plan.name} must run"):
            runner = runner or Runner(self._plan)
            results = runner.run(held, feeds)
        with self._lock:
            self._idle.append(runner)
        return results


class TensorrtEngine:
    """Compiles the graphs that hold the backbone; the small ones run on the CPU."""

    def __init__(self, threads: int | None, artefacts: Artefacts | None) -> None:
        self.version = str(trt.__version__)
        if int(self.version.partition(".")[0]) < _OLDEST:
            raise OptionError(
                f"engine='tensorrt' needs TensorRT {_OLDEST} or later",
                self.version,
                "Install it from NVIDIA (docs/engines-nvidia.md), or use engine='cuda'.",
            )
        self._cuda = Cuda(_NAME)
        self._hardware = self._cuda.hardware()
        self._small = OnnxRuntimeEngine(threads)
        self._artefacts = artefacts
        self._log = Log()
        with refusals("TensorRT must find a GPU"):
            self._runtime = trt.Runtime(self._log)

    def capabilities(self) -> Capabilities:
        """Return what it takes."""
        return COMPILED

    def load(self, graph: Graph) -> Session:
        """Compile a graph, or take what an earlier process compiled from it."""
        if not graph.backbone:
            return self._small.load(graph)
        with refusals(f"{graph.path.name} must load in TensorRT {self.version}"):
            return self._load(graph)

    def _load(self, graph: Graph) -> TensorrtSession:
        key = plan_key(_NAME, self.version, self._hardware, graph)
        kept = None if key is None or self._artefacts is None else self._artefacts.get(key)
        engine = None if kept is None else self._runtime.deserialize_cuda_engine(kept)
        if engine is None:
            plan = self._build(graph)
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise self._log.error(f"TensorRT {self.version} must load what it has built")
            if key is not None and self._artefacts is not None:
                self._artefacts.put(key, plan)
        return TensorrtSession(Plan(self._cuda, self._log, engine, graph.path.name))

    def _build(self, graph: Graph) -> bytes:
        key = {"engine": "tensorrt timing", "version": self.version, "hardware": self._hardware}
        timing = None if self._artefacts is None else self._artefacts.get(key)
        plan, measured = build(self._log, graph.path, images_of(graph.batch), timing or b"")
        if self._artefacts is not None and graph.digest and measured not in {b"", timing}:
            self._artefacts.put(key, measured)
        return plan

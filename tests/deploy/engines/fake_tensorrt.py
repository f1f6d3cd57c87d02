"""A TensorRT without a GPU: it checks what it is asked, and runs graphs in ONNX Runtime.

It has what edgecl may use of 10.x and 11.x (deploy/stubs/tensorrt.pyi) and nothing else, so a call
of something that 11 removed is an AttributeError. It is as strict as the documentation: a tensor
without an address, a shape beyond the profile or a profile that lacks an input is a failure.
"""

import json
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from tests.deploy.engines.fake_cudart import Calls, Device

TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}


class Dims:
    """Like theirs: it can be measured and indexed, no more."""

    def __init__(self, sizes: list[Any]) -> None:
        self._sizes = [size if isinstance(size, int) else -1 for size in sizes]

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return tuple(self._sizes[index]) if isinstance(index, slice) else self._sizes[index]


class NetworkDefinitionCreationFlag(Enum):
    STRONGLY_TYPED = 1

    def __int__(self) -> int:
        return self.value


class BuilderFlag(Enum):
    TF32 = 0


class MemoryPoolType(Enum):
    WORKSPACE = 0


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(Enum):
    DEVICE = 0
    HOST = 1


class ILogger:
    class Severity(Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        INFO = 3

    def __init__(self) -> None:
        self.ready = True


def load(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Fake:
    """One installation of TensorRT."""

    def __init__(self, version: str, calls: Calls, device: Device) -> None:
        self.version = version
        self.calls = calls
        self.device = device

    def refuses(self, name: str, logger: Any, *arguments: object) -> bool:
        failed = self.calls.fails(name, *arguments)
        if failed:
            logger.log(ILogger.Severity.INFO, "of no interest")
            logger.log(ILogger.Severity.ERROR, f"[{name}] failed on purpose")
        return failed


class Input:
    def __init__(self, name: str, shape: list[Any]) -> None:
        self.name = name
        self.shape = Dims(shape)


class Network:
    def __init__(self, flags: int) -> None:
        self.strong = bool(flags & 1 << 1)
        self.path = ""
        self.inputs: list[Input] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> Input:
        return self.inputs[index]


class ParserError:
    def __init__(self, text: str) -> None:
        self.text = text

    def desc(self) -> str:
        return self.text


class Profile:
    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.ranges: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        if self.fake.calls.fails("set_shape", input, min, opt, max):
            raise ValueError("failed on purpose")
        for low, best, high in zip(min, opt, max, strict=True):
            assert 0 < low <= best <= high
        self.ranges[input] = [list(min), list(opt), list(max)]


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytearray:
        return bytearray(self.content)


class Config:
    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.tf32 = True
        self.workspace = 0
        self.profiles: list[Profile] = []
        self.timing: TimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        assert flag is BuilderFlag.TF32
        self.tf32 = False

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE
        self.workspace = pool_size

    def add_optimization_profile(self, profile: Profile) -> int:
        if self.fake.calls.fails("add_optimization_profile"):
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        self.fake.calls.fails("create_timing_cache", bytes(serialized_timing_cache))
        return TimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content and cache.content != self.measured():
            return False
        self.timing = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.timing

    def measured(self) -> bytes:
        return f"measured by {self.fake.version}".encode()


class Builder:
    fake: Fake

    def __init__(self, logger: ILogger) -> None:
        assert logger.ready
        if self.fake.calls.fails("Builder"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger = logger

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config(self.fake)

    def create_optimization_profile(self) -> Profile:
        return Profile(self.fake)

    def build_serialized_network(self, network: Network, config: Config) -> bytearray | None:
        if self.fake.refuses("build_serialized_network", self.logger):
            return None
        assert network.strong or self.fake.version.startswith("11")
        assert not config.tf32
        assert config.workspace > 0
        assert config.timing is not None
        ranges = config.profiles[0].ranges if config.profiles else {}
        dynamic = {each.name for each in network.inputs if -1 in each.shape[:]}
        if dynamic != set(ranges):
            return None
        config.timing.content = config.measured()
        content = {"version": self.fake.version, "path": network.path, "ranges": ranges}
        return bytearray(b"plan" + json.dumps(content).encode())


class OnnxParser:
    fake: Fake

    def __init__(self, network: Network, logger: ILogger) -> None:
        self.network = network
        self.errors: list[ParserError] = []

    def parse_from_file(self, model: str) -> bool:
        try:
            if self.fake.calls.fails("parse_from_file", model):
                raise RuntimeError("failed on purpose")
            inputs = load(model).get_inputs()
        except Exception as error:  # onnxruntime has no common root
            self.errors = [ParserError(str(error))]
            return False
        self.network.path = model
        self.network.inputs = [Input(each.name, each.shape) for each in inputs]
        return True

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        return self.errors[index]


class Context:
    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def refuses(self, name: str, *arguments: object) -> bool:
        return self.engine.fake.refuses(name, self.engine.logger, *arguments)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if self.refuses("set_optimization_profile_async", profile_index, stream_handle):
            return False
        assert stream_handle in self.engine.fake.device.streams
        self.profile = profile_index
        return profile_index == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.refuses("set_input_shape", name, shape) or self.profile is None:
            return False
        declared = self.engine.inputs[name].shape
        least, _, most = self.engine.ranges.get(name, [declared] * 3)
        if len(shape) != len(declared):
            return False
        self.shapes[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self.refuses("set_tensor_address", name, memory):
            return False
        assert name in self.engine.inputs or name in self.engine.outputs
        self.addresses[name] = memory
        return memory in self.engine.fake.device.blocks

    def infer_shapes(self) -> list[str]:
        if self.refuses("infer_shapes"):
            return ["image"]
        return sorted(set(self.engine.inputs) - set(self.shapes))

    def get_tensor_shape(self, name: str) -> Dims:
        if self.refuses("get_tensor_shape", name):
            return Dims([-1])
        images = self.shapes["image"][0]
        shape = self.engine.outputs[name].shape
        return Dims([size if isinstance(size, int) else images for size in shape])

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self.refuses("execute_async_v3", stream_handle):
            return False
        names = {*self.engine.inputs, *self.engine.outputs}
        if set(self.addresses) != names or self.infer_shapes():
            return False
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        device = self.engine.fake.device

        def work() -> None:
            feeds = {}
            for name, shape in shapes.items():
                dtype = np.dtype(TYPES[self.engine.inputs[name].type])
                data = device.block(addresses[name], int(np.prod(shape)) * dtype.itemsize)
                feeds[name] = data.view(dtype).reshape(shape).copy()
            outputs = self.engine.session.run(list(self.engine.outputs), feeds)
            for name, array in zip(self.engine.outputs, outputs, strict=True):
                data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
                device.block(addresses[name], array.nbytes)[:] = data

        device.queue(stream_handle, work)
        return True


class Engine:
    def __init__(self, fake: Fake, logger: ILogger, content: dict[str, Any]) -> None:
        self.fake = fake
        self.logger = logger
        self.ranges = content["ranges"]
        self.session = load(content["path"])
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = {each.name: each for each in self.session.get_outputs()}

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> TensorLocation:
        failed = self.fake.refuses("get_tensor_location", self.logger, name)
        return TensorLocation.HOST if failed else TensorLocation.DEVICE

    def get_tensor_dtype(self, name: str) -> str:
        return str({**self.inputs, **self.outputs}[name].type)

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims({**self.inputs, **self.outputs}[name].shape)

    def create_execution_context(self) -> Context | None:
        if self.fake.refuses("create_execution_context", self.logger):
            return None
        return Context(self)


class Runtime:
    fake: Fake

    def __init__(self, logger: ILogger) -> None:
        if self.fake.calls.fails("Runtime"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        data = bytes(serialized_engine)
        if self.fake.refuses("deserialize_cuda_engine", self.logger):
            return None
        try:
            content = json.loads(data.removeprefix(b"plan"))
        except ValueError:
            return None
        if content["version"] != self.fake.version or not Path(content["path"]).exists():
            return None
        return Engine(self.fake, self.logger, content)


def make_tensorrt(version: str, calls: Calls, device: Device) -> ModuleType:
    """Return a module in the place of `tensorrt`."""
    fake = Fake(version, calls, device)
    module = ModuleType("tensorrt")
    module.__version__ = version
    module.nptype = TYPES.__getitem__
    for each in (NetworkDefinitionCreationFlag, BuilderFlag, MemoryPoolType):
        setattr(module, each.__name__, each)
    for each in (TensorIOMode, TensorLocation, ILogger):
        setattr(module, each.__name__, each)
    module.INetworkDefinition, module.IBuilderConfig, module.ICudaEngine = Network, Config, Engine
    for each in (Builder, OnnxParser, Runtime):
        setattr(module, each.__name__, type(each.__name__, (each,), {"fake": fake}))
    return module

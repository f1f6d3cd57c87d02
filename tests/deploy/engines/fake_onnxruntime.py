"""onnxruntime-gpu without a GPU: it checks what it is asked, and runs graphs on the CPU."""

import hashlib
import sys
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from tests.deploy.engines.fake_cudart import Calls

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
# From their documentation; the real ones refuse an option that they do not know, too.
OPTIONS = {
    CUDA: {"device_id", "use_tf32", "cudnn_conv_algo_search"},
    TENSORRT: {
        "device_id",
        "trt_builder_optimization_level",
        "trt_cuda_graph_enable",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_engine_cache_prefix",
        "trt_fp16_enable",
        "trt_profile_max_shapes",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
        "trt_timing_cache_enable",
        "trt_timing_cache_path",
    },
    CPU: set(),
}


class Values:
    """How many tensors are on the GPU."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.alive = 0

    def end(self) -> None:
        self.alive -= 1


class OrtValue:
    values: Values

    def __init__(self, array: np.ndarray) -> None:
        self.array = array.copy()
        self.values.alive += 1
        weakref.finalize(self, self.values.end)

    @classmethod
    def ortvalue_from_numpy(cls, array: np.ndarray, device: str, number: int) -> "OrtValue":
        if cls.values.calls.fails("ortvalue_from_numpy"):
            raise RuntimeError("CUDA failure 2: out of memory")
        assert (device, number) == ("cuda", 0)
        assert array.flags.c_contiguous
        return cls(array)


def parse(text: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of `image:1x8x8x3,tokens:1x4x3`."""
    pairs = [each.split(":") for each in text.split(",")] if text else []
    return {name: tuple(map(int, sizes.split("x"))) for name, sizes in pairs}


class Binding:
    def __init__(self, session: "Session") -> None:
        self.session = session
        self.feeds: dict[str, np.ndarray] = {}
        self.wanted: list[str] = []
        self.results: list[np.ndarray] = []

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        if self.session.calls.fails("bind_cpu_input", name):
            raise RuntimeError("failed on purpose")
        assert array.flags.c_contiguous
        self.feeds[name] = array

    def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
        if self.session.calls.fails("bind_ortvalue_input", name):
            raise RuntimeError("failed on purpose")
        self.feeds[name] = value.array

    def bind_output(self, name: str, device: str) -> None:
        if self.session.calls.fails("bind_output", name):
            raise RuntimeError("failed on purpose")
        assert device == "cpu"
        self.wanted.append(name)

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        if self.session.calls.fails("copy_outputs_to_cpu"):
            raise RuntimeError("failed on purpose")
        return self.results


class Session:
    calls: Calls
    missing: set[str]  # providers whose libraries do not load

    def __init__(
        self, path: str, options: Any, *, providers: list[Any], enable_fallback: int = 1
    ) -> None:
        pairs = [each if isinstance(each, tuple) else (each, {}) for each in providers]
        for name, settings in pairs:
            assert set(settings) <= OPTIONS[name]
            assert all(isinstance(value, str) for value in settings.values())
        self.real = onnxruntime.InferenceSession(path, options, providers=[CPU])
        self.providers = [name for name, _ in pairs if name not in self.missing]
        self.ranges: dict[str, list[tuple[int, ...]]] = {}
        if self.providers and self.providers[0] in {CUDA, TENSORRT}:
            assert enable_fallback == 0
        if self.providers and self.providers[0] == TENSORRT:
            self._compile(Path(path), dict(pairs[0][1]))
        if CPU not in self.providers:
            self.providers.append(CPU)

    def _compile(self, path: Path, settings: dict[str, str]) -> None:
        parts = [
            parse(settings.get(f"trt_profile_{end}_shapes", "")) for end in ("min", "opt", "max")
        ]
        dynamic = {
            each.name
            for each in self.real.get_inputs()
            if not all(isinstance(size, int) for size in each.shape)
        }
        assert all(set(part) == dynamic for part in parts), "all dynamic inputs, or none"
        self.ranges = {name: [part[name] for part in parts] for name in dynamic}
        if settings.get("trt_engine_cache_enable") != "1":
            self.calls.fails("compile")
            return
        folder = Path(settings["trt_engine_cache_path"])
        own = hashlib.sha256(str(settings["trt_engine_cache_prefix"]).encode()).hexdigest()
        plan = folder / f"{settings['trt_engine_cache_prefix']}_{own[:8]}_sm87.engine"
        content = b"plan of " + path.name.encode()
        if plan.exists():
            if self.calls.fails("deserialize") or plan.read_bytes() != content:
                raise RuntimeError("TensorRT EP could not deserialize engine from cache")
        else:
            self.calls.fails("compile")
            plan.write_bytes(content)
            (folder / "TensorrtExecutionProvider_cache_sm87.timing").write_bytes(b"timing")

    def get_inputs(self) -> Any:
        return self.real.get_inputs()

    def get_outputs(self) -> Any:
        return self.real.get_outputs()

    def get_providers(self) -> list[str]:
        return self.providers

    def run(self, names: Any, feeds: Any) -> Any:
        assert self.providers == [CPU], "on the GPU with a binding only"
        return self.real.run(names, feeds)

    def io_binding(self) -> Binding:
        if self.calls.fails("io_binding"):
            raise RuntimeError("failed on purpose")
        return Binding(self)

    def run_with_iobinding(self, binding: Binding) -> None:
        if self.calls.fails("run_with_iobinding"):
            raise RuntimeError("CUDA failure 700: an illegal memory access")
        for name, (least, _, most) in self.ranges.items():
            shape = binding.feeds[name].shape
            if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
                self.calls.fails("compile again")
        binding.results = self.real.run(binding.wanted, binding.feeds)


def make_onnxruntime(calls: Calls, folder: Path) -> tuple[ModuleType, Values]:
    """Return a module in the place of `onnxruntime`, and its count of tensors.

    Args:
        folder: Of the package: the libraries of its providers are made there.
    """
    (folder / "capi").mkdir(parents=True, exist_ok=True)
    for provider in ("cuda", "tensorrt"):
        (folder / "capi" / f"libonnxruntime_providers_{provider}.so").touch()
    module, values = ModuleType("onnxruntime"), Values(calls)
    module.__version__ = onnxruntime.__version__
    module.get_available_providers = lambda: [TENSORRT, CUDA, CPU]
    module.preload_dlls = lambda: sys.stdout.write("Failed to load libcudnn.so.9\n")
    module.SessionOptions = onnxruntime.SessionOptions
    module.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
    module.OrtValue = type("OrtValue", (OrtValue,), {"values": values})
    module.InferenceSession = type(
        "InferenceSession", (Session,), {"calls": calls, "missing": set()}
    )
    return module, values

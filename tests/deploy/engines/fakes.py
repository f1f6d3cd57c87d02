"""Puts fakes in the place of NVIDIA's packages for one test."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from tests.deploy.engines.fake_cudart import Calls, Device, make_cudart
from tests.deploy.engines.fake_onnxruntime import Values, make_onnxruntime
from tests.deploy.engines.fake_tensorrt import make_tensorrt

NVIDIA = ("cuda", "tensorrt", "tensorrt-ep")
_OURS = ("edgecl_deploy.engines._plans", "edgecl_deploy.engines._tensorrt")  # they import tensorrt


@dataclass(frozen=True)
class Fakes:
    """What was called, and what is in the memory of the GPU."""

    calls: Calls
    device: Device
    values: Values  # of onnxruntime
    onnxruntime: ModuleType


@contextmanager
def nvidia_packages(folder: Path, version: str = "10.3.0") -> Iterator[Fakes]:
    """Let the engines of NVIDIA find fakes.

    Args:
        folder: A scratch folder.
        version: Of TensorRT.
    """
    calls = Calls()
    device = Device(calls)
    library, values = make_onnxruntime(calls, folder / "onnxruntime")
    modules = {
        "cuda": ModuleType("cuda"),
        "cuda.bindings": ModuleType("cuda.bindings"),
        "cuda.bindings.runtime": make_cudart(device),
        "tensorrt": make_tensorrt(version, calls, device),
        "onnxruntime": library,
    }
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)
    library.__spec__.submodule_search_locations = [str(folder / "onnxruntime")]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        try:
            yield Fakes(calls, device, values, library)
        finally:
            for name in _OURS:
                sys.modules.pop(name, None)

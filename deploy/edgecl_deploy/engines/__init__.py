"""The registry of engines, which run graphs.

An engine's package is imported when the engine is made, not before: a device installs one of them.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from edgecl_deploy.engines._types import (
    FLOAT32,
    Arrays,
    Capabilities,
    Engine,
    Graph,
    Held,
    Pinned,
    Session,
)
from edgecl_deploy.engines.artefacts import Artefacts
from edgecl_deploy.errors import EngineMissingError, OptionError, one_line, shown

__all__ = [
    "FLOAT32",
    "Arrays",
    "Artefacts",
    "Capabilities",
    "Engine",
    "Graph",
    "Held",
    "Pinned",
    "Session",
    "default_engine",
    "installed",
    "make_engine",
    "names",
    "register",
]

EngineFactory = Callable[[int | None, Artefacts | None], Engine]


def _onnxruntime(threads: int | None, artefacts: Artefacts | None) -> Engine:
    from edgecl_deploy.engines._onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(threads)


def _onnxruntime_small(threads: int | None, artefacts: Artefacts | None) -> Engine:
    from edgecl_deploy.engines._onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(threads, small=True)


def _openvino(threads: int | None, artefacts: Artefacts | None) -> Engine:
    from edgecl_deploy.engines._openvino import OpenVinoEngine

    return OpenVinoEngine(threads, artefacts)


def _cuda(threads: int | None, artefacts: Artefacts | None) -> Engine:
    from edgecl_deploy.engines._cuda import CudaEngine

    return CudaEngine(threads)


def _tensorrt_ep(threads: int | None, artefacts: Artefacts | None) -> Engine:
    from edgecl_deploy.engines._tensorrt_ep import TensorrtEpEngine

    return TensorrtEpEngine(threads, artefacts)


def _tensorrt(threads: int | None, artefacts: Artefacts | None) -> Engine:
    try:
        from edgecl_deploy.engines._tensorrt import TensorrtEngine
    except (ImportError, AttributeError) as error:  # the second: type stubs without a library
        raise EngineMissingError(
            "engine='tensorrt' needs the package tensorrt",
            one_line(error),
            "Install TensorRT 10.3 or later from NVIDIA, and "
            "pip install 'edgecl-deploy[cpu,tensorrt]' (docs/engines-nvidia.md).",
        ) from error
    return TensorrtEngine(threads, artefacts)


_FACTORIES: dict[str, EngineFactory] = {
    "onnxruntime": _onnxruntime,
    "onnxruntime-small": _onnxruntime_small,
    "openvino": _openvino,
    "cuda": _cuda,
    "tensorrt-ep": _tensorrt_ep,
    "tensorrt": _tensorrt,
}
_MODULES = {  # that an engine imports, and a library that must be in the first one's `capi`
    "onnxruntime": ("onnxruntime",),
    "onnxruntime-small": ("onnxruntime",),
    "openvino": ("openvino",),
    "cuda": ("onnxruntime",),
    "tensorrt-ep": ("onnxruntime", "cuda"),
    "tensorrt": ("tensorrt", "cuda", "onnxruntime"),
}
_LIBRARIES = {"cuda": "onnxruntime_providers_cuda", "tensorrt-ep": "onnxruntime_providers_tensorrt"}


def register(name: str, factory: EngineFactory) -> None:
    """Add an engine.

    Args:
        name: The name that `Classifier.open(engine=...)` takes.
        factory: Makes the engine from a number of threads (None: the engine's own choice) and
            where it may keep what it compiles (None: nowhere).
    """
    _FACTORIES[name] = factory
    _MODULES.pop(name, None)  # what it imports is its own affair


def names() -> tuple[str, ...]:
    """Return the names of the engines, installed or not."""
    return tuple(sorted(_FACTORIES))


def installed(name: str) -> bool:
    """Return whether the packages of an engine are there; nothing is imported."""
    specs = [find_spec(module) for module in _MODULES.get(name, ())]
    if not all(specs):
        return False
    library = _LIBRARIES.get(name)
    folders = (specs[0].submodule_search_locations or []) if library and specs[0] else []
    files = [file.name for folder in folders for file in Path(folder, "capi").glob("*")]
    return library is None or any(library in file for file in files)


def default_engine() -> str:
    """Return the engine that runs where nobody chose one: ONNX Runtime, else OpenVINO."""
    return next((name for name in ("onnxruntime", "openvino") if installed(name)), "onnxruntime")


def make_engine(
    name: str, threads: int | None = None, artefacts: Artefacts | None = None
) -> Engine:
    """Make an engine by name.

    Args:
        name: One of `names()`, or `auto` for `default_engine()`.
        threads: Threads of one run, None for the engine's own choice.
        artefacts: Where it keeps what it compiles; None keeps nothing.

    Raises:
        OptionError: There is no such engine, or no such number of threads.
    """
    name = default_engine() if name == "auto" else name
    if name not in _FACTORIES:
        raise OptionError(
            "engine must be a registered one", shown(name), f"Use one of {', '.join(names())}."
        )
    if threads is not None and threads < 1:
        raise OptionError("threads must be at least 1", str(threads), "Leave threads out.")
    return _FACTORIES[name](threads, artefacts)

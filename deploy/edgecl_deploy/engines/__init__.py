"""The registry of engines, which run graphs.

An engine's package is imported when the engine is made, not before: a device installs one of them.
"""

from collections.abc import Callable
from importlib.util import find_spec

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
from edgecl_deploy.errors import OptionError, shown

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


def _openvino(threads: int | None, artefacts: Artefacts | None) -> Engine:
    from edgecl_deploy.engines._openvino import OpenVinoEngine

    return OpenVinoEngine(threads, artefacts)


_FACTORIES: dict[str, EngineFactory] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
_MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}  # that an engine imports


def register(name: str, factory: EngineFactory, module: str | None = None) -> None:
    """Add an engine.

    Args:
        name: The name that `Classifier.open(engine=...)` takes.
        factory: Makes the engine from a number of threads (None: the engine's own choice) and
            where it may keep what it compiles (None: nowhere).
        module: What it imports; None for nothing that could be missing.
    """
    _FACTORIES[name] = factory
    _MODULES.pop(name, None)
    if module is not None:
        _MODULES[name] = module


def names() -> tuple[str, ...]:
    """Return the names of the engines, installed or not."""
    return tuple(sorted(_FACTORIES))


def installed(name: str) -> bool:
    """Return whether the package of an engine is there; nothing is imported."""
    return name not in _MODULES or find_spec(_MODULES[name]) is not None


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

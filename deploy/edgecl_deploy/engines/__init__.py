"""The registry of engines, which run graphs.

An engine's package is imported when the engine is made, not before: a device installs one of them.
"""

from collections.abc import Callable

from edgecl_deploy.engines._types import Capabilities, Engine, Session
from edgecl_deploy.errors import OptionError, shown

__all__ = ["Capabilities", "Engine", "Session", "make_engine", "names", "register"]

EngineFactory = Callable[[int | None], Engine]


def _onnxruntime(threads: int | None) -> Engine:
    from edgecl_deploy.engines._onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(threads)


_FACTORIES: dict[str, EngineFactory] = {"onnxruntime": _onnxruntime}


def register(name: str, factory: EngineFactory) -> None:
    """Add an engine.

    Args:
        name: The name that `Classifier.open(engine=...)` takes.
        factory: Makes the engine from a number of threads (None: the engine's own choice).
    """
    _FACTORIES[name] = factory


def names() -> tuple[str, ...]:
    """Return the names of the engines, installed or not."""
    return tuple(sorted(_FACTORIES))


def make_engine(name: str, threads: int | None = None) -> Engine:
    """Make an engine by name.

    Args:
        name: One of `names()`.
        threads: Threads of one run, None for the engine's own choice.

    Raises:
        OptionError: There is no such engine, or no such number of threads.
    """
    if name not in _FACTORIES:
        raise OptionError(
            "engine must be a registered one", shown(name), f"Use one of {', '.join(names())}."
        )
    if threads is not None and threads < 1:
        raise OptionError("threads must be at least 1", str(threads), "Leave threads out.")
    return _FACTORIES[name](threads)

"""Public names of a package that load their modules when they are first used (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

Getter = Callable[[str], Any]


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Getter, Callable[[], list[str]]]:
    """Return the functions `__getattr__` and `__dir__` of a package.

    Args:
        package: Its `__name__`.
        homes: By public name, the module inside the package; `module:name` where the name differs
            there. `__version__` is that of the distribution.
    """

    def get(name: str) -> Any:
        if name == "__version__":
            # importlib.metadata is half of what `import edgecl` would load
            value = import_module("importlib.metadata").version(package.replace("_", "-"))
        elif name in homes:
            module, _, attribute = homes[name].partition(":")
            value = getattr(import_module(f"{package}.{module}"), attribute or name)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted([*homes, "__version__", "__doc__", "__name__"])

    return get, names

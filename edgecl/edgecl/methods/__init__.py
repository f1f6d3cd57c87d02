"""The registry of methods: every module of this package registers what it holds."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

from edgecl.backbones.spec import BackboneSpec
from edgecl.config import from_mapping, nearest
from edgecl.errors import MethodError
from edgecl.methods.base import Method
from edgecl.methods.config import MethodConfig
from edgecl.optim import TrainConfig

AnyMethod: TypeAlias = Method[Any]
MethodT = TypeVar("MethodT", bound=type[AnyMethod])

_REGISTRY: dict[str, type[AnyMethod]] = {}


def register(method: MethodT) -> MethodT:
    """Enter a method under its name.

    Raises:
        MethodError: if the name is taken.
    """
    if method.name in _REGISTRY:
        raise MethodError(
            f"A method's name must be unique, got {method.name!r} twice. Rename one of the classes."
        )
    _REGISTRY[method.name] = method
    return method


@functools.cache
def _import_modules() -> None:
    """Let every module of this package register its methods."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def methods() -> dict[str, type[AnyMethod]]:
    """Return all methods by name, sorted."""
    _import_modules()
    return dict(sorted(_REGISTRY.items()))


def build_method(
    name: str, spec: BackboneSpec, config: Mapping[str, Any] | None = None
) -> AnyMethod:
    """Build a method for a backbone.

    Args:
        config: fields that differ from the method's defaults; nested for the schedule.

    Raises:
        MethodError: if there is no such method, no such field, or a value that the method refuses.
    """
    known = methods()
    if name not in known:
        raise MethodError(
            f"METHOD must be one of {', '.join(known)}, got {name!r}. {nearest(name, known)}"
        )
    method = known[name]
    return method(from_mapping(method.config_type, config or {}, name), spec)


__all__ = [
    "AnyMethod",
    "BackboneSpec",
    "Method",
    "MethodConfig",
    "MethodError",
    "TrainConfig",
    "build_method",
    "methods",
    "register",
]

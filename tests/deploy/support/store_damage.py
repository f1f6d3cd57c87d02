"""Damages the objects of a store."""

from edgecl_deploy.store.layout import (
    OBJECTS,
)
from edgecl_deploy.store.store import Store

NAME = "0" * 64


def damage(store: Store, name: str) -> None:
    path = store.path / OBJECTS / name
    path.chmod(0o644)
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))

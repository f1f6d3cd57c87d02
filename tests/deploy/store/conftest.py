"""A store that serves a factory release, and a source of further ones."""

import pytest
from tests.deploy.support.sources import (
    MemorySource,
    Quick,
    make_release,
    make_store,
    passes,
)

from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome


@pytest.fixture
def made(world):
    return {n: make_release(world, n, tasks=1, canary=False) for n in range(1, 6)}


@pytest.fixture
def source(made):
    return MemorySource()


@pytest.fixture
def store(world, made):
    return make_store(world, world.root / "store", made[1], disk=Quick())


@pytest.fixture
def take(store, made, source):
    """Let the store take releases one after the other."""

    def do(*numbers: int) -> None:
        for number in numbers:
            source.publish(made[number])
            assert update(store, source, test=passes).outcome is Outcome.UPDATED

    return do

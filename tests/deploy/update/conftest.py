"""A store that serves release 1, and a source that offers release 2."""

import pytest
from tests.deploy.support.sources import (
    MemorySource,
    make_release,
    make_store,
)


@pytest.fixture
def store(world, tmp_path):
    return make_store(world, tmp_path / "store", make_release(world, 1))


@pytest.fixture
def source(world):
    source = MemorySource()
    source.publish(make_release(world, 2))
    return source

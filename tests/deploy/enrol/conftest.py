"""A store of a release that takes classes from images, and classifiers on it."""

from collections.abc import Callable, Iterator

import pytest
from tests.deploy.support.enrolling import cosine_world, release
from tests.deploy.support.sources import MemorySource, Quick, make_store
from tests.deploy.support.world import World

from edgecl_deploy import Classifier
from edgecl_deploy.store.store import Store


@pytest.fixture
def toy(world: World) -> World:
    return cosine_world(world)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource()


@pytest.fixture
def store(toy: World) -> Store:
    return make_store(toy, toy.root / "store", release(toy, 1), disk=Quick())


@pytest.fixture
def opened() -> Iterator[Callable[..., Classifier]]:
    """`Classifier.open`, closed at the end."""
    classifiers = []

    def open_one(store: Store, **options: object) -> Classifier:
        classifiers.append(Classifier.open(store.path, threads=1, **options))
        return classifiers[-1]

    yield open_one
    for classifier in classifiers:
        classifier.close()

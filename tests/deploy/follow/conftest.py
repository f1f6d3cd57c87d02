"""A store, a source of releases, and classifiers that follow the store."""

import pytest
from tests.deploy.support.sources import (
    MemorySource,
    make_release,
    make_store,
)

from edgecl_deploy import Classifier


@pytest.fixture
def source():
    return MemorySource()


@pytest.fixture
def store(world, tmp_path):
    return make_store(world, tmp_path / "store", make_release(world, 1))


@pytest.fixture
def opened():
    """`Classifier.open`, closed at the end."""
    classifiers = []

    def open_one(store, **options):
        classifiers.append(Classifier.open(store.path, threads=1, **options))
        return classifiers[-1]

    yield open_one
    for classifier in classifiers:
        classifier.close()

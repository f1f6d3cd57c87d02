"""A server of a release that knows red, green and blue; most tests of a file share one."""

import threading

import pytest
from tests.deploy.support.asking import serving
from tests.deploy.support.world import make_world

from edgecl_deploy import Classifier
from edgecl_deploy.loaded import LoadedRelease


def opened(world):
    release = world.release("red", "green", "blue")
    return Classifier.open(world.bundle_path, release, threads=1)


@pytest.fixture
def classifier(world):
    return opened(world)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(opened(make_world(tmp_path_factory.mktemp("world")))) as asked:
        yield asked


@pytest.fixture
def fresh(classifier):
    """A server that nobody has asked."""
    with serving(classifier) as asked:
        yield asked


@pytest.fixture
def gate(monkeypatch):
    """Lets runs begin only when it is told to; `runs` counts those that began."""
    open_, runs, scored = threading.Event(), [], LoadedRelease.scored

    def waits(loaded, images):
        runs.append(len(images))
        assert open_.wait(20)
        return scored(loaded, images)

    monkeypatch.setattr(LoadedRelease, "scored", waits)
    open_.runs = runs
    yield open_
    open_.set()

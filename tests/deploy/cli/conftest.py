"""A publisher, its server, and one device."""

import pytest
from tests.deploy.support.fault_server import serving
from tests.deploy.support.fleet import Fleet
from tests.deploy.support.sources import passes

from edgecl_deploy.update import machine
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.trust import Trust


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def one_server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("none")) as server:
        yield server


@pytest.fixture
def fleet(world, one_server):
    one_server.reset()
    return Fleet(world, one_server)


@pytest.fixture
def device_1(fleet):
    """A device that took release 1."""
    fleet.init()
    fleet.publish(1)
    source = Trust(fleet.path, fleet.repo.root, fleet.server.url)
    assert machine.update(fleet.store, source, test=passes).outcome is Outcome.UPDATED
    return fleet

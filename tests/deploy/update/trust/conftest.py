"""A publisher, a server and a device."""

import datetime
import time
import types

import pytest
from tests.deploy.support.fault_server import serving
from tests.deploy.support.trusting import World
from tuf.ngclient._internal import trusted_metadata_set


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def one_server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("none")) as server:
        yield server


@pytest.fixture
def world(tmp_path, one_server):
    one_server.reset()
    return World(tmp_path, one_server)


@pytest.fixture
def clock(monkeypatch):
    """Return a function that moves python-tuf's clock by so many seconds, and gives ours."""

    def move(seconds):
        moved = datetime.timedelta(seconds=seconds)
        real = datetime.datetime
        fake = types.SimpleNamespace(
            datetime=types.SimpleNamespace(now=lambda zone: real.now(zone) + moved),
            timezone=datetime.timezone,
        )
        monkeypatch.setattr(trusted_metadata_set, "datetime", fake)
        return lambda: time.time() + seconds

    return move

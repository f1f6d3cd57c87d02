"""A server that misbehaves, and a fetcher."""

import pytest
from tests.deploy.support.fault_server import serving
from tests.deploy.support.fetching import DATA, LARGE, RESUMED

from edgecl_deploy.update.fetcher import Fetcher


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "targets").mkdir()
    (folder / "file").write_bytes(DATA)
    (folder / RESUMED[1:]).write_bytes(LARGE)
    with serving(folder) as server:
        yield server


@pytest.fixture
def server(served):
    served.reset()
    return served


@pytest.fixture
def part(tmp_path):
    path = tmp_path / "part"
    path.mkdir()
    return path


@pytest.fixture
def fetcher(part):
    return Fetcher(part)

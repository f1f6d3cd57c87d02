"""Releases come and go under clients: none fails, none is mixed, each answer's was current."""

import http.client
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from tests.deploy.support.asking import PIXELS, serving
from tests.deploy.support.enrolling import YELLOW, cosine_world, release, shades
from tests.deploy.support.following import point, until
from tests.deploy.support.sources import MemorySource, make_release, make_store, passes
from tests.deploy.support.world import SIDE, picture

from edgecl_deploy import Classifier, follow
from edgecl_deploy.server.binary import HEADER
from edgecl_deploy.store.records import Limits
from edgecl_deploy.update.machine import update

HEAD = json.dumps({
    "inputs": [
        {
            "name": "image",
            "datatype": "UINT8",
            "shape": [2, SIDE, SIDE, 3],
            "parameters": {"binary_data_size": 2 * SIDE * SIDE * 3},
        }
    ],
    "parameters": {"top_k": 1},
}).encode()
BODY = HEAD + np.stack([picture("red"), picture("green")]).tobytes()


@dataclass
class Asked:
    """One request: when it began and ended (seconds), and what it got."""

    begin: float
    end: float
    status: int
    release: int
    header: str
    labels: list[str]
    scores: list[float]


def client(address, found, done):
    connection = http.client.HTTPConnection(*address, timeout=20)
    headers = {HEADER: str(len(HEAD))}
    while not done.is_set():
        begin = time.monotonic()
        connection.request("POST", PIXELS, BODY, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        end = time.monotonic()
        label, score = answer["outputs"][:2]
        found.append(
            Asked(
                begin, end, response.status, answer["parameters"]["release"],
                response.headers["X-Edgecl-Release"], label["data"], score["data"],
            )
        )  # fmt: skip
    connection.close()


def swap_under(clients, swaps, world, folder, each=0):
    """Swap releases under clients that ask without a pause.

    Args:
        each: Requests that every release answers at least, together with those before it.

    Returns:
        What the clients saw, and by release from when and until when it may have answered.
    """
    source = MemorySource()
    store = make_store(
        world,
        folder / "store",
        make_release(world, 1),
        limits=Limits(trial_seconds=0, untested=True),
    )
    times = {1: [0.0, 0.0]}
    found, done = [], threading.Event()
    with Classifier.open(store.path, threads=1) as classifier, serving(classifier) as server:
        threads = [
            threading.Thread(target=client, args=(server.address, found, done))
            for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for number in range(2, swaps + 2):
            source.publish(make_release(world, number))
            times[number] = [time.monotonic(), 0.0]
            update(store, source, test=passes)
            assert until(lambda wanted=number: classifier.release == wanted)
            times[number - 1][1] = time.monotonic()
            assert until(lambda count=each * number: len(found) >= count)
        times[swaps + 1][1] = float("inf")
        assert until(lambda: found and found[-1].release == swaps + 1)
        done.set()
        for thread in threads:
            thread.join(20)
        counted = server.get("/metrics").body.decode()
    assert store.serving().release == swaps + 1
    assert "edgecl_swaps_total" in counted
    return found, times


def check(found, times):
    for each in found:
        assert each.status == 200
        assert each.header == str(each.release)
        assert each.labels == ["red", "green"]
        assert each.scores[1] == pytest.approx(float(np.float16(1 - each.release / 1024)), abs=1e-5)
        since, until_ = times[each.release]
        assert since <= each.end
        assert each.begin <= until_


def test_swaps_under_load(world, tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "LOOK", 0.01)
    found, times = swap_under(3, 15, world, tmp_path)
    check(found, times)
    assert {each.release for each in found} >= {1, 16}
    assert len(found) > 50


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_swaps_and_ten_thousand_requests(world, tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "LOOK", 0.01)
    found, times = swap_under(8, 100, world, tmp_path, each=100)
    check(found, times)
    assert len(found) >= 10_000
    assert len({each.release for each in found}) > 90


class Device:
    """A device that takes releases and classes, and notes from when until when each answered."""

    def __init__(self, world, folder):
        self.world, self.source = world, MemorySource()
        self.store = make_store(
            world, folder, release(world, 1), limits=Limits(trial_seconds=0, untested=True)
        )
        self.classifier = Classifier.open(self.store.path, threads=1)
        self.times, self.scores = {"1": [0.0, float("inf")]}, {1: self.score()}

    def score(self):
        return self.classifier.scores(np.stack([picture("red")])).scores[0, 0]

    @property
    def version(self):
        found = self.classifier
        return f"{found.release}.{found.local}" if found.local else str(found.release)

    @contextmanager
    def change(self):
        begin, old = time.monotonic(), self.version
        yield
        self.times[old][1] = time.monotonic()
        self.times.setdefault(self.version, [begin])[1:] = [float("inf")]

    def take(self, number):
        local = self.classifier.local
        with self.change():
            self.source.publish(release(self.world, number, tilt=number / 512))
            update(self.store, self.source, test=passes)
            assert until(
                lambda: (self.classifier.release, self.classifier.local) == (number, local)
            )
        self.scores[number] = self.score()

    def enrol_or_remove(self):
        with self.change():
            if self.classifier.local:
                self.classifier.unenrol("lemon", purge=True)
            else:
                self.classifier.enrol("lemon", shades(YELLOW, 5))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_swaps_and_enrolments_under_ten_thousand_requests(world, tmp_path, monkeypatch):
    """A hundred releases, and a class of the device that comes or goes after every fifth."""
    monkeypatch.setattr(follow, "LOOK", 0.01)
    device, found, done = Device(cosine_world(world), tmp_path / "store"), [], threading.Event()
    with device.classifier, serving(device.classifier) as server:
        threads = [
            threading.Thread(target=client, args=(server.address, found, done)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for number in range(2, 102):
            device.take(number)
            if number % 5 == 0:
                device.enrol_or_remove()
            assert until(lambda count=100 * number: len(found) >= count, 60)
        done.set()
        for thread in threads:
            thread.join(20)
    assert len(found) >= 10_000
    assert len({each.release for each in found}) > 90
    assert len({each.header for each in found if "." in each.header}) >= 10
    for each in found:
        assert (each.status, each.labels) == (200, ["red", "green"])
        assert each.header.partition(".")[0] == str(each.release)
        assert each.scores[0] == pytest.approx(device.scores[each.release], abs=1e-5)
        since, until_ = device.times[each.header]
        assert since <= each.end
        assert each.begin <= until_


def test_a_load_waits_for_the_release_that_the_store_names(world, tmp_path, monkeypatch):
    store = make_store(world, tmp_path / "store", make_release(world, 1))
    source = MemorySource()
    source.publish(make_release(world, 2))
    told = []
    with (
        Classifier.open(store.path, threads=1) as classifier,
        serving(classifier, tell=told.append) as server,
    ):
        update(store, source, test=passes)
        assert server.post("/v2/repository/models/edgecl/load").json["version"] == "2"
        assert server.get("/edgecl/v1/status").json["follows"] is True
        index = server.post("/v2/repository/index").json
        one = {each["version"]: each for each in index if each["name"] == "edgecl"}
        assert (one["2"]["state"], one["1"]["state"]) == ("READY", "UNAVAILABLE")
        assert one["1"]["reason"] == "previous"
        assert len(server.post("/v2/repository/index", {"ready": True}).json) == 2
        assert until(lambda: any(each["event"] == "swap" for each in told))
        monkeypatch.setattr("edgecl_deploy.server.app._LOADS", 0.2)
        monkeypatch.setattr(Classifier, "release", 2)  # it stays, whatever the store names
        point(store, 0)
        found = server.post("/v2/repository/models/edgecl/load")
        assert (found.status, "release 2 goes on answering" in found.error) == (400, True)

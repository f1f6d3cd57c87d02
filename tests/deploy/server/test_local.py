"""A server of a device that has classes of its own."""

import numpy as np
import pytest
from tests.deploy.support.asking import serving
from tests.deploy.support.enrolling import YELLOW, cosine_world, release, shades
from tests.deploy.support.following import until
from tests.deploy.support.sources import Quick, make_store
from tests.deploy.support.world import picture

from edgecl_deploy import Classifier
from edgecl_deploy.errors import EngineError

WANTED = [{"name": name} for name in ("label", "source", "scores", "error")]


@pytest.fixture
def classifier(world):
    toy = cosine_world(world)
    store = make_store(toy, toy.root / "store", release(toy, 1), disk=Quick())
    with Classifier.open(store.path, threads=1) as opened:
        yield opened


def test_a_class_of_the_device_answers_and_is_seen(classifier):
    told, images = [], np.stack([picture("red"), shades(YELLOW, 1, seed=9)[0]])
    with serving(classifier, tell=told.append) as server:
        assert server.pixels(images).json["model_version"] == "1"
        classifier.enrol("lemon", shades(YELLOW, 5))
        found = server.pixels(images, WANTED)
        assert found.json["model_version"] == found.headers["X-Edgecl-Release"] == "1.1"
        assert found.json["parameters"]["local"] == 1
        assert found.output("label")[::3] == ["red", "lemon"]
        assert found.output("source") == ["release", "local"]
        assert len(found.output("scores")) == 6
        assert server.get("/v2/models/edgecl/versions/1.1").status == 200
        index = server.post("/v2/repository/index", {"ready": True}).json
        assert [each["version"] for each in index] == ["1.1", "1.1"]
        assert until(lambda: told)
        assert (told[0]["event"], told[0]["version"], told[0]["before"]) == ("swap", "1.1", "1")
        classifier.unenrol("lemon")
        assert server.pixels(images, WANTED).json["model_version"] == "1"


def test_the_release_alone_answers_where_its_own_classes_fail(classifier, monkeypatch):
    classifier.enrol("lemon", shades(YELLOW, 5))
    loaded, run = classifier.loaded, type(classifier.loaded).run

    def fails(which, images):
        if which.over is not None:
            raise EngineError("it must run", "that it does not", "Mend it.")
        return run(which, images)

    monkeypatch.setattr(type(loaded), "run", fails)
    with serving(classifier) as server:
        found = server.pixels([picture("red")], WANTED)
        assert (found.status, found.json["model_version"]) == (200, "1")
        assert found.output("label")[0] == "red"
        assert len(found.output("scores")) == 2
        assert server.get("/edgecl/v1/status").json["local"] == 0
    assert loaded.over.trouble
    assert (loaded.tally.images, loaded.tally.failed) == (1, 0)

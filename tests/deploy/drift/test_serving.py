"""A device that serves: what it counts, what its commands and its server say."""

import json
import os
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tests.deploy.support.asking import INFER, png, serving
from tests.deploy.support.enrolling import YELLOW, cosine_world, release, shades
from tests.deploy.support.following import until
from tests.deploy.support.scored import scored_release
from tests.deploy.support.sources import MemorySource, Quick, make_store, passes
from tests.deploy.support.world import COLOURS, SIDE, picture

from edgecl_deploy import Classifier
from edgecl_deploy.cli import device
from edgecl_deploy.cli._serve import sentence
from edgecl_deploy.drift.keeping import NAME, read_drift
from edgecl_deploy.drift.measures import Measured
from edgecl_deploy.drift.watch import SKIPPED
from edgecl_deploy.loaded import LoadedRelease
from edgecl_deploy.server import service
from edgecl_deploy.server.drift import of_drift
from edgecl_deploy.store.layout import LOCAL
from edgecl_deploy.update.machine import update

ATTENTION = 3


@pytest.fixture
def toy(world):
    return cosine_world(world)


@pytest.fixture
def store(toy):
    """A store in which every image counts, and an alarm comes soon."""
    made = make_store(toy, toy.root / "store", release(toy, 1), disk=Quick())
    with made.lock():
        made.configure(replace(made.config, drift_every=0.0, drift_run_length=100.0))
    return made


@pytest.fixture
def typical(monkeypatch):
    """The highest p-value of the images that come."""
    now, predictions = [0.5], LoadedRelease.predictions

    def judged(loaded, *rest):
        found = predictions(loaded, *rest)
        return (replace(each, typical=now[0], known=now[0] > 0.05) for each in found)

    monkeypatch.setattr(LoadedRelease, "predictions", judged)
    return now


def see(classifier, count, seed=0):
    """Let it answer pictures that are all different, each in a call of its own."""
    for each in shades((0.9, 0.1, 0.1), count, seed):
        assert classifier.predict([each])[0].label == "red"


def begin(classifier):
    classifier.predict(shades((0.9, 0.1, 0.1), SKIPPED, 1))


def asked(store, *words, code=0):
    result = CliRunner().invoke(device, ["drift", str(store.path), *words, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def kept_alarm(store):
    """Return whether the file has the alarm; it may have been written before."""
    kept = read_drift(store.path / LOCAL)
    return kept is not None and any(each.alarm is not None for each in kept.tracks.values())


def test_a_device_from_its_first_image_to_an_alarm_and_back(store, typical):
    assert asked(store)["images"] == 0
    with Classifier.open(store.path, threads=1) as classifier:
        assert classifier.drift is None
        begin(classifier)
        see(classifier, 30)
        assert (classifier.drift.cause, classifier.drift.images) == ("", 30)
        typical[0] = 0.01
        see(classifier, 30, seed=2)
        assert classifier.drift.alarm
        assert until(lambda: kept_alarm(store))
        found = asked(store, code=ATTENTION)
        assert (found["cause"], found["alarm"], found["version"]) == ("world", True, "1")
        assert (found["device"], found["run_length"], found["every"]) == (
            store.config.device, 100.0, 0.0,
        )  # fmt: skip
        assert found["unknown"]["share"] == pytest.approx(0.5, abs=0.1)
        text = CliRunner().invoke(device, ["drift", str(store.path)]).stdout
        lines = [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]
        assert lines == [
            "changed", "since", "evidence", "do", "images", "detectors", "typical", "classes",
        ]  # fmt: skip
        status = json.loads(
            CliRunner().invoke(device, ["status", str(store.path), "--json"]).stdout
        )
        assert "the world seems to have changed: see `edgecl-device drift`" in status["attention"]
        assert asked(store, "--reset") == {"acknowledged": True}
        assert until(lambda: not classifier.drift.alarm)
        assert asked(store, "--reset") == {"acknowledged": False}
        typical[0] = 0.5
        see(classifier, 5, seed=3)
    assert asked(store)["images"] == 5  # written when it is closed
    assert (store.path / LOCAL / NAME).stat().st_mode & 0o777 == 0o660


def test_pictures_of_what_is_new_stay_on_the_device_until_somebody_has_seen_them(store, typical):
    with store.lock():
        store.configure(replace(store.config, drift_pictures=3))
    with Classifier.open(store.path, threads=1) as classifier:
        begin(classifier)
        see(classifier, 5)
        typical[0] = 0.01
        see(classifier, 20, seed=2)
    with Classifier.open(store.path, threads=1):
        found = asked(store, code=ATTENTION)["pictures"]
    assert len(found) == 3
    for each in map(Path, found):
        assert each.parent == store.path / LOCAL / "drift"
        assert each.name.startswith("p0.0100-")
        assert each.stat().st_mode & 0o777 == 0o660
        with Image.open(each) as image:
            assert image.size == (SIDE, SIDE)
    assert asked(store, "--reset") == {"acknowledged": True}
    assert not any(map(os.path.exists, found))
    assert asked(store)["pictures"] == []


def test_another_release_and_another_class_of_the_device_begin_anew(toy, store, typical):
    source = MemorySource()
    with Classifier.open(store.path, threads=1) as classifier:
        begin(classifier)
        typical[0] = 0.01
        see(classifier, 30)
        source.publish(release(toy, 2, tilt=1e-3))
        assert update(store, source, test=passes).release == 2
        assert until(lambda: classifier.release == 2)
        see(classifier, 1)
        assert (classifier.drift.version, classifier.drift.alarm) == ("2", False)
        assert asked(store)["images"] == 0  # what is kept is of release 1
        classifier.enrol("lemon", shades(YELLOW, 5))
        see(classifier, 1)
        assert (classifier.drift.version, classifier.drift.images) == ("2.1", 0)


def test_the_p_values_of_a_release_find_a_new_thing(world):
    made = scored_release(world, 1, "red", "green", images=60, normed=True)
    store = make_store(cosine_world(world), world.root / "store", made, disk=Quick())
    with store.lock():
        store.configure(replace(store.config, drift_every=0.0, drift_run_length=1e4))
    rng = np.random.default_rng(0)
    with Classifier.open(store.path, threads=1) as classifier:
        classifier.predict(shades(COLOURS["red"], SKIPPED, seed=50))
        for red, green in zip(
            shades(COLOURS["red"], 100, seed=51),
            shades(COLOURS["green"], 100, seed=52),
            strict=True,
        ):
            classifier.predict([red if rng.random() < 0.8 else green])  # the mix is another one
        calm = classifier.drift
        assert (calm.cause, calm.images, sum(calm.histogram)) == ("", 100, 100)
        assert calm.unknown.share < 0.15
        assert calm.shift < 0.2  # whatever the mix of classes
        for each in shades(YELLOW, 60, seed=53):
            classifier.predict([each])
        found = classifier.drift
        assert (found.cause, found.alarm) == ("world", True)
        assert found.unknown.share > 0.3
        assert found.shift > 1.5 * calm.shift
        (metric,) = (each for each in of_drift(found) if "feature" in each.name)
        assert (metric.name, metric.samples[0].value) == ("edgecl_feature_shift_ratio", found.shift)


def test_what_breaks_here_breaks_no_answer(store, typical, monkeypatch):
    def breaks(_):
        raise MemoryError

    monkeypatch.setattr(Measured, "of", breaks)
    with Classifier.open(store.path, threads=1) as classifier:
        begin(classifier)
        see(classifier, 3)
        assert classifier.drift.images == 0


def test_a_server_that_cannot_tell_goes_on(store, monkeypatch, caplog):
    def breaks(_):
        raise ValueError("math domain error")

    monkeypatch.setattr(Classifier, "drift", property(breaks))
    monkeypatch.setattr(service, "_DRIFT", 0.0)
    with Classifier.open(store.path, threads=1) as classifier, serving(classifier) as server:
        for _ in range(3):
            server.service.look()
        assert server.get("/edgecl/v1/status").json["drift"] is None
    assert [each.getMessage().split(":")[0] for each in caplog.records] == ["drift-unseen"]


def test_a_command_that_classifies_is_no_service(store, typical, tmp_path):
    path = tmp_path / "red.png"
    Image.fromarray(picture("red")).save(path)
    words = ["classify", str(store.path), *[str(path)] * (SKIPPED + 5)]
    assert CliRunner().invoke(device, words).exit_code == 0
    assert read_drift(store.path / LOCAL) is None
    with Classifier.open(store.path, threads=1, drift=False) as classifier:
        begin(classifier)
        see(classifier, 2)
        assert classifier.drift is None


def test_a_server_shows_it(store, typical):
    told = []
    with (
        Classifier.open(store.path, threads=1) as classifier,
        serving(classifier, tell=told.append) as server,
    ):
        assert b"edgecl_drift" not in server.get("/metrics").body
        assert server.get("/edgecl/v1/drift").json == {"cause": None}
        begin(classifier)
        typical[0] = 0.01
        for each in shades((0.9, 0.1, 0.1), 25):
            assert server.pixels([each]).output("label")[0] == "red"
        found = {
            (each.name, *each.labels.values()): each.value
            for family in text_string_to_metric_families(server.get("/metrics").body.decode())
            for each in family.samples
        }
        assert found["edgecl_drift_images",] == 25
        assert found["edgecl_drift_alarm", "atypical"] == 1
        assert found["edgecl_drift_alarm", "typical"] == 0
        assert found["edgecl_drift_evidence_log10", "atypical"] > 2
        assert found["edgecl_drift_cause", "world"] == 1
        assert ("edgecl_feature_shift_ratio",) not in found  # its packs have no scores
        assert found["edgecl_p_value_bucket", "0.05"] == found["edgecl_p_value_count",] == 25
        assert until(lambda: any(each["event"] == "drift" for each in told))
        (event,) = (each for each in told if each["event"] == "drift")
        assert sentence(event) == "the world seems to have changed: see `edgecl-device drift`"
        assert server.get("/edgecl/v1/status").json["drift"] == "world"
        shown = server.get("/edgecl/v1/drift").json
        assert (shown["cause"], shown["alarm"], shown["images"]) == (
            "world",
            True,
            25,
        )
        assert shown["reasons"]


def test_a_server_counts_the_images_that_it_refuses(store):
    broken, red = b"no image", png("red")
    wanted = {
        "inputs": [
            {
                "name": "image",
                "datatype": "BYTES",
                "shape": [2],
                "parameters": {"content_type": "base64"},
                "data": [b64encode(each).decode() for each in (red, broken)],
            }
        ],
        "outputs": [{"name": "label"}],
    }
    with Classifier.open(store.path, threads=1) as classifier, serving(classifier) as server:
        found = [server.image(broken if i % 3 == 0 else red).status for i in range(30)]
        assert found == [400, 200, 200] * 10
        assert server.post(INFER, wanted).status == 400
        seen = server.get("/edgecl/v1/drift").json
        assert (seen["cause"], seen["answered"]) == ("camera", 32)
        assert "34% of the last 32 images could not be read" in seen["reasons"]

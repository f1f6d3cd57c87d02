"""What runs: as asked for, as measured here, or float32 in the default engine."""

import json
import logging
from dataclasses import replace

import pytest
from tests.deploy.support.sources import make_release, make_store

from edgecl_deploy import Classifier, choice, engines
from edgecl_deploy.choice import Choice, Wish, parse_choice, read_choice, write_choice
from edgecl_deploy.engines import make_engine
from edgecl_deploy.engines.processor import cpu_name
from edgecl_deploy.errors import DeployError, OptionError
from edgecl_deploy.forms import Mode
from edgecl_deploy.store.layout import ENGINE

OPENVINO = pytest.mark.skipif(not engines.installed("openvino"), reason="openvino is not here")


@pytest.fixture
def store(world):
    return make_store(world, world.root / "store", make_release(world, 1))


@pytest.fixture
def measured(store):
    return Choice(
        engine="onnxruntime",
        precision="float32",
        batch=4,
        threads=1,
        ms=1.5,
        version=make_engine("onnxruntime").version,
        cpu=cpu_name(),
        bundle=store.bundle().digest,
    )


def test_it_is_read_as_it_was_written(store, measured):
    write_choice(store.path, measured)
    assert read_choice(store.path, measured.bundle) == measured
    assert parse_choice(measured.to_bytes()) == measured


def test_every_bit_of_it_counts(measured):
    data = measured.to_bytes()
    for i in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[i // 8] ^= 1 << i % 8
        with pytest.raises(DeployError):
            parse_choice(bytes(flipped))


def test_a_classifier_of_the_store_uses_it(store, measured):
    write_choice(store.path, measured)
    with Classifier.open(store.path) as classifier:
        assert classifier.mode.batch == 4
    with Classifier.open(store.path, batch=2) as classifier:
        assert classifier.mode.batch == 2


@pytest.mark.parametrize(
    "change", [{"version": "0.1"}, {"cpu": "another"}, {"bundle": "0" * 64}, {"engine": "gone"}]
)
def test_of_another_machine_it_does_not_count(store, measured, change, caplog, monkeypatch):
    def missing(*_):
        raise engines_missing("gone")

    monkeypatch.setitem(engines._FACTORIES, "gone", missing)
    write_choice(store.path, replace(measured, **change))
    with caplog.at_level(logging.WARNING), Classifier.open(store.path) as classifier:
        assert classifier.mode.batch is None
        assert classifier.mode.precision == "float32"
    assert len(caplog.records) == 1


def engines_missing(name):
    return choice.EngineMissingError(f"{name} must be installed", "nothing", "Install it.")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"x" * 2_000_000])
def test_a_damaged_one_does_not_count(store, content, caplog):
    (store.path / ENGINE).write_bytes(content)
    with caplog.at_level(logging.WARNING), Classifier.open(store.path) as classifier:
        assert classifier.mode == Wish().meet(None, None)[1]
    assert "default engine" in caplog.text


def test_nothing_measured_is_nothing_to_tell(store, caplog):
    with caplog.at_level(logging.WARNING), Classifier.open(store.path) as classifier:
        assert classifier.mode.precision == "float32"
    assert caplog.records == []


@OPENVINO
def test_openvino_serves_where_only_it_is_installed(world, monkeypatch, colour_picture):
    monkeypatch.setattr(engines, "installed", lambda name: name == "openvino")
    classifier = Classifier.open(world.bundle_path, world.release("red", "blue"))
    assert classifier.engine.version == make_engine("openvino").version
    assert classifier.predict([colour_picture("blue")])[0].label == "blue"


def test_a_precision_that_the_engine_lacks_is_refused(world, fake_engine):
    with pytest.raises(OptionError, match=r"precision='float16'.*edgecl-device doctor"):
        Classifier.open(world.bundle_path, world.release("red"), precision="float16", engine="fake")
    with pytest.raises(OptionError, match="one of float32"):
        Classifier.open(world.bundle_path, world.release("red"), precision="float8")
    with pytest.raises(OptionError, match="batch must be 1 to"):
        Classifier.open(world.bundle_path, world.release("red"), batch=0)


def test_what_tune_stores_is_json(measured):
    assert json.loads(measured.to_bytes())["format"] == choice.ENGINE_FORMAT


@pytest.mark.parametrize(
    ("empty", "dynamic", "form", "slots"),
    [
        (True, True, "fused", "dynamic"),
        (True, False, "staged", "dynamic"),
        (False, True, "fused", "dynamic"),
        (False, False, "staged", "fixed"),
    ],
)
def test_the_form_is_one_that_the_engine_runs(fake_engine, empty, dynamic, form, slots):
    fake_engine.able = engines.Capabilities(empty_tensors=empty, dynamic_shapes=dynamic)
    engine, mode = Wish("fake").meet(None, None)
    assert (mode.form, mode.slots) == (form, slots)
    mode.check(engine)
    assert Wish("fake", form="fused", slots="dynamic").meet(None, None)[1] == Mode()
    assert Wish("fake", slots="fixed").meet(None, None)[1] == Mode("staged", "fixed")

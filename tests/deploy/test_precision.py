"""Precisions on the device: what is refused, what falls back to float32, and that it says so."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from tests.deploy.support.sources import QUICK, MemorySource, make_store, passes
from tests.deploy.support.variants import LICENCE, OFF, WEIGHTS, add_variant, licensed, with_canary
from tests.deploy.support.world import picture

from edgecl_deploy import Classifier, engines
from edgecl_deploy.errors import DigestError, OptionError, SelfTestError
from edgecl_deploy.files import read_bundle, read_release
from edgecl_deploy.format import Licence
from edgecl_deploy.store.health import Report, Reporter, read_reports
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome

FORMS = [("fused", "dynamic"), ("staged", "dynamic"), ("staged", "fixed")]
STRICT = replace(LICENCE, atol=0.001)  # less than the variant errs by


@pytest.fixture(params=[name for name in ("onnxruntime", "openvino") if engines.installed(name)])
def engine(request):
    return str(request.param)


def red(classifier):
    return float(classifier.scores(picture("red", 1)).scores[0, 0])


@pytest.mark.parametrize(("form", "slots"), FORMS)
@pytest.mark.parametrize("program", ["plain", "pool"])
def test_a_licensed_release_runs_from_the_files_of_the_variant(world, engine, program, form, slots):
    add_variant(world)
    path = licensed(with_canary(world, program=program)).write(world.fresh())
    options = {"engine": engine, "form": form, "slots": slots, "threads": 1}
    floats = Classifier.open(world.bundle_path, path, **options)
    variant = Classifier.open(world.bundle_path, path, precision="int8", batch=2, **options)
    assert (floats.precision, variant.precision, variant.fallback) == ("float32", "int8", "")
    assert red(variant) - red(floats) == pytest.approx(OFF, abs=1e-4)
    assert variant.self_test().max_error == pytest.approx(OFF, abs=1e-4)


def test_only_the_files_of_what_runs_are_hashed(world):
    add_variant(world)
    path = licensed(with_canary(world)).write(world.fresh())
    folder = world.bundle_path
    for name, runs, fails in (
        ("weights.bin", "int8", "float32"),
        ("plain.fused.onnx", "int8", "float32"),
        (WEIGHTS, "float32", "int8"),
        ("plain.int8.fused.onnx", "float32", "int8"),
        ("plain.encode.onnx", "float32", "none"),
    ):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
        assert Classifier.open(folder, path, precision=runs).precision == runs
        if fails != "none":
            with pytest.raises(DigestError, match=name):
                Classifier.open(folder, path, precision=fails)
        with pytest.raises(DigestError, match=name):
            read_bundle(folder).verify_files()
        (folder / name).write_bytes(data)
    read_bundle(folder).verify_files()


# -- what is asked for and is not there ------------------------------------------------------------


def test_the_bundle_lacks_it(world):
    path = licensed(with_canary(world)).write(world.fresh())
    with pytest.raises(OptionError, match=r"bundle must have the variant int8; found one with bfl"):
        Classifier.open(world.bundle_path, path, precision="int8")


def test_the_program_of_the_release_lacks_it(world):
    add_variant(world, "pool")
    path = licensed(with_canary(world)).write(world.fresh())
    with pytest.raises(OptionError, match=r"program plain .* with float32, bfloat16.*quantize"):
        Classifier.open(world.bundle_path, path, precision="int8")


def test_the_release_lacks_it(world):
    add_variant(world)
    path = licensed(with_canary(world, number=3), precision="bfloat16").write(world.fresh())
    with pytest.raises(OptionError, match=r"release 3 must have a licence for int8; found"):
        Classifier.open(world.bundle_path, path, precision="int8")


def test_the_engine_lacks_it(world, fake_engine):
    add_variant(world)
    path = licensed(with_canary(world)).write(world.fresh())
    with pytest.raises(OptionError, match="engine must run precision='int8'"):
        Classifier(read_bundle(world.bundle_path), fake_engine, mode("int8")).swap(path)


def mode(precision):
    from edgecl_deploy.forms import Mode

    return Mode(precision=precision)


def test_its_self_test_fails(world, engine):
    add_variant(world)
    path = licensed(with_canary(world), STRICT).write(world.fresh())
    with pytest.raises(SelfTestError, match=r"within 0\.001 in int8.*an error of 0\.01"):
        Classifier.open(world.bundle_path, path, precision="int8", engine=engine)


# -- later releases --------------------------------------------------------------------------------


def test_a_swap_falls_back_and_returns(world, engine, caplog):
    add_variant(world)
    first = licensed(with_canary(world)).write(world.fresh())
    classifier = Classifier.open(world.bundle_path, first, precision="int8", engine=engine)
    rounded = red(classifier)
    for number, licence, why in (
        (2, None, "release 2 must have a licence for int8"),
        (4, STRICT, "within 0.001 in int8"),
    ):
        with caplog.at_level(logging.WARNING):
            classifier.swap(licensed(with_canary(world, number), licence).write(world.fresh()))
        assert (classifier.release, classifier.precision) == (number, "float32")
        assert why in classifier.fallback
        assert f"precision-fallback: release {number} answers in float32" in caplog.text
        assert red(classifier) == pytest.approx(rounded - OFF, abs=1e-4)
        classifier.swap(licensed(with_canary(world, number + 1)).write(world.fresh()))
        assert (classifier.precision, classifier.fallback) == ("int8", "")
        assert red(classifier) == rounded


def test_a_release_that_fails_in_float32_too_is_refused(world):
    add_variant(world)
    classifier = Classifier.open(
        world.bundle_path, licensed(with_canary(world)).write(world.fresh()), precision="int8"
    )
    wrong = (picture("red", 1), np.full((1, 1), 5, np.float32))
    made = world.made(world.pack(0, ("red",)), number=2, canary=wrong)
    with pytest.raises(SelfTestError, match="in float32"):
        classifier.swap(licensed(made).write(world.fresh()))
    assert (classifier.release, classifier.precision) == (1, "int8")


def test_a_score_is_known_within_the_tolerance_of_the_variant(world):
    add_variant(world)
    exact = float(with_canary(world).release.canaries is not None)
    path = licensed(with_canary(world, unknown_below=exact + OFF + 0.03)).write(world.fresh())
    answers = {
        precision: Classifier.open(world.bundle_path, path, precision=precision).predict([
            picture("red")
        ])[0]
        for precision in ("float32", "int8")
    }
    assert not answers["float32"].known
    assert answers["int8"].known  # 1.01 against 1.04 with a tolerance of 0.05


# -- a store ---------------------------------------------------------------------------------------


@pytest.fixture
def store(world, tmp_path):
    add_variant(world)
    return make_store(world, tmp_path / "store", licensed(with_canary(world)))


def take(store, source, made, test=passes):
    source.publish(made)
    return update(store, source, test=test)


def test_a_store_serves_every_release(store, world):
    source = MemorySource()
    with Classifier.open(store.path, precision="int8", threads=1) as first:
        assert first.precision == "int8"
    assert take(store, source, licensed(with_canary(world, 2), None)).outcome is Outcome.UPDATED
    with Classifier.open(store.path, precision="int8", threads=1) as second:  # a restart
        assert (second.release, second.precision) == (2, "float32")
        assert "licence for int8" in second.fallback
    assert take(store, source, licensed(with_canary(world, 3))).outcome is Outcome.UPDATED
    with Classifier.open(store.path, precision="int8", threads=1) as third:
        assert (third.release, third.precision) == (3, "int8")


def test_a_store_whose_bundle_lacks_it_is_refused(world, tmp_path):
    store = make_store(world, tmp_path / "store", with_canary(world))
    with pytest.raises(OptionError, match="the bundle must have the variant int8"):
        Classifier.open(store.path, precision="int8")


def test_a_fallback_on_trial_is_in_the_log_of_the_store(store, world):
    def reporting(store, generation):
        Reporter(store.path).write(Report(generation.number, fallback="no licence\nfor int8"))

    result = take(store, MemorySource(), licensed(with_canary(world, 2), None), reporting)
    assert result.outcome is Outcome.UPDATED
    (report,) = read_reports(store.path, 1)
    assert (report.error, report.fallback) == ("", "no licence\\nfor int8")
    event = store.log.last("precision-fallback")
    assert (event["release"], event["reason"]) == (2, report.fallback)


def test_a_process_that_follows_a_store_tells_of_its_fallback(store, world):
    with store.lock():
        store.configure(replace(store.config, limits=replace(QUICK, trial_seconds=2.0)))
    with Classifier.open(store.path, precision="int8", threads=1) as classifier:
        result = take(store, MemorySource(), licensed(with_canary(world, 2), None))
        assert result.outcome is Outcome.UPDATED
        assert (classifier.release, classifier.precision) == (2, "float32")
        event = store.log.last("precision-fallback")
        assert event["reason"] == classifier.fallback


def test_a_report_without_the_field_has_no_fallback(store):
    reporter = Reporter(store.path)
    reporter._path.write_text('{"error":"","failed":0,"generation":7,"images":1}')
    assert read_reports(store.path, 7)[0].fallback == ""


def test_a_licence_is_part_of_what_is_released(world):
    path = licensed(with_canary(world)).write(world.fresh())
    assert read_release(path).release.licence("int8") == Licence(0.05, 1.0, 100, 0, "tests")

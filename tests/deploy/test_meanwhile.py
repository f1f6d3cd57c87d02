"""An engine that compiles while another one answers."""

import logging
import threading

import pytest
from tests.deploy.support.following import take, until
from tests.deploy.support.sources import MemorySource, make_release, make_store
from tests.deploy.support.world import FakeEngine

from edgecl_deploy import Classifier, engines
from edgecl_deploy.errors import EngineError, OptionError

SECONDS = 30  # that a test waits for a thread


class SlowEngine(FakeEngine):
    """An engine that compiles until it is let go on, and then may fail."""

    def __init__(self):
        super().__init__(None)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def load(self, graph):
        self.begun.set()
        assert self.go_on.wait(SECONDS)
        if self.error is not None:
            raise self.error
        return super().load(graph)


@pytest.fixture
def slow(monkeypatch):
    engine = SlowEngine()
    monkeypatch.setattr(engines, "_FACTORIES", dict(engines._FACTORIES))
    engines.register("slow", lambda threads, artefacts: engine)
    yield engine
    engine.go_on.set()


def opened(world, *classes, **options):
    return Classifier.open(
        world.bundle_path,
        world.release(*classes),
        engine="slow",
        meanwhile="onnxruntime",
        **options,
    )


def finished(classifier):
    assert classifier._preparation.join(SECONDS)


def test_another_engine_answers_until_it_is_ready(world, slow, colour_picture):
    with opened(world, "red", "green") as classifier:
        assert slow.begun.wait(SECONDS)
        first = classifier.engine
        assert first is not slow
        assert classifier.predict([colour_picture("green")])[0].label == "green"
        assert "made ready" in classifier.engine_fallback
        slow.go_on.set()
        finished(classifier)
        assert (classifier.engine, classifier.engine_fallback) == (slow, "")
        answer = classifier.predict([colour_picture("green")])[0]
        assert (answer.label, answer.release) == ("green", 1)
        assert classifier.loaded.tally.images == 2  # the count goes on


def test_a_release_that_came_meanwhile_is_the_one_that_answers(world, slow, colour_picture):
    with opened(world, "red") as classifier:
        assert slow.begun.wait(SECONDS)
        assert classifier.swap(world.release("red", "green", number=2)) == 2
        slow.go_on.set()
        finished(classifier)
        answer = classifier.predict([colour_picture("green")])[0]
        assert (answer.label, answer.release, classifier.engine) == ("green", 2, slow)
        assert len(slow.loads) == 1  # compiled once


def test_what_the_operator_decided_holds_in_the_other_engine(world, slow):
    with opened(world, "red", alpha=0.2) as classifier:
        slow.go_on.set()
        finished(classifier)
        assert (classifier.engine, classifier.loaded.alpha) == (slow, 0.2)


def test_releases_are_taken_while_that_of_another_program_compiles(world, slow, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    load = slow.load

    def load_another(graph):
        begun.set()
        assert go_on.wait(SECONDS)
        return load(graph)

    with opened(world, "red") as classifier:
        assert slow.begun.wait(SECONDS)
        monkeypatch.setattr(slow, "load", load_another)
        classifier.swap(world.release("red", program="pool", number=2))
        slow.go_on.set()
        assert begun.wait(SECONDS)
        assert classifier.swap(world.release("red", "green", program="pool", number=3)) == 3
        go_on.set()
        finished(classifier)
        assert (classifier.engine, classifier.release) == (slow, 3)
        assert len(slow.loads) == 2  # each program once


def test_an_engine_that_fails_changes_nothing(world, slow, colour_picture, caplog):
    slow.error = EngineError("a GPU must be there", "none", "Use another engine.")
    with opened(world, "red") as classifier, caplog.at_level(logging.WARNING):
        first = classifier.engine
        slow.go_on.set()
        finished(classifier)
        assert classifier.engine is first
        assert classifier.predict([colour_picture("red")])[0].label == "red"
        assert "a GPU must be there" in classifier.engine_fallback
        assert "engine-fallback" in caplog.text


def test_a_closed_classifier_keeps_its_engine(world, slow, colour_picture):
    with opened(world, "red") as classifier:
        first = classifier.engine
        assert slow.begun.wait(SECONDS)
    slow.go_on.set()
    finished(classifier)
    assert classifier.engine is first
    assert classifier.predict([colour_picture("red")])[0].label == "red"
    assert "closed" in classifier.engine_fallback


def test_an_unknown_engine_is_refused_at_once(world, slow):
    path = world.release("red")
    for options in ({"engine": "none"}, {"engine": "slow", "meanwhile": "none"}):
        with pytest.raises(OptionError, match="registered"):
            Classifier.open(world.bundle_path, path, **{"meanwhile": "onnxruntime", **options})
    assert not slow.begun.is_set()


def test_a_store_is_followed_meanwhile(world, slow, tmp_path):
    store, source = make_store(world, tmp_path / "store", make_release(world, 1)), MemorySource()
    with Classifier.open(store.path, engine="slow", meanwhile="onnxruntime") as classifier:
        assert slow.begun.wait(SECONDS)
        take(store, source, make_release(world, 2))
        assert until(lambda: classifier.release == 2)
        slow.go_on.set()
        finished(classifier)
        assert (classifier.engine, classifier.release) == (slow, 2)
        take(store, source, make_release(world, 3))
        assert until(lambda: classifier.release == 3)
        assert len(slow.loads) == 1

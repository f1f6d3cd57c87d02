"""`edgecl-device tune` and `doctor`: real engines in processes of their own."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from tests.deploy.support.sources import make_release, make_store

from edgecl_deploy import Classifier, engines
from edgecl_deploy.choice import read_choice
from edgecl_deploy.cli import device
from edgecl_deploy.errors import EngineError, OptionError
from edgecl_deploy.tuning import GAIN, Candidate, Tuning, candidates, tune


def run(*words: str):
    return CliRunner().invoke(device, list(map(str, words)))


def test_candidates_begin_with_what_runs_by_default():
    found = candidates()
    assert (found[0].engine, found[0].precision) == ("onnxruntime", "float32")
    assert {each.engine for each in found} <= set(engines.names())
    assert len(found) == len(set(found))
    only = candidates(("onnxruntime",))
    assert {each.engine for each in only} == {"onnxruntime"}
    with pytest.raises(OptionError, match=r"Use .*onnxruntime"):
        candidates(("tpu",))


def test_it_measures_in_turns(world):
    path = world.release("red", "blue")
    asked = [each for each in candidates() if each.precision == "float32"]
    lines = []
    found = tune(str(world.bundle_path), str(path), asked, threads=1, seconds=0, tell=lines.append)
    assert len(lines) == len(asked)
    assert {each.engine for each in found.candidates} == {each.engine for each in asked}
    for each in found.candidates:
        assert each.error is None
        assert len(each.ms[0]) == 1
        assert len(each.ms) == len(found.base.ms) >= 3
        assert each.start_ms > 0
        assert each.mb > 1
    assert found.ratio(found.base) == 1
    assert found.chosen in found.candidates


def of(engine: str, ms: float) -> Candidate:
    return Candidate(engine, "float32", None, "1", ms=((ms, ms), (2 * ms,), (ms, 3 * ms)))


@pytest.mark.parametrize(("ms", "chosen"), [(0.8, "b"), (0.95, "a"), (2.0, "a")])
def test_another_one_must_be_faster_by_a_tenth(ms, chosen, monkeypatch):
    base, other = of("a", 1.0), of("b", ms)
    assert (other.median_ms < GAIN * base.median_ms) == (chosen == "b")
    found = Tuning((base, other), other if chosen == "b" else base, base, None)
    assert found.ratio(other) == pytest.approx(1 / ms)
    assert found.choice("0" * 64).engine == chosen


def test_one_that_cannot_run_is_named_with_the_reason(world):
    path = world.release("red")
    broken = Candidate("onnxruntime", "float16", None)
    found = tune(str(world.bundle_path), str(path), [candidates()[0], broken], seconds=0)
    assert "float16" in found.candidates[1].error
    assert "error" in found.to_json()["candidates"][1]
    with pytest.raises(EngineError, match="must run here"):
        tune(str(world.bundle_path), str(path), [broken], seconds=0)


def test_a_release_that_fails_its_canaries_is_not_measured(world, colour_picture):
    wrong = (colour_picture("red", 1), np.array([[9.0]], np.float32))
    path = world.made(world.pack(0, ("red",)), canary=wrong).write(world.fresh())
    with pytest.raises(EngineError, match="canaries"):
        tune(str(world.bundle_path), str(path), candidates()[:1], seconds=0)


def test_a_store_remembers_it(world):
    store = make_store(world, world.root / "store", make_release(world, 1))
    result = run("tune", store.path, "--seconds", "0", "--threads", "1", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    choice = read_choice(store.path, store.bundle().digest)
    assert (choice.engine, choice.precision) == (
        printed["chosen"]["engine"],
        printed["chosen"]["precision"],
    )
    assert choice.threads == 1
    with Classifier.open(store.path) as classifier:
        assert classifier.engine.version == choice.version
    assert (store.path / "artefacts").is_dir() == engines.installed("openvino")


def test_a_bundle_prints_what_to_use(world):
    path = world.release("red", "blue")
    words = ("--seconds", "0", "--engines", "onnxruntime")
    result = run("tune", world.bundle_path, path, *words)
    assert result.exit_code == 0, result.output
    assert "use it with --engine onnxruntime" in result.stdout
    assert run("tune", world.bundle_path, path, "image.png").exit_code == 2


def test_doctor_names_every_engine(monkeypatch):
    found = json.loads(run("doctor", "--json").stdout)
    assert set(found["engines"]) == set(engines.names())
    assert "float32" in found["engines"]["onnxruntime"]["precisions"]
    result = run("doctor")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in engines.names())

    def missing(*_):
        raise EngineError("a must be here", "nothing", "Install it.")

    monkeypatch.setattr(engines, "_FACTORIES", {"a": missing})
    result = run("doctor")
    assert result.exit_code == 3
    assert "Install it." in result.stdout

"""`edgecl-device bench`: real engines in processes of their own, side by side."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from tests.deploy.support.sources import make_release, make_store

from edgecl_deploy import Classifier, engines
from edgecl_deploy.bench.contestant import LEAST, STAGES, Turns
from edgecl_deploy.bench.measuring import Bench, Measured, resolved
from edgecl_deploy.bench.showing import picture, table
from edgecl_deploy.choice import Choice, Wish
from edgecl_deploy.cli import device
from edgecl_deploy.sample import encoded, sample_photo


def run(*words):
    return CliRunner().invoke(device, ["bench", *map(str, words)])


@pytest.fixture
def where(world):
    return world.bundle_path, world.release("red", "green")


def test_it_reports_every_stage_and_the_whole(where, tmp_path):
    drawn = tmp_path / "bench.svg"
    words = ("--seconds", "0", "--batch", "2", "--size", "320x240", "--threads", "1")
    result = run(*where, *words, "--json", "--svg", drawn)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["batch"], report["classes"], report["program"]) == (2, 2, "plain")
    assert (report["picture"], report["threads"], report["decode"]) == ("320 x 240 JPEG", 1, "full")
    assert all(report[key] for key in ("cpu", "cores", "numpy", "pillow", "python", "release"))
    (found,) = report["engines"]
    assert (found["engine"], found["precision"]) == (engines.default_engine(), "float32")
    assert list(found["ms"]) == list(STAGES)
    for ranks in found["ms"].values():
        assert 0 < ranks["p50"] <= ranks["p95"] <= ranks["p99"]
    assert found["ms"]["decode"]["p50"] > found["ms"]["read"]["p50"]
    assert set(found["images_per_second"]) == {"overlapped", "sequential"}
    assert all(rate > 1 for rate in found["images_per_second"].values())
    assert (found["ratio"], found["runs"] >= 3) == (1.0, True)
    assert found["start_ms"] > found["swap_ms"] > 0
    assert 10 < found["mb"] < 2000
    assert ET.fromstring(drawn.read_text()).tag.endswith("svg")  # noqa: S314  our own


def test_engines_are_measured_side_by_side(where):
    result = run(*where, "--seconds", "0", "--against", "onnxruntime", "--size", "64x48")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "64 x 48 JPEG, batches of 1; milliseconds per image"
    assert lines[1].split() == ["onnxruntime", "float32"] * 2
    assert [line.split()[0] for line in lines[3:8]] == list(STAGES)
    assert all(len(line.split()) == 1 + 2 * 3 for line in lines[3:8])
    assert "times the first" in result.stdout


def test_one_that_cannot_run_is_named_and_the_status_is_one(where):
    result = run(*where, "--seconds", "0", "--json", "--against", "onnxruntime:float16")
    assert result.exit_code == 1
    first, second = json.loads(result.stdout.splitlines()[0])["engines"]
    assert first["ms"]
    assert "float16" in second["error"]
    assert "1 of 2 engines could not run" in result.stderr
    shown = run(*where, "--seconds", "0", "--against", "tpu")
    assert shown.exit_code == 1
    assert any(line.startswith("tpu float32: ") for line in shown.stdout.splitlines())
    alone = run(*where, "--seconds", "0", "--engine", "tpu")
    assert alone.exit_code == 1
    assert "`edgecl-device doctor` names what" in alone.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "640"), "'640' is not WIDTHxHEIGHT"),
        (("--size", "0x4"), "'0x4' is not WIDTHxHEIGHT"),
        (("--against", "openvino:int7"), "the precision must be one of float32"),
        (("a.png",), "bench takes no images: a.png"),
    ],
)
def test_a_wrong_command_line_is_status_two(where, words, message):
    result = run(*where, *words)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_a_store_is_measured_without_a_follower(world):
    store = make_store(world, world.root / "store", make_release(world, 1))
    report = json.loads(run(store.path, "--seconds", "0", "--json", "--size", "64x48").stdout)
    assert (report["release"], len(report["engines"])) == (1, 1)


def test_a_turn_measures_what_it_says(where, tmp_path):
    classifier, taken = Classifier.open(*where, threads=1), []
    names = [str(tmp_path / f"{seed}.jpg") for seed in range(3)]
    for seed in range(3):
        (tmp_path / f"{seed}.jpg").write_bytes(encoded(sample_photo(160, 120, seed)))
    turns = Turns(classifier, lambda: taken.append(1), names, batch=2)
    assert turns.take(1)["images"] == LEAST
    turn = turns.take(5)
    assert {stage: len(values) for stage, values in turn["ms"].items()} == dict.fromkeys(STAGES, 5)
    assert (turn["images"], taken) == (10, [1, 1])
    assert set(turn["seconds"]) == {"overlapped", "sequential"}
    assert classifier.loaded.tally.images == 2 * (
        LEAST + 10
    )  # as a whole, twice; the stages do not count


def test_the_memory_is_that_of_the_engine_alone(where):
    """Linux begins the peak of a process with that of the one that started it."""
    ours = np.ones(400 << 20, np.uint8)
    report = json.loads(run(*where, "--seconds", "0", "--json", "--size", "64x48").stdout)
    assert report["engines"][0]["mb"] < 0.75 * ours.nbytes / 1e6


def test_without_a_wish_it_measures_what_the_store_would_serve():
    choice = Choice("openvino", "bfloat16", 1, 2, 1.0, "1", "cpu", "0" * 64)
    assert resolved(Wish(), choice) == Wish("openvino", "bfloat16", batch=1, threads=2)
    base = Wish(engines.default_engine(), "float32", threads=3)
    assert resolved(Wish(threads=3), choice) == base
    assert resolved(Wish("openvino"), None) == Wish("openvino", "float32")


def measured(engine, factor):
    start = {"version": "1", "start_ms": 5.0, "release": 1, "classes": 2, "program": "p"}
    one = Measured(Wish(engine, "float32"), start={**start, "decode": "full"})
    for turn in range(100):
        one.add({
            "ms": {stage: [factor * (turn + 1)] for stage in STAGES},
            "images": 10,
            "seconds": {"overlapped": factor, "sequential": 2 * factor},
            "swap_ms": 7.0,
            "mb": 80.0,
        })
    return one


def test_ranks_rates_and_ratios():
    slow, fast = measured("slow", 1.0), measured("<fast>", 0.5)
    assert [slow.rank("run", percent) for percent in (50, 95, 99)] == [50.0, 95.0, 99.0]
    assert (slow.rate("overlapped"), slow.rate("sequential")) == (10.0, 5.0)
    bench = Bench((slow, fast), 1, "a picture")
    assert bench.ratio(fast) == 2.0
    document = bench.to_json()
    assert document["engines"][1]["ratio"] == 2.0
    text = table(bench).splitlines()
    assert text[3].split() == ["read", "50.00", "95.00", "99.00", "25.00", "47.50", "49.50"]
    drawn = ET.fromstring(picture(bench))  # noqa: S314  our own
    bars = [each for each in drawn.iter() if each.tag.endswith("rect")][1 + len(STAGES) :]
    widths = np.array([float(each.get("width")) for each in bars]).reshape(2, len(STAGES))
    np.testing.assert_allclose(widths[0], 2 * widths[1], atol=0.2)
    assert "<fast> float32" in [each.text for each in drawn.iter()]

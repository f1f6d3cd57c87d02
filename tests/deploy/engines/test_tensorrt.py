"""TensorRT's engine on a fake: what it calls, what it keeps, and how it fails."""

import gc
import json
import sys
from types import ModuleType

import numpy as np
import pytest
from tests.deploy.engines.fakes import nvidia_packages

from edgecl_deploy import Classifier, engines
from edgecl_deploy.engines import Artefacts, make_engine
from edgecl_deploy.errors import EngineError, EngineMissingError, OptionError

COLOURS = ["red", "green", "blue", "white"]
VERSIONS = ["10.3.0", "10.13.0.35", "11.4.0"]
BUILDING = [
    "Runtime",
    "Builder",
    "parse_from_file",
    "set_shape",
    "add_optimization_profile",
    "build_serialized_network",
    "deserialize_cuda_engine",
    "get_tensor_location",
    "cudaGetDeviceProperties",
    "cudaDriverGetVersion",
]
RUNNING = [
    "create_execution_context",
    "set_optimization_profile_async",
    "set_input_shape",
    "set_tensor_address",
    "infer_shapes",
    "get_tensor_shape",
    "execute_async_v3",
    "cudaMalloc",
    "cudaMemcpyAsync",
    "cudaStreamCreate",
    "cudaStreamSynchronize",
]
PINNING = ["cudaMalloc", "cudaMemcpyAsync", "cudaStreamCreate", "cudaStreamSynchronize"]


def some_images(count):
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def opened(world, *, names=("red", "blue"), batch=None, cache=None):
    path = world.release(*names, program="pool")
    return Classifier.open(
        world.bundle_path, path, engine="tensorrt", form="staged", slots="fixed", batch=batch,
        cache=cache, threads=1,
    )  # fmt: skip


def reference(world, images, names=("red", "blue")):
    path = world.release(*names, program="pool")
    return Classifier.open(world.bundle_path, path, engine="onnxruntime").scores(images).scores


@pytest.mark.parametrize("version", VERSIONS)
def test_one_code_serves_ten_and_eleven(world, tmp_path, version):
    with nvidia_packages(tmp_path / "nvidia", version):
        found = opened(world)
        assert found.engine.version == version
        got = found.scores(some_images(3)).scores
        assert got == pytest.approx(reference(world, some_images(3)), abs=1e-5)


def test_an_older_one_is_refused(tmp_path):
    with (
        nvidia_packages(tmp_path / "nvidia", "8.6.1"),
        pytest.raises(OptionError, match=r"needs TensorRT 10 or later; found 8\.6\.1"),
    ):
        make_engine("tensorrt")


@pytest.mark.parametrize(("batch", "want"), [(None, (1, 8, 32)), (1, (1, 1, 1)), (5, (5, 5, 5))])
def test_the_profile_names_every_dynamic_input(world, nvidia, batch, want):
    opened(world, batch=batch)
    ranges = {name: shapes for name, *shapes in nvidia.calls.arguments["set_shape"]}
    assert ranges == {
        "image": [(images, 8, 8, 3) for images in want],
        "chosen": [(images, 4, 3) for images in want],
    }


@pytest.mark.parametrize("count", [0, 1, 7, 32, 33, 70])
def test_more_images_than_the_profile_has_are_several_runs(world, nvidia, count):
    found = opened(world)
    nvidia.calls.arguments.clear()
    got = found.scores(some_images(count)).scores
    want = reference(world, some_images(count)) if count else np.zeros((0, 2), np.float32)
    assert got == pytest.approx(want, abs=1e-5)
    shapes = [s for name, s in nvidia.calls.arguments["set_input_shape"] if name == "image"]
    assert max(shape[0] for shape in shapes) <= 32
    assert sum(shape[0] for shape in shapes) == 2 * max(count, 1)  # plain and injected


def test_every_tensor_has_a_shape_and_an_address_in_every_run(world, nvidia):
    found = opened(world)
    found.scores(some_images(2))
    nvidia.calls.arguments.clear()
    found.scores(some_images(2))
    runs = len(nvidia.calls.arguments["execute_async_v3"])
    assert runs == 2
    inputs = {"image", "chosen", "chosen_mask", "shift"}
    shaped = [name for name, _ in nvidia.calls.arguments["set_input_shape"]]
    placed = [name for name, _ in nvidia.calls.arguments["set_tensor_address"]]
    assert sorted(shaped) == sorted([*inputs] * runs)
    assert sorted(placed) == sorted([*inputs, "cls", "prompt"] * runs)


def test_learned_tensors_are_copied_once_for_a_release(world, nvidia):
    found = opened(world)
    found.scores(some_images(2))
    addresses = [a for n, a in nvidia.calls.arguments["set_tensor_address"] if n == "shift"]
    assert len(set(addresses)) == 2, "the neutral slot and the release have their own memory"
    before = nvidia.calls.made["cudaMemcpyAsync"]
    found.scores(some_images(2))
    # plain: image, two slots, mask; injected: image, slot, mask; outputs of both
    assert nvidia.calls.made["cudaMemcpyAsync"] - before == 4 + 3 + 4


@pytest.mark.parametrize("call", BUILDING)
def test_a_failure_while_it_loads_is_one_error(world, nvidia, call):
    nvidia.calls.failing = call
    with pytest.raises(EngineError):
        opened(world)
    nvidia.calls.failing = None
    assert opened(world).scores(some_images(1)).scores.shape == (1, 2)


@pytest.mark.parametrize("call", RUNNING)
def test_a_failure_while_it_runs_is_one_error_and_the_next_call_answers(world, nvidia, call):
    found = opened(world)
    nvidia.calls.failing = call
    with pytest.raises(EngineError) as caught:
        found.scores(some_images(2))
    if call.startswith("set_") or call == "execute_async_v3":
        assert "failed on purpose" in caught.value.found
    nvidia.calls.failing = None
    got = found.scores(some_images(2)).scores
    assert got == pytest.approx(reference(world, some_images(2)), abs=1e-5)


@pytest.mark.parametrize("call", PINNING)
def test_a_failure_while_a_release_is_bound_leaves_the_old_one(world, nvidia, call):
    found = opened(world)
    want = found.scores(some_images(2)).scores
    nvidia.calls.failing = call
    with pytest.raises(EngineError):
        found.swap(world.release(*COLOURS, program="pool"))
    nvidia.calls.failing = None
    assert np.array_equal(found.scores(some_images(2)).scores, want)


@pytest.mark.parametrize(
    "change",
    [
        lambda feeds: feeds.pop("shift"),
        lambda feeds: feeds.update(more=feeds["shift"]),
        lambda feeds: feeds.update(shift=feeds["shift"].astype(np.float64)),
        lambda feeds: feeds.update(shift=feeds["shift"][:1]),
        lambda feeds: feeds.update(shift=feeds["shift"][None]),
        lambda feeds: feeds.update(image=feeds["image"][:, ::2]),
        lambda feeds: feeds.update(image=feeds["image"][:0]),
        lambda feeds: feeds.update(image=np.repeat(feeds["image"], 40, axis=0)),
    ],
)
def test_wrong_arrays_never_reach_the_gpu(world, nvidia, change):
    encode = opened(world).loaded.form.form.encode
    feeds = {
        "image": some_images(2),
        "chosen": np.zeros((2, 4, 3), np.float32),
        "chosen_mask": np.zeros(4, np.float32),
        "shift": np.zeros((2, 3), np.float32),
    }
    assert encode.run(feeds)["cls"].shape == (2, 3)
    change(feeds)
    runs = nvidia.calls.made["execute_async_v3"]
    with pytest.raises(EngineError, match="must run"):
        encode.run(feeds)
    assert nvidia.calls.made["execute_async_v3"] == runs


def test_a_swap_builds_nothing(world, nvidia):
    found = opened(world, names=COLOURS[:1])
    for number in (1, 2, 3, 4):
        found.swap(world.release(*COLOURS[:number], program="pool", number=number))
        assert found.scores(some_images(1)).scores.shape == (1, number)
    assert nvidia.calls.made["build_serialized_network"] == 1
    assert nvidia.calls.made["deserialize_cuda_engine"] == 1


def test_memory_goes_with_its_release(world, nvidia):
    found = opened(world)
    found.scores(some_images(3))
    gc.collect()
    steady = len(nvidia.device.blocks)
    for number in range(2, 12):
        found.swap(world.release(*COLOURS[: number % 4 + 1], program="pool", number=number))
        found.scores(some_images(3))
        gc.collect()
        assert len(nvidia.device.blocks) == steady
    del found
    gc.collect()
    assert (nvidia.device.blocks, nvidia.device.streams) == ({}, {})
    assert nvidia.calls.made["cudaMalloc"] == nvidia.calls.made["cudaFree"]


def test_memory_is_not_lost_by_failures(world, nvidia):
    found = opened(world)
    for call in RUNNING:
        nvidia.calls.failing = call
        with pytest.raises(EngineError):
            found.scores(some_images(2))
    nvidia.calls.failing = None
    del found
    gc.collect()
    assert (nvidia.device.blocks, nvidia.device.streams) == ({}, {})


def test_a_second_start_builds_nothing(world, nvidia, tmp_path):
    first = opened(world, cache=tmp_path / "kept").scores(some_images(2)).scores
    second = opened(world, cache=tmp_path / "kept").scores(some_images(2)).scores
    assert np.array_equal(first, second)
    assert nvidia.calls.made["build_serialized_network"] == 1
    opened(world, cache=tmp_path / "kept", batch=1)
    assert nvidia.calls.made["build_serialized_network"] == 2


def kept_plan(folder):
    """Return the plan among what is kept, next to what was measured."""
    (path,) = (each for each in folder.iterdir() if b'"images"' in each.read_bytes())
    return path


def test_a_plan_that_others_could_write_is_built_again(world, nvidia, tmp_path):
    want = opened(world, cache=tmp_path / "kept").scores(some_images(2)).scores
    kept_plan(tmp_path / "kept").chmod(0o666)
    loads = nvidia.calls.made["deserialize_cuda_engine"]
    got = opened(world, cache=tmp_path / "kept").scores(some_images(2)).scores
    assert np.array_equal(got, want)
    assert nvidia.calls.made["build_serialized_network"] == 2
    assert nvidia.calls.made["deserialize_cuda_engine"] == loads + 1, "only the new plan"


def test_a_plan_that_tensorrt_refuses_is_built_again(world, nvidia, tmp_path):
    want = opened(world, cache=tmp_path / "kept").scores(some_images(2)).scores
    data = kept_plan(tmp_path / "kept").read_bytes()
    key = json.loads(data[4 : 4 + int.from_bytes(data[:4], "big")])
    Artefacts(tmp_path / "kept").put(key, b"a plan of another machine")
    for builds in (2, 2):
        got = opened(world, cache=tmp_path / "kept").scores(some_images(2)).scores
        assert np.array_equal(got, want)
        assert nvidia.calls.made["build_serialized_network"] == builds


def test_another_version_builds_again_and_does_not_believe_what_was_measured(world, tmp_path):
    for version in VERSIONS:
        with nvidia_packages(tmp_path / "nvidia", version) as found:
            opened(world, cache=tmp_path / "kept")
            assert found.calls.made["build_serialized_network"] == 1
            assert found.calls.arguments["create_timing_cache"] == [(b"",)]


def test_what_was_measured_serves_the_next_build(world, nvidia, tmp_path):
    opened(world, cache=tmp_path / "kept")
    opened(world, cache=tmp_path / "kept", batch=1)
    offered = [content for (content,) in nvidia.calls.arguments["create_timing_cache"]]
    assert offered == [b"", b"measured by 10.3.0"]


def test_what_another_gpu_measured_is_dropped(world, nvidia, tmp_path):
    engine = make_engine("tensorrt", 1, Artefacts(tmp_path / "kept"))
    key = {"engine": "tensorrt timing", "version": "10.3.0", "hardware": engine._hardware}
    Artefacts(tmp_path / "kept").put(key, b"measured by another")
    opened(world, cache=tmp_path / "kept")
    offered = [content for (content,) in nvidia.calls.arguments["create_timing_cache"]]
    assert offered == [b"measured by another", b""]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("tensorrt", "needs the package tensorrt"),
        ("cuda.bindings.runtime", "needs the package cuda-bindings"),
        ("onnxruntime", "needs the package onnxruntime"),
    ],
)
def test_what_is_missing_is_named(nvidia, monkeypatch, module, words):
    assert engines.installed("tensorrt")
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "cuda.cudart", None)
    with pytest.raises(EngineMissingError, match=words):
        make_engine("tensorrt")


def test_type_stubs_are_not_the_library(nvidia, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(EngineMissingError, match="needs the package tensorrt"):
        make_engine("tensorrt")


def test_the_older_package_of_cuda_serves_too(world, nvidia, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.cudart", sys.modules["cuda.bindings.runtime"])
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert opened(world).scores(some_images(1)).scores.shape == (1, 2)

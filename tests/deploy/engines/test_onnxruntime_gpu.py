"""The engines on onnxruntime-gpu, on a fake: `cuda` and `tensorrt-ep`."""

import gc
import os
import stat
import sys
from importlib import import_module

import numpy as np
import onnxruntime
import pytest
from tests.deploy.engines.fake_onnxruntime import CPU, CUDA, TENSORRT

from edgecl_deploy import Classifier, engines
from edgecl_deploy.engines import Graph, make_engine
from edgecl_deploy.errors import EngineError, EngineMissingError

COLOURS = ["red", "green", "blue", "white"]
BOTH = ["cuda", "tensorrt-ep"]
RUNNING = [
    "io_binding",
    "bind_cpu_input",
    "bind_ortvalue_input",
    "bind_output",
    "run_with_iobinding",
    "copy_outputs_to_cpu",
]


def some_images(count):
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def opened(world, engine, *, names=("red", "blue"), **options):
    path = world.release(*names, program="pool")
    return Classifier.open(
        world.bundle_path, path, engine=engine, form="staged", slots="fixed", threads=1, **options
    )


@pytest.mark.parametrize("engine", BOTH)
def test_a_library_that_does_not_load_is_an_error(world, nvidia, engine):
    """onnxruntime goes on without the provider, and tells nobody."""
    nvidia.onnxruntime.InferenceSession.missing.update({CUDA, TENSORRT})
    with pytest.raises(EngineError, match=f"{CPU}: a library of CUDA, cuDNN or TensorRT"):
        opened(world, engine)


def test_tensorrt_that_does_not_load_is_not_replaced_by_cuda(world, nvidia):
    nvidia.onnxruntime.InferenceSession.missing.add(TENSORRT)
    with pytest.raises(EngineError, match=f"must load in onnxruntime's {TENSORRT}; found {CUDA}"):
        opened(world, "tensorrt-ep")


@pytest.mark.parametrize("engine", BOTH)
def test_a_build_without_the_provider_is_named(nvidia, engine):
    nvidia.onnxruntime.get_available_providers = lambda: [CPU]
    with pytest.raises(EngineMissingError, match=r"uninstall onnxruntime; pip install .*\[cuda\]"):
        make_engine(engine)


@pytest.mark.parametrize("engine", BOTH)
def test_a_missing_package_is_named(nvidia, monkeypatch, engine):
    assert engines.installed(engine)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineMissingError, match=r"\[cuda\]"):
        make_engine(engine)


@pytest.mark.parametrize("engine", BOTH)
def test_the_build_for_the_cpu_does_not_count(nvidia, tmp_path, engine):
    for path in (tmp_path / "nvidia" / "onnxruntime" / "capi").iterdir():
        path.unlink()
    assert not engines.installed(engine)


@pytest.mark.parametrize("engine", BOTH)
def test_what_the_library_prints_is_not_shown(nvidia, capsys, engine):
    make_engine(engine)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("call", RUNNING)
def test_a_failure_while_it_runs_is_one_error(world, nvidia, engine, call):
    found = opened(world, engine)
    want = found.scores(some_images(2)).scores
    nvidia.calls.failing = call
    with pytest.raises(EngineError, match="must run"):
        found.scores(some_images(2))
    nvidia.calls.failing = None
    assert np.array_equal(found.scores(some_images(2)).scores, want)


@pytest.mark.parametrize("engine", BOTH)
def test_a_release_without_room_leaves_the_old_one(world, nvidia, engine):
    found = opened(world, engine)
    want = found.scores(some_images(2)).scores
    nvidia.calls.failing = "ortvalue_from_numpy"
    with pytest.raises(EngineError, match="out of memory"):
        found.swap(world.release(*COLOURS, program="pool"))
    nvidia.calls.failing = None
    assert np.array_equal(found.scores(some_images(2)).scores, want)


@pytest.mark.parametrize("engine", BOTH)
def test_learned_tensors_are_on_the_gpu_once_and_go_with_their_release(world, nvidia, engine):
    found = opened(world, engine)
    uploads = nvidia.calls.made["ortvalue_from_numpy"]
    assert uploads == nvidia.values.alive == 1  # shift; `match` and `classify` run on the CPU
    found.scores(some_images(2))
    found.scores(some_images(3))
    assert nvidia.calls.made["ortvalue_from_numpy"] == uploads
    for number in (2, 3, 4):
        found.swap(world.release(*COLOURS[:number], program="pool", number=number))
        gc.collect()
        assert nvidia.values.alive == 1
    del found
    gc.collect()
    assert nvidia.values.alive == 0


def test_the_fused_form_holds_all_that_was_learned(world, nvidia):
    path = world.release("red", "blue", program="pool")
    found = Classifier.open(world.bundle_path, path, engine="cuda")
    assert found.scores(some_images(2)).scores.shape == (2, 2)
    bound = nvidia.calls.arguments["bind_ortvalue_input"]
    assert sorted(name for (name,) in bound) == ["keys", "prompts", "prototypes", "shift"]
    assert [name for (name,) in nvidia.calls.arguments["bind_cpu_input"]] == ["image"]


def test_the_calls_are_those_of_the_real_library(world, monkeypatch):
    """Its binding runs on the CPU, too: arrays that nobody may write, and batches that grow."""
    _cuda = import_module("edgecl_deploy.engines._cuda")
    monkeypatch.setattr(_cuda, "_DEVICE", "cpu")
    graph = Graph(world.bundle_path / "pool.encode.fixed.onnx")
    real = _cuda.open_session(onnxruntime, graph, [(CPU, {})])
    session = _cuda.DeviceSession(onnxruntime, real, graph.path.name)
    held = {
        "shift": np.full((2, 3), 0.5, np.float32),
        "chosen_mask": np.zeros(4, np.float32),
    }
    for array in held.values():
        array.setflags(write=False)
    pinned = session.pin(held)
    for count in (3, 1, 7, 3):
        feeds = {"image": some_images(count), "chosen": np.zeros((count, 4, 3), np.float32)}
        for array in feeds.values():
            array.setflags(write=False)
        want = feeds["image"].astype(np.float32).mean((1, 2)) / 255 + 1
        assert pinned.run(feeds)["cls"] == pytest.approx(want, abs=1e-5)
    with pytest.raises(EngineError, match="must run on the arrays"):
        pinned.run({**feeds, "image": feeds["image"][:, :4].copy()})


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_the_real_library_goes_on_without_the_provider_and_we_do_not(world):
    _cuda = import_module("edgecl_deploy.engines._cuda")
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    graph = Graph(world.bundle_path / "pool.encode.fixed.onnx")
    with pytest.raises(EngineError, match=f"in onnxruntime's {CUDA}; found {CPU}"):
        _cuda.open_session(onnxruntime, graph, [(CUDA, {}), (CPU, {})])


def test_tf32_is_off(world, nvidia, monkeypatch):
    make_engine("tensorrt-ep")
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    from edgecl_deploy.engines._cuda import CUDA_OPTIONS

    assert CUDA_OPTIONS["use_tf32"] == "0"


@pytest.fixture
def kept(world, nvidia, tmp_path):
    """What a first start of `tensorrt-ep` keeps, and a function that starts it once more."""
    folder = tmp_path / "kept"
    want = opened(world, "tensorrt-ep", cache=folder).scores(some_images(2)).scores
    assert nvidia.calls.made["compile"] == 1

    def again():
        got = opened(world, "tensorrt-ep", cache=folder).scores(some_images(2)).scores
        assert np.array_equal(got, want)
        return nvidia.calls.made["compile"]

    again.folder = folder
    return again


def files_of(kept):
    (folder,) = (each for each in kept.folder.iterdir() if each.suffix == ".files")
    return folder


def test_a_second_start_compiles_nothing(kept, nvidia):
    assert [kept(), kept()] == [1, 1]
    assert nvidia.calls.made["compile again"] == 0


def test_what_is_kept_is_of_this_user_alone(kept):
    folder = files_of(kept)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert len(list(kept.folder.iterdir())) == 2, "and no folder that was not finished"


CHANGES = {
    "another byte": lambda folder: next(folder.glob("*.engine")).write_bytes(b"plan of others"),
    "a file more": lambda folder: (folder / "more.engine").write_bytes(b"plan"),
    "a file less": lambda folder: next(folder.glob("*.timing")).unlink(),
    "a file that others may write": lambda folder: next(folder.glob("*.engine")).chmod(0o666),
    "a folder that others may write": lambda folder: folder.chmod(0o777),
    "a link": lambda folder: (folder / "link").symlink_to("/dev/null"),
    "a folder inside": lambda folder: (folder / "more").mkdir(),
    "nothing inside": lambda folder: [path.unlink() for path in folder.iterdir()],
    "no digests": lambda folder: [each.unlink() for each in folder.parent.glob("*.artefact")],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_in_doubt_is_compiled_again(kept, change):
    CHANGES[change](files_of(kept))
    assert [kept(), kept()] == [2, 2]


def test_what_tensorrt_refuses_is_compiled_again(kept, nvidia):
    nvidia.calls.failing = "deserialize"
    assert kept() == 2
    nvidia.calls.failing = None
    assert kept() == 2


def test_nothing_is_kept_without_a_folder(world, nvidia):
    for compiled in (1, 2):
        opened(world, "tensorrt-ep")
        assert nvidia.calls.made["compile"] == compiled


def test_a_full_disk_is_no_error(world, nvidia, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgecl_deploy.engines.artefacts.tempfile.mkdtemp", full)
    found = opened(world, "tensorrt-ep", cache=tmp_path / "kept")
    assert found.scores(some_images(1)).scores.shape == (1, 2)


def test_folders_make_room_too(world, nvidia, kept, monkeypatch):
    monkeypatch.setattr("edgecl_deploy.engines.artefacts.MAX_FILES", 2)
    opened(world, "tensorrt-ep", cache=kept.folder, batch=1)
    assert len(list(kept.folder.iterdir())) == 2
    assert kept() == 3


@pytest.mark.parametrize("batch", [1, 4])
def test_sizes_stay_in_the_profile(world, nvidia, batch):
    found = opened(world, "tensorrt-ep", batch=batch)
    for count in (1, 3, 9):
        assert found.scores(some_images(count)).scores.shape == (count, 2)
    assert nvidia.calls.made["compile again"] == 0

"""What the commands do: start, continue, add a task, sum up."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgecl import session
from edgecl.backbones import Backbone, Clip, load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.errors import EdgeclError
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run, RunError
from edgecl.learning.summary import Summary
from edgecl.learning.training import Compute
from edgecl.session import (
    choose_compute,
    half_bytes,
    learn_folder,
    learn_stream,
    learn_task,
    new_learner,
    open_learner,
    resume,
    sum_up,
)
from edgecl.streams import Stream, load_stream, task_from_folder

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
MakeFolders = Callable[..., Path]
METRICS = {
    *("unknown", "a_auc"),
    *("format", "method", "stream", "protocol", "seed", "tasks", "test_images", "train_images"),
    *("matrix", "pooled", "task_mean", "a_last", "a_avg", "a_last_task_mean", "a_avg_task_mean"),
    *("forgetting", "bwt", "task_id_accuracy", "task_confusion"),
    *("matched_task_accuracy", "matched_confusion"),
    *("match_histogram", "seconds", "pack_bytes", "mtil", "xtail", "ci_transfer", "not_evaluated"),
    "classes",
    *("state_bytes", "exemplars", "files", "held_out", "task_given"),
}


@pytest.fixture
def folder_stream(make_folders: MakeFolders) -> Stream:
    """Return a stream that can be loaded again from its spec."""
    root = make_folders({f"task_{hue // 2:02d}/hue-{hue}": hue for hue in range(4)})
    return load_stream(str(root), seed=5)


# -- start and continue


def test_metrics_are_written_and_returned(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("simplecil", stream)
    summary = learn_stream(learner, stream)
    stored = json.loads((learner.run.path / "metrics.json").read_text())
    assert stored.keys() == METRICS
    assert Summary.from_json(stored) == summary
    assert summary.tasks == ("task_00", "task_01", "task_02")
    assert [len(row) for row in summary.matrix] == [1, 2, 3]
    assert summary.test_images == (6, 6, 6)
    assert summary.pack_bytes == (2 * 2 * 192,) * 3
    assert summary.not_evaluated == ()
    assert "<html" in (learner.run.path / "report.html").read_text()


def test_a_stream_learned_again_changes_nothing(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("l2p", stream)
    assert learn_stream(learner, stream) == learn_stream(learner, stream)
    assert len(learner.run) == 3


def test_resume_builds_the_stream_again(
    tmp_path: Path, tiny_backbone: Backbone, folder_stream: Stream
) -> None:
    learner = new_learner(
        tmp_path / "run", "simplecil", tiny_backbone, folder_stream, cache=FeatureCache(None, "")
    )
    learn_task(
        learner, folder_stream.tasks[0], folder_stream.classes, [folder_stream.tasks[0].test]
    )
    opened = open_learner(
        tmp_path / "run", cache=FeatureCache(None, "")
    )  # the backbone, too, from its spec
    assert opened.backbone.digest == tiny_backbone.digest
    summary = resume(opened)
    assert summary.tasks == ("task_00", "task_01")
    assert summary.stream == folder_stream.spec["name"]
    assert resume(opened) == summary


def test_resume_needs_a_stream(make_learner: MakeLearner, make_stream: MakeStream) -> None:
    learner = make_learner("simplecil")
    learner.run.header["stream"] = None
    with pytest.raises(RunError, match="Add tasks with `edgecl learn RUN IMAGES`"):
        resume(learner)


def test_a_run_whose_tasks_are_not_the_stream_s_does_not_go_on(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders
) -> None:
    """A folder learned in the middle of a stream, or a stream that has changed since."""
    stream = make_stream(((0, 1), (2, 3), (4,)))
    learner = make_learner("simplecil", stream)
    learn_task(learner, stream.tasks[0], stream.classes, [stream.tasks[0].test])
    folder = make_folders({"hue-5": 5})
    with pytest.raises(RunError, match=r"2 of its tasks to come. Finish it with `edgecl train"):
        learn_folder(learner, folder)
    learn_task(learner, task_from_folder(folder, ["hue-0", "hue-1"]), ["hue-0", "hue-1", "hue-5"])
    with pytest.raises(
        RunError, match=r"got \['hue-5'\] where task_01 .* Restore the stream's images"
    ):
        learn_stream(learner, stream)
    assert len(learner.run) == 2


def test_nothing_is_written_for_a_method_that_does_not_fit(
    make_learner: MakeLearner, tmp_path: Path
) -> None:
    with pytest.raises(EdgeclError, match=r"Lower l2p.top_k"):
        make_learner("l2p", config={"top_k": 50})
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(make_learner: MakeLearner) -> None:
    make_learner("simplecil")
    with pytest.raises(RunError, match="continue that run with --resume"):
        make_learner("simplecil")


def test_a_run_keeps_to_its_backbone(make_learner: MakeLearner) -> None:
    learner = make_learner("simplecil")
    other = load_backbone("vit-tiny-16", image_size=32, depth=2, random_seed=9)
    with pytest.raises(RunError, match="Fetch the weights that it was made with"):
        open_learner(learner.run.path, backbone=other)


def test_a_run_keeps_to_its_templates(make_learner: MakeLearner, tiny_clip: Clip) -> None:
    """Else the rows of one classifier would be read in two ways."""
    path = make_learner("zero-shot").run.path
    assert open_learner(path, backbone=tiny_clip).clip is not None
    other = dataclasses.replace(tiny_clip, templates=("a drawing of a {}.",))
    with pytest.raises(RunError, match=r"reads class names by .*Open it with a CLIP that has"):
        open_learner(path, backbone=other)
    path = make_learner("simplecil", out="by-images").run.path
    open_learner(path, backbone=other)


def test_a_stream_without_an_evaluation_has_no_figures(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("simplecil", stream)
    learn_task(learner, stream.tasks[0], stream.classes)
    assert learn_stream(learner, stream) is None
    assert not (learner.run.path / "metrics.json").exists()


def test_tasks_after_one_without_test_images_are_not_counted(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("simplecil", stream)
    for index, task in enumerate(stream.tasks):
        tests = [each.test for each in stream.tasks[: index + 1]]
        learn_task(learner, task, stream.classes, None if index == 1 else tests)
    summary = sum_up(learner.run)
    assert summary is not None
    assert summary.tasks == ("task_00",)
    assert summary.not_evaluated == ("task_01", "task_02")


# -- one task


def test_what_was_learned_is_in_the_run_only_when_it_is_committed(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("simplecil", stream)
    past = learner.run.knowledge()
    learned = learner.learn(stream.tasks[0], stream.classes, past)
    assert len(learner.run) == 0
    assert learned.record.classes == stream.tasks[0].classes
    learner.run.commit(learned, None)
    assert learner.run.record(0) == learned.record
    assert torch.equal(learner.learned()["prototypes"], learned.part["prototypes"])
    stale = learner.learn(stream.tasks[1], stream.classes, past)
    with pytest.raises(RunError, match=r"must be number 1, got 0. Learn it again"):
        learner.run.commit(stale, None)


def test_a_failed_evaluation_commits_nothing(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    stream = make_stream()
    learner = make_learner("simplecil", stream)
    monkeypatch.setattr(session, "evaluate", fail)
    with pytest.raises(MemoryError):
        learn_task(learner, stream.tasks[0], stream.classes, [stream.tasks[0].test])
    assert len(learner.run) == 0
    assert not (learner.run.path / "tasks").exists()


# -- compute


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EdgeclError, match=r"found none. Use --device cpu"):
        choose_compute("cuda")
    assert choose_compute("auto").device.type == "cpu"


@pytest.mark.parametrize(
    ("fast", "precision", "bfloat16"),
    [
        (True, "auto", True),
        (False, "auto", False),
        (True, "float32", False),
        (False, "bfloat16", True),
    ],
)
def test_bfloat16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, fast: bool, precision: session.Precision, bfloat16: bool
) -> None:
    monkeypatch.setattr(session, "_cpu_multiplies_bfloat16", lambda: fast)
    assert choose_compute("cpu", precision).bfloat16 == bfloat16


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_where_the_gpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    """A T4 says that bfloat16 is supported, and means that it is emulated."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: native | including_emulation,
    )
    assert choose_compute().bfloat16 == native
    assert choose_compute(precision="bfloat16").bfloat16
    assert not choose_compute(precision="float32").bfloat16


def test_features_of_two_models_of_gpus_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for model in ("NVIDIA H200", "Tesla T4"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_, model=model: model)
        folders.add(Compute(torch.device("cuda")).processor)
    assert folders == {"cuda-nvidia-h200", "cuda-tesla-t4"}
    assert Compute(torch.device("cpu")).processor == "cpu"


@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_run_goes_on_in_the_precision_that_it_was_begun_with(
    tmp_path: Path, tiny_backbone: Backbone, make_stream: MakeStream,
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool,
) -> None:  # fmt: skip
    compute = Compute(torch.device("cpu"), bfloat16)
    cache = FeatureCache(None, "")
    new_learner(tmp_path / "run", "l2p", tiny_backbone, make_stream(), compute=compute, cache=cache)
    monkeypatch.setattr(session, "_cpu_multiplies_bfloat16", lambda: not bfloat16)
    opened = open_learner(tmp_path / "run", device="cpu", backbone=tiny_backbone, cache=cache)
    assert opened.compute == compute


# -- a task from a folder


def test_a_folder_of_another_domain_brings_known_and_new_classes(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders
) -> None:
    stream = make_stream(((0, 3),), protocol="dcil")
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    record = learn_folder(learner, make_folders({"hue-3": 3, "hue-1": 1}))
    assert record.classes == ("hue-3", "hue-1")
    assert record.known == ("hue-3",)
    assert record.name == "images"
    assert learner.learned()["prototypes"].shape[0] == 4


def test_two_folders_one_after_the_other(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    for hue in (2, 3):
        learn_folder(learner, make_folders({f"hue-{hue}": hue}, root=f"more-{hue}"))
    summary = Summary.from_json(json.loads((learner.run.path / "metrics.json").read_text()))
    assert summary.not_evaluated == ("more-2", "more-3")
    assert summary.tasks == ("task_00",)
    images = learner.load(make_stream(((2, 3),)).tasks[0].test, "").images
    assert learner.predict(images).scores.argmax(dim=1).tolist() == [2] * 3 + [3] * 3


def test_a_broken_file_in_the_folder_is_named(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    folder = make_folders({"hue-2": 2})
    (folder / "hue-2" / "no-image.jpg").write_text("x")
    cut = folder / "hue-2" / "000.png"
    cut.write_bytes(cut.read_bytes()[:-500])  # its header is whole: found while decoding
    record = learn_folder(learner, folder)
    assert record.train_images == 4
    assert all(name in " ".join(record.skipped) for name in ("no-image.jpg", "000.png"))
    assert len(record.skipped) == 2


def test_the_test_part_of_a_later_task_is_measured_and_the_figures_stay(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: Callable[..., Path]
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("simplecil", stream)
    before = learn_stream(learner, stream)
    parts = {"train/hue-2": 2, "train/hue-4": 4, "test/hue-2": 2, "test/hue-4": 4}
    record = learn_folder(learner, make_folders(parts))
    found = learner.run.evaluation(record.task)
    assert found is not None
    assert (found.images, record.train_images) == ((0, 10), 10)
    assert found.accuracy[1] > 0.5
    assert found.classes is not None
    assert found.classes.names == ("hue-0", "hue-1", "hue-2", "hue-4")
    assert found.classes.images == (0, 0, 5, 5)
    after = sum_up(learner.run)
    assert after is not None
    assert (after.matrix, after.not_evaluated) == (before.matrix, ("images",))


def test_without_an_evaluation_there_is_nothing_to_sum_up(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"stream": None, "seed": 0})
    assert sum_up(run) is None
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_half_bytes() -> None:
    assert half_bytes({"a": torch.zeros(3, 4), "b": torch.zeros(5)}) == 34

"""What the commands of the learner do, in Python: one or two calls of `edgecl`."""

from collections.abc import Callable
from pathlib import Path

import pytest

import edgecl


def test_train_learn_and_resume(
    tiny_backbone: edgecl.Backbone,
    make_folders: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))
    images = make_folders({f"task_{hue // 2:02d}/hue-{hue}": hue for hue in range(4)})
    run = str(tmp_path / "run")
    stream = edgecl.load_stream(str(images))
    learner = edgecl.new_learner(run, "simplecil", tiny_backbone, stream)
    summary = edgecl.learn_stream(learner, stream)
    assert list(summary.tasks) == ["task_00", "task_01"]
    again = edgecl.open_learner(run, backbone=tiny_backbone)
    assert edgecl.resume(again) == summary
    record = edgecl.learn_folder(again, str(make_folders({"hue-4": 4}, root="new")))
    assert (record.task, list(record.classes)) == (2, ["hue-4"])


def test_the_lists() -> None:
    assert {"simplecil", "layup", "cgil"} <= set(edgecl.list_methods())
    assert issubclass(edgecl.list_methods()["layup"], edgecl.Method)
    assert "vit-s14" in edgecl.list_backbones()
    assert "emoji-demo" in edgecl.list_streams()

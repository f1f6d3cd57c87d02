"""A cache that cannot be used, and a user without a home."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecl import session
from edgecl.backbones import Clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.runs import Run
from edgecl.learning.training import Compute
from edgecl.session import learn_stream, make_learner
from edgecl.streams import Stream
from edgecl_deploy.progress import Reporter

MakeStream = Callable[..., Stream]


@pytest.mark.parametrize(
    "damage", ["read-only", "full", "a file", "a folder of another", "garbage"]
)
def test_a_cache_that_fails_is_one_warning(
    tmp_path: Path, tiny_clip: Clip, make_stream: MakeStream, damage: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    from edgecl.backbones import feature_files

    root, digest = tmp_path / "cache", tiny_clip.visual.digest
    folder = feature_files.folder_of(root, FeatureCache(None, digest)._about)
    folder.mkdir(parents=True)

    def fail(number: int, text: str) -> Callable[..., None]:
        def call(*_: object, **__: object) -> None:
            raise OSError(number, text)

        return call

    if damage == "a file":
        folder.rmdir()
        folder.write_text("x")
    elif damage == "garbage":
        (folder / "00.safetensors").write_bytes(b"garbage")
        monkeypatch.setattr(Path, "unlink", fail(30, "Read-only file system"))
    elif damage == "a folder of another":
        monkeypatch.setattr(Path, "glob", fail(13, "Permission denied"))
    else:
        full = damage == "full"
        error = fail(28, "No space left") if full else fail(30, "Read-only file system")
        monkeypatch.setattr(feature_files, "write_whole", error)
    stream = make_stream(((0, 1), (2, 3)))
    cache = FeatureCache(root, digest)
    monkeypatch.undo() if damage == "a folder of another" else None
    run = Run.create(tmp_path / "run", session.run_header(
        session.build_method("simplecil", session.BackboneSpec.of(tiny_clip.visual), {}),
        tiny_clip.visual, None, 0, "float32"))  # fmt: skip
    learner = make_learner(run, tiny_clip, Compute(torch.device("cpu")), Reporter(), cache)
    learn_stream(learner, stream)
    assert len(run) == 2
    warnings = [each for each in caplog.records if "EDGECL_CACHE" in each.getMessage()]
    assert len(warnings) == 1
    assert np.isfinite(learner.learned()["prototypes"].numpy()).all()


def test_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgecl import cache

    def homeless(*_: object) -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EDGECL_CACHE", raising=False)
    monkeypatch.setattr(cache, "user_cache_dir", homeless)
    assert cache.cache_dir().is_absolute()
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path))
    assert cache.cache_dir() == tmp_path

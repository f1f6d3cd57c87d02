"""Every method on a CLIP whose features are narrower than its tokens, as those of open_clip are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecl.backbones import Clip, load_clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.training import Compute
from edgecl.methods import methods
from edgecl.session import learn_stream, new_learner
from edgecl.streams import Stream
from edgecl_export import export_bundle, export_packs, export_release, verify

FEATURES, TOKENS = 16, 48
MODEL = {
    "embed_dim": FEATURES,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": TOKENS,
        "head_width": 16,
        "patch_size": 16,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


@pytest.fixture(scope="module")
def projected(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Return a CLIP with random weights, of another width before its projection than after it."""
    path = tmp_path_factory.mktemp("clip") / "narrow.json"
    path.write_text(json.dumps(MODEL))
    clip = load_clip(str(path), random_seed=0)
    assert clip.visual.vit is not None
    assert (clip.visual.width, clip.visual.vit.width) == (FEATURES, TOKENS)
    return clip


def learned(
    name: str, clip: Clip, stream: Stream, path: Path, small_config: Callable[..., dict[str, Any]]
) -> Any:
    learner = new_learner(
        path,
        name,
        clip,
        stream,
        config=small_config(name, 1),
        seed=0,
        compute=Compute(torch.device("cpu")),
        cache=FeatureCache(None, clip.visual.digest),
    )
    learn_stream(learner, stream)
    return learner


@pytest.mark.parametrize("name", methods())
def test_it_learns_and_answers(
    name: str,
    projected: Clip,
    make_stream: Callable[..., Stream],
    small_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = learned(name, projected, stream, tmp_path / "run", small_config)
    images = learner.load(stream.tasks[0].test, "").images
    scores = learner.predict(images, learner.learned()).scores
    assert scores.shape == (len(images), 4)
    assert torch.isfinite(scores).all()


def test_l2p_reaches_the_device(
    projected: Clip,
    make_stream: Callable[..., Stream],
    small_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Its prompts are rows of tokens, its keys and its head are of features."""
    learner = learned("l2p", projected, make_stream(((0, 1),)), tmp_path / "run", small_config)
    export_bundle(learner, tmp_path / "bundle")
    export_packs(learner.run, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", tmp_path / "bundle")
    assert not verify(learner, tmp_path / "bundle", tmp_path / "release").failures()

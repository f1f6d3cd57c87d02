"""The images of a task: encoded in batches whose size changes nothing, with those remembered."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.vit import ViT
from edgecl.learning import task_images
from edgecl.learning.exemplars import Memory
from edgecl.learning.learner import Learner
from edgecl.learning.task_images import TaskImages
from edgecl.learning.training import Compute
from edgecl.program.classifiers import Encoded
from edgecl.program.learned import Tensors
from edgecl.session import learn_stream
from edgecl.streams import BrokenImageError, ImageSet, PathSource, Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def images_of(learner: Learner, stream: Stream) -> TaskImages:
    batch = learner.load(stream.tasks[0].train, "")
    return TaskImages(batch.images, torch.tensor(batch.labels), batch.skipped, learner.encoder)


def both(encoded: Encoded, learned: Tensors) -> Tensors:
    """Collect the features of both passes, and how often the head was handed over."""
    rows = len(encoded.features("injected").cls)
    return {
        "injected": encoded.features("injected").cls,
        "plain": encoded.features("plain").cls,
        "head": learned["head_weight"].sum().expand(rows),
    }


def test_images_are_encoded_in_batches_of_any_size(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(train=5)
    learner = make_learner("l2p", stream)
    learn_stream(learner, stream)
    images, learned = images_of(learner, stream), learner.learned()
    assert len(images) == 10
    found = images.encode(both, learned)
    assert images.plain is not None
    assert torch.equal(found["plain"], images.plain.cls)
    assert torch.equal(found["plain"], images.frozen.cls)
    assert (found["injected"] - found["plain"]).abs().max() > 1e-3
    assert found["head"].tolist() == [learned["head_weight"].sum().item()] * 10
    monkeypatch.setattr(task_images, "BATCH", 3)
    again = images.encode(both, learned)
    torch.testing.assert_close(again["injected"], found["injected"], rtol=0, atol=1e-5)
    assert not any(tensor.requires_grad for tensor in found.values())


def test_few_images_are_not_filled_up_to_many(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three test images of a task cost a batch of 8 on a CPU; a GPU is given 32 at a time."""
    ran: list[int] = []
    forward = ViT.forward

    def noted(self: ViT, pixels: Tensor, *given: Any, **named: Any) -> Any:
        ran.append(len(pixels))
        return forward(self, pixels, *given, **named)

    monkeypatch.setattr(ViT, "forward", noted)
    learner = make_learner("simplecil")
    learner.encoder.plain(learner.load(make_stream(test=1).tasks[0].test, "").images)
    assert ran == [8]
    on_gpu = Compute(torch.device("cuda"))
    assert replace(learner.encoder, compute=on_gpu).batch == 32


def test_a_match_is_that_of_the_task_that_is_learned(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """Images of the first task match the newest entry of the bank, as they do in training."""
    stream = make_stream()
    learner = make_learner("s-prompts", stream)
    learn_stream(learner, stream)
    images, learned = images_of(learner, stream), learner.learned()
    matched = images.encode(lambda encoded, _: {"match": encoded.match.index[:, 0]}, learned)
    assert set(matched["match"].tolist()) == {2}


def test_features_that_a_method_does_not_read_are_computed_when_asked(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("esn", stream)
    images = images_of(learner, stream)
    assert images.plain is None
    assert learner.cache.misses == 0
    with torch.no_grad():
        want = learner.backbone.model(learner.normalise(images.tensor)).cls
    torch.testing.assert_close(images.frozen.cls, want, rtol=0, atol=1e-5)
    assert learner.cache.misses == len(images)


def test_frozen_features_are_taken_from_the_cache_once(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner("simplecil")
    images = images_of(learner, make_stream())
    assert images.plain is images.frozen is images.plain
    assert (learner.cache.hits, learner.cache.misses) == (len(images), len(images))


def test_remembered_images_follow_with_labels_below_zero(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    learner = make_learner("simplecil")
    images = images_of(learner, make_stream(((0, 1),), train=2))
    assert learner.cache.misses == 4
    assert images.with_memory(None, 4) is images
    remembered: Tensor = torch.zeros(3, 32, 32, 3, dtype=torch.uint8)
    more = images.with_memory(Memory(remembered, torch.tensor([0, 1, 3])), 4)
    assert more.labels.tolist() == [0, 0, 1, 1, -4, -3, -1]
    assert np.array_equal(more.images[:4], images.images)
    assert not more.images[4:].any()
    assert more.plain is not None
    assert len(more.plain.cls) == 7
    assert images.plain is not None
    assert torch.equal(more.plain.cls[:4], images.plain.cls)
    assert learner.cache.misses == 4 + 1, "those of the task are known, those remembered are equal"


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., ImageSet]:
    """Return a function that makes files, and the set of those that are called so."""

    def make(*names: str) -> ImageSet:
        for index, name in enumerate(names):
            path = tmp_path / name
            if name.startswith("broken"):
                path.write_bytes(b"no image")
            elif not path.exists():
                plain = name.startswith("plain")
                pixels = np.full((40, 50, 3), 9) if plain else np.arange(6000).reshape(40, 50, 3)
                Image.fromarray(((pixels + index) % 256).astype(np.uint8)).save(path)
        return ImageSet.of(PathSource([tmp_path / name for name in names]), [0] * len(names), names)

    return make


def test_an_image_whose_features_are_known_is_not_decoded(
    make_learner: MakeLearner, photos: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a.png", "broken.png", "plain.png", "b.png")
    learner = make_learner("simplecil")
    first = learner.load(photos(*names), "")
    assert learner.cache.misses == 3
    want = learner.encoder.frozen(first.images)
    decoded: list[str] = []
    open_image = PathSource.image

    def count(source: PathSource, index: int, least: int | None = None) -> Image.Image:
        decoded.append(source.paths[index].name)
        return open_image(source, index, least)

    monkeypatch.setattr(PathSource, "image", count)
    again = learner.load(photos(*names), "")
    assert decoded == ["broken.png", "plain.png"], "one has no features, one is to say why"
    assert (again.skipped, again.names, again.constant) == (
        first.skipped, first.names, first.constant,
    )  # fmt: skip
    assert list(again.constant) == [1]
    assert torch.equal(learner.encoder.frozen(again.images).cls, want.cls)
    assert len(decoded) == 2
    assert np.array_equal(again.images[1:], first.images[1:])
    assert np.array_equal(again.images[0], np.asarray(first.images)[0])
    (learner_file := photos(*names).source.paths[0]).unlink()  # type: ignore[attr-defined]
    with pytest.raises(BrokenImageError, match=str(learner_file)):
        again.images[0]


def test_another_file_of_the_same_name_is_another_image(
    make_learner: MakeLearner, photos: Callable[..., ImageSet]
) -> None:
    learner = make_learner("simplecil")
    before = learner.encoder.frozen(learner.load(photos("a.png", "b.png"), "").images)
    images = photos("a.png", "b.png")
    first, second = images.source.paths  # type: ignore[attr-defined]
    first.write_bytes(second.read_bytes())
    after = learner.encoder.frozen(learner.load(images, "").images)
    assert torch.equal(after.cls[0], before.cls[1])
    assert learner.cache.misses == 2


def replacing(source: PathSource, times: int) -> Callable[..., Image.Image]:
    """Return how a source decodes an image whose file is replaced thereafter, so many times."""
    left = [times]
    decode = PathSource.image

    def image(self: PathSource, index: int, least: int | None = None) -> Image.Image:
        found = decode(self, index, least)
        if left[0]:
            left[0] -= 1
            pixels = np.asarray(found)
            Image.fromarray(255 - pixels // (left[0] + 1)).save(source.paths[index])
        return found

    return image


@pytest.mark.parametrize(("times", "skipped"), [(1, 0), (2, 0), (9, 1)])
def test_a_file_that_is_replaced_while_it_is_read_has_its_own_features(
    make_learner: MakeLearner,
    photos: Callable[..., ImageSet],
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    skipped: int,
) -> None:
    learner, images = make_learner("simplecil"), photos("a.png")
    with monkeypatch.context() as patch:
        patch.setattr(PathSource, "image", replacing(images.source, times))  # type: ignore[arg-type]
        batch = learner.load(images, "")
    assert len(batch.skipped) == skipped
    if skipped:
        assert "a.png: it was replaced each time" in batch.skipped[0]
        return
    want = make_learner("simplecil", out="other")
    found, other = (each.encoder.frozen(batch.images).cls for each in (learner, want))
    assert torch.equal(found, other), "computed from the file that is there"


def test_an_image_that_was_replaced_is_not_taken_for_the_one_that_was_read(
    make_learner: MakeLearner, photos: Callable[..., ImageSet]
) -> None:
    images = photos("a.png", "b.png")
    batch = make_learner("simplecil").load(images, "")
    first, second = images.source.paths  # type: ignore[attr-defined]
    batch.images[0]
    first.write_bytes(second.read_bytes())
    with pytest.raises(BrokenImageError, match=r"a.png is another one.*start the command again"):
        batch.images[0]


def test_features_that_were_removed_meanwhile_are_computed_again(
    make_learner: MakeLearner, photos: Callable[..., ImageSet], tmp_path: Path
) -> None:
    learner = make_learner("simplecil")
    learner.cache = FeatureCache(tmp_path / "cache", "", limit=0)
    batch = learner.load(photos("a.png", "b.png"), "")
    first = learner.encoder.frozen(batch.images)
    assert torch.equal(learner.encoder.frozen(batch.images).cls, first.cls)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_the_same_pixels_in_a_file_and_in_memory_have_the_same_features(
    make_learner: MakeLearner, photos: Callable[..., ImageSet]
) -> None:
    learner = make_learner("simplecil")
    batch = learner.load(photos("a.png", "b.png"), "")
    one, other = learner.encoder.frozen(batch.images), learner.encoder.frozen(batch.images[:])
    assert torch.equal(one.cls, other.cls)
    assert learner.cache.misses == 4, "their keys differ"

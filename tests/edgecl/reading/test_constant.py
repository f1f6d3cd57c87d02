"""Pictures of one colour: named and counted, and an error where they are a class or most of all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgecl.backbones import Backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.learner import LearnerError
from edgecl.learning.records import TaskRecord
from edgecl.learning.training import Compute
from edgecl.session import learn_stream, new_learner
from edgecl.streams import load_stream

MakeFolders = Callable[..., Path]
WINDOW = (0.0, 60000.0)


def spoil(folder: Path, kind: str, count: int) -> None:
    """Put pictures into a folder of which preprocessing leaves nothing."""
    for path in sorted(folder.iterdir())[:count]:
        if kind == "levels":  # of 7 bits, in a window of 16
            Image.fromarray(
                np.random.default_rng(0).integers(0, 99, (20, 20)).astype(np.uint16)
            ).save(path)
        elif kind == "clear":  # white on nothing
            drawing = np.full((20, 20, 4), 255, np.uint8)
            drawing[:10, :, 3] = 0
            Image.fromarray(drawing).save(path)
        elif kind == "sides":  # what differs is at the sides
            frame = Image.new("RGB", (90, 20))
            frame.paste("red", (0, 0, 20, 20))
            frame.save(path)
        else:
            Image.new("RGB", (20, 20), "grey").save(path)


def learn(root: Path, backbone: Backbone) -> TaskRecord:
    stream = load_stream(str(root), increment=2, seed=1, test_fraction=0.0)
    learner = new_learner(
        root.parent / "run", "simplecil", backbone.with_window(WINDOW), stream,
        compute=Compute(torch.device("cpu")), cache=FeatureCache(None, "x"),
    )  # fmt: skip
    try:
        learn_stream(learner, stream)
    except LearnerError:
        assert len(learner.run) == 0
        raise
    return learner.run.record(0)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("levels", r"its levels, 0 to 98, are one grey in the window 0 to 60000\). .*--window LOW"),
        ("clear", r"one colour over the background \(255, 255, 255\)\). .*--background R,G,B"),
        ("sides", r"the part that the crop leaves has one colour\). .*--resize pad"),
        ("plain", r"it has one colour\). Replace these pictures, or drop the class"),
    ],
)
def test_a_class_of_them_is_an_error_that_says_why(
    kind: str, why: str, tiny_backbone: Backbone, make_folders: MakeFolders
) -> None:
    root = make_folders({"red": 0, "green": 2}, count=10)
    spoil(root / "red", kind, 10)
    with pytest.raises(LearnerError, match=rf"got all of 'red', 10 of 20 of \S+ .*red.*{why}"):
        learn(root, tiny_backbone)


def test_most_of_a_task_is_an_error(tiny_backbone: Backbone, make_folders: MakeFolders) -> None:
    root = make_folders({"red": 0, "green": 2}, count=10)
    for name in ("red", "green"):
        spoil(root / name, "plain", 8)
    with pytest.raises(LearnerError, match=r"half of the pictures .* got 16 of 20 of "):
        learn(root, tiny_backbone)


def test_a_few_are_named_and_learned(tiny_backbone: Backbone, make_folders: MakeFolders) -> None:
    root = make_folders({"red": 0, "green": 2}, count=10)
    spoil(root / "red", "clear", 4)
    record = learn(root, tiny_backbone)
    assert record.train_images == 20
    assert len(record.constant) == 4
    assert all("over the background" in line and "red" in line for line in record.constant)
    assert TaskRecord.from_json(record.to_json()) == record
    assert record.skipped == ()

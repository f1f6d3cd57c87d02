"""The window of levels: found in the first task, stored, the same wherever the run is opened."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgecl.backbones import Backbone, Clip, load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.learner import Learner, LearnerError
from edgecl.learning.training import Compute
from edgecl.learning.window import find_window
from edgecl.session import learn_folder, learn_stream, new_learner, open_learner
from edgecl.streams import ArraySource, ImageSet, PathSource, Stream, load_stream
from edgecl_deploy.format import Preprocessing
from edgecl_deploy.images import prepare
from edgecl_deploy.progress import Reporter

MakeFolders = Callable[..., Path]


class Lines(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def camera(folder: Path, seeds: range, low: int = 600, high: int = 1400) -> Path:
    """Write 12-bit pictures; each folder has a level of its own, so that it can be learned."""
    folder.mkdir(parents=True)
    for seed in seeds:
        rng = np.random.default_rng([seed, len(folder.name)])
        levels = rng.integers(low, high, (32, 32)).astype(np.uint16)
        levels[:: 2 + len(folder.name) % 3] //= 2
        Image.fromarray(levels).save(folder / f"{seed:03d}.png")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("cat", "bird", "mouse", "donkey"):
        camera(tmp_path / "images" / name, range(5))
    return tmp_path / "images"


def begin(root: Path, backbone: Backbone | Clip, reporter: Reporter) -> tuple[Learner, Stream]:
    stream = load_stream(str(root), increment=2, seed=1)
    learner = new_learner(
        root.parent / "run", "simplecil", backbone, stream, seed=1, reporter=reporter,
        compute=Compute(torch.device("cpu")), cache=FeatureCache(None, "x"),
    )  # fmt: skip
    return learner, stream


def test_it_is_found_said_stored_and_opened_again(root: Path, tiny_backbone: Backbone) -> None:
    lines = Lines()
    learner, stream = begin(root, tiny_backbone, lines)
    window = learner.backbone.preprocess.window
    assert window is not None
    low, high = window
    assert 280 < low < 320
    assert 1390 < high < 1400
    assert f"--window {low:g},{high:g}" in lines.lines[0]
    assert (
        learner.backbone.digest
        != tiny_backbone.digest
        == tiny_backbone.identity.digest(tiny_backbone.preprocess)
    )
    assert learner.run.header["backbone"]["window"] == [low, high]
    learn_stream(learner, stream)
    assert [record.skipped for record in learner.run.records()] == [(), ()]
    again = open_learner(learner.run.path, device="cpu", cache=FeatureCache(None, "x"))
    assert again.backbone.preprocess == learner.backbone.preprocess
    assert again.backbone.digest == learner.backbone.digest
    spec = Preprocessing(**vars(again.backbone.preprocess))  # of the bundle
    path = root / "cat" / "000.png"
    np.testing.assert_array_equal(prepare(path, spec), again.backbone.preprocess(Image.open(path)))


def test_later_tasks_have_the_window_of_the_first(root: Path, tiny_backbone: Backbone) -> None:
    learner, stream = begin(root, tiny_backbone, Reporter())
    learn_stream(learner, stream)
    before = learner.backbone.preprocess
    camera(root.parent / "more" / "ox", range(3), 0, 500)
    again = open_learner(learner.run.path, device="cpu", cache=FeatureCache(None, "x"))
    learn_folder(again, root.parent / "more")
    assert again.backbone.preprocess == before


def test_a_given_window_is_kept(root: Path, tiny_backbone: Backbone) -> None:
    lines = Lines()
    learner, _ = begin(root, tiny_backbone.with_window((0.0, 4095.0)), lines)
    assert learner.backbone.preprocess.window == (0.0, 4095.0)
    assert lines.lines == []


def test_8_bit_runs_have_none_and_refuse_more_bits_later(
    tiny_backbone: Backbone, make_folders: MakeFolders, tmp_path: Path
) -> None:
    root = make_folders({"red": 0, "green": 2})
    learner, stream = begin(root, tiny_backbone, Reporter())
    assert learner.backbone is tiny_backbone
    learn_stream(learner, stream)
    camera(tmp_path / "more" / "ox", range(3))
    with pytest.raises(LearnerError, match=r"3 skipped; .*no window.*--window LOW,HIGH"):
        learn_folder(learner, tmp_path / "more")
    assert len(learner.run) == 1


def test_a_clip_takes_one(tiny_clip: Clip) -> None:
    clip = tiny_clip.with_window((1.0, 9.0))
    assert clip.visual.preprocess.window == (1.0, 9.0)
    assert clip.digest != tiny_clip.digest
    assert clip.spec["window"] == [1.0, 9.0]


def test_options_of_a_backbone_are_in_its_spec_and_digest() -> None:
    plain = load_backbone("vit-tiny-16", image_size=32, depth=1, random_seed=0)
    chosen = load_backbone(
        "vit-tiny-16", image_size=32, depth=1, random_seed=0, fit="pad", window=(0.0, 4095.0),
        background=(0, 0, 0), decode="draft2",
    )  # fmt: skip
    assert (chosen.preprocess.fit, chosen.preprocess.resize) == ("pad", 32)
    assert chosen.digest != plain.digest
    assert load_backbone(**chosen.spec).digest == chosen.digest
    assert plain.with_window((0.0, 4095.0)).spec["window"] == chosen.spec["window"]
    assert (chosen.preprocess.decode, chosen.spec["decode"]) == ("draft2", "draft2")
    assert "decode" not in plain.spec  # as in the runs of before


def test_outliers_broken_and_8_bit_images_do_not_move_it(tmp_path: Path) -> None:
    paths = sorted(camera(tmp_path / "a", range(6), 600, 1400).iterdir())
    levels = np.asarray(Image.open(paths[0])).copy()
    levels[0, 0] = 65535  # one hot pixel
    Image.fromarray(levels).save(paths[0])
    paths[1].write_bytes(paths[1].read_bytes()[:-50])
    paths[2].write_bytes(b"no image")
    Image.new("RGB", (9, 9)).save(paths[3])
    images = ImageSet.of(PathSource(paths), [0] * 6, [path.name for path in paths])
    found = find_window(images, 3)
    assert found is not None
    assert found[1] < 1400
    assert find_window(images, 3) == found
    arrays = ArraySource(np.zeros((2, 4, 4), np.uint8))
    assert find_window(ImageSet.of(arrays, [0, 0], ["a", "b"]), 3) is None


def test_one_level_gives_a_window_around_it(tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 500, np.uint16)).save(tmp_path / "x.png")
    assert find_window(ImageSet.of(PathSource([tmp_path / "x.png"]), [0], ["x"]), 1) == (499, 501)

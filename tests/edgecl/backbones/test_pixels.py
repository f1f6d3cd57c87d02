"""Pixels as public code has them: named sets, options of one's own, the same on the device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgecl.backbones import BackboneError, load_backbone, prepare_torchvision
from edgecl.backbones.pixels import PIXELS, parse_pixels
from edgecl.learning.training import Compute
from edgecl.session import learn_stream, new_learner
from edgecl.streams import Stream
from edgecl_deploy.files import read_bundle
from edgecl_export import export_bundle, export_packs, export_release, verify

TINY: dict[str, Any] = {"name": "vit-tiny-16", "depth": 1, "image_size": 32, "random_seed": 0}


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def transforms_of(name: str, size: int) -> Any:
    """Return what the public code does with a test image up to its tensor, in torchvision."""
    prepare_torchvision()
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    if name == "coda":
        return transforms.Resize((size, size))
    kind = InterpolationMode.BILINEAR if name == "imagenet" else InterpolationMode.BICUBIC
    resize = transforms.Resize(int(256 / 224 * size), interpolation=kind)
    return transforms.Compose([resize, transforms.CenterCrop(size)])


@pytest.mark.parametrize("name", PIXELS)
@pytest.mark.parametrize("sides", [(300, 300), (281, 204), (500, 333)])
def test_a_set_prepares_as_torchvision_does(name: str, sides: tuple[int, int]) -> None:
    """Where both round the longer side alike: ours is rounded, torchvision's is cut."""
    preprocess = load_backbone(**TINY | {"image_size": 112}, pixels=name).preprocess
    theirs = np.asarray(transforms_of(name, 112)(picture(*sides)))
    assert np.array_equal(preprocess(picture(*sides)), theirs)


def test_a_set_is_part_of_the_digest_and_of_the_spec() -> None:
    plain = load_backbone(**TINY)
    digests = {plain.digest}
    for name in PIXELS:
        backbone = load_backbone(**TINY, pixels=name)
        assert load_backbone(**backbone.spec).digest == backbone.digest
        digests.add(backbone.digest)
    assert len(digests) == 1 + len(PIXELS)
    assert "pixels" not in plain.spec


def test_options_of_ones_own() -> None:
    own = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "shorter": 40}
    backbone = load_backbone(**TINY, pixels=own)
    held = backbone.preprocess
    assert (held.mean, held.std, held.resize, held.fit) == ((0.5,) * 3, (0.25,) * 3, 40, "crop")
    assert load_backbone(**backbone.spec).digest == backbone.digest
    padded = load_backbone(**TINY, pixels="pilot", fit="pad").preprocess
    assert (padded.fit, padded.resize, padded.mean) == ("pad", 32, (0.0,) * 3)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        ("pilots", "Did you mean 'pilot'"),
        ({"average": [0, 0, 0]}, "options mean, std, interpolation, shorter, fit, got average"),
        ({"mean": [0, 0]}, "mean three finite numbers"),
        ({"std": [0, 1, 1]}, "std three finite numbers above 0"),
        ({"shorter": 8}, "1 <= size <= resize"),
        ({"interpolation": "lanczos9"}, "interpolation one of"),
    ],
)
def test_what_means_nothing_is_refused(pixels: Any, words: str) -> None:
    with pytest.raises(BackboneError, match=words):
        load_backbone(**TINY, pixels=pixels)


def test_json_on_the_command_line() -> None:
    assert parse_pixels("pilot") == "pilot"
    assert parse_pixels('{"shorter": 40}') == {"shorter": 40}
    with pytest.raises(BackboneError, match="must be a name, or JSON"):
        parse_pixels("{shorter: 40}")


def test_it_reaches_the_device(make_stream: Callable[..., Stream], tmp_path: Path) -> None:
    """The graph has no mean to subtract, and the same answers."""
    import torch

    backbone, stream = load_backbone(**TINY, pixels="coda"), make_stream(((0, 1), (2, 3)))
    learner = new_learner(
        tmp_path / "run", "simplecil", backbone, stream, compute=Compute(torch.device("cpu"))
    )
    learn_stream(learner, stream)
    export_bundle(learner, tmp_path / "bundle")
    export_packs(learner.run, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", tmp_path / "bundle")
    held = read_bundle(tmp_path / "bundle").preprocessing
    assert (held.mean, held.fit, held.interpolation) == ((0.0,) * 3, "squash", "bilinear")
    assert not verify(learner, tmp_path / "bundle", tmp_path / "release").failures()

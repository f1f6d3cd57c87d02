"""Any image becomes the same square of bytes, upright and on a background."""

import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgecl.backbones import BackboneError, Preprocess
from edgecl_deploy.manifest.canonical import canonical

SMALL = Preprocess(size=24, resize=28)
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]
# EXIF orientation -> how a viewer turns the stored image.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    mode=st.sampled_from(MODES),
    size=st.integers(1, 40),
    margin=st.integers(0, 10),
)
def test_any_size_and_mode_gives_the_square(
    width: int, height: int, mode: str, size: int, margin: int
) -> None:
    rgb = noise(width, height)
    image = Image.new(mode, rgb.size) if mode in {"I;16", "PA"} else rgb.convert(mode)
    out = Preprocess(size=size, resize=size + margin, window=(0.0, 255.0))(image)
    assert (out.shape, out.dtype) == ((size, size, 3), np.uint8)
    assert out.flags["C_CONTIGUOUS"]


@given(color=st.tuples(*[st.integers(0, 255)] * 3), width=st.integers(1, 90))
def test_a_plain_image_stays_plain(color: tuple[int, int, int], width: int) -> None:
    out = SMALL(Image.new("RGB", (width, 40), color))
    assert (out == np.array(color, dtype=np.uint8)).all()


def test_the_crop_is_the_centre() -> None:
    image = Image.new("RGB", (60, 28), "black")
    image.paste((255, 0, 0), (18, 0, 42, 28))
    assert (SMALL(image) == [255, 0, 0]).all()


def test_resize_keeps_the_aspect_and_matches_pillow() -> None:
    image = noise(75, 50)
    resized = image.resize((42, 28), Image.Resampling.BICUBIC).crop((9, 2, 33, 26))
    assert np.array_equal(SMALL(image), np.asarray(resized))
    other = dataclasses.replace(SMALL, interpolation="bilinear")
    assert not np.array_equal(SMALL(image), other(image))


@pytest.mark.parametrize("orientation", sorted(TURNS))
def test_exif_orientation_is_applied(orientation: int) -> None:
    image = noise(31, 47)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = io.BytesIO()
    image.save(stored, "PNG", exif=exif)
    seen = image.transpose(TURNS[orientation])
    assert np.array_equal(SMALL(Image.open(stored)), SMALL(seen))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_show_the_background(mode: str) -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    if mode == "P":
        image = image.convert("RGB").convert("P")
        image.info["transparency"] = int(np.asarray(image)[0, 0])
    else:
        image = image.convert(mode)
    preprocess = dataclasses.replace(SMALL, background=(10, 200, 30))
    assert (preprocess(image) == [10, 200, 30]).all()


def test_half_transparent_pixels_are_blended() -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 128))
    assert np.unique(SMALL(image)).tolist() == [127]


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bit_grey_is_scaled_not_clipped(mode: str) -> None:
    levels = np.full((40, 40), 0x8000, dtype=np.uint16 if mode == "I;16" else np.int32)
    image = Image.fromarray(levels)
    assert image.mode == mode
    wide = dataclasses.replace(SMALL, window=(0.0, 65535.0))
    assert (wide(image) == 0x80).all()
    with pytest.raises(BackboneError, match=r"levels 32768 to 32768 and no window.*--window"):
        SMALL(image)


def test_a_thread_of_an_image_is_refused() -> None:
    with pytest.raises(BackboneError, match="Crop the image"):
        Preprocess(size=112, resize=112)(Image.new("L", (60_000, 8)))


def test_normalise_is_mean_and_std_of_0_to_1() -> None:
    preprocess = Preprocess(size=2, resize=2, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    out = preprocess.normalise(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))
    assert out.shape == (1, 3, 2, 2)
    assert out[0, :, 0, 0].tolist() == [1.0, 3.0, 0.5]


def test_json_comes_back_the_same() -> None:
    preprocess = Preprocess.from_json({**SMALL.to_json(), "mean": [0, 1, 0.5]})
    again = Preprocess.from_json(json.loads(canonical(preprocess.to_json())))
    assert again == preprocess
    assert canonical(again.to_json()) == canonical(preprocess.to_json())
    assert again.to_json()["mean"] == [0.0, 1.0, 0.5]


def test_a_json_of_before_decodes_in_full_and_has_its_digest() -> None:
    data = SMALL.to_json()
    assert data.pop("decode") == "full"
    assert Preprocess.from_json(data) == SMALL
    assert "decode" not in SMALL.identity()
    reduced = SMALL.with_options(None, None, None, "draft2")
    assert (reduced.identity()["decode"], reduced.least_side) == ("draft2", 56)
    assert SMALL.least_side is None


def test_another_size_keeps_the_proportion() -> None:
    preprocess = Preprocess(size=224, resize=256).at(112)
    assert (preprocess.size, preprocess.resize) == (112, 128)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("size", 29),
        ("size", 24.0),
        ("resize", True),
        ("interpolation", "nearest"),
        ("mean", [0.5, 0.5]),
        ("mean", [0.5, 0.5, float("nan")]),
        ("std", [0.5, 0.5, 0]),
        ("std", "abc"),
        ("background", [0, 0, 256]),
        ("background", [0.0, 0, 0]),
        ("decode", "half"),
        ("decode", None),
    ],
)
def test_a_bad_value_is_an_error(field: str, value: Any) -> None:
    with pytest.raises(BackboneError, match=r"Mend the preset"):
        Preprocess.from_json({**SMALL.to_json(), field: value})


def test_an_unknown_or_missing_key_is_an_error() -> None:
    data = SMALL.to_json()
    with pytest.raises(BackboneError, match=r"got .*'sise'.*Mend the preset"):
        Preprocess.from_json({**data, "sise": 1})
    del data["std"]
    with pytest.raises(BackboneError, match="Mend the preset"):
        Preprocess.from_json(data)

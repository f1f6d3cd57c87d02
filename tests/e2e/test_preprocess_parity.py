"""The learner's preprocessing and the device's are one definition: bit for bit."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from edgecl.backbones.preprocess import Preprocess
from edgecl.streams._sources import open_image
from edgecl_deploy.format import DECODES, Preprocessing
from edgecl_deploy.images import prepare

ORIENTATION = 0x0112
CHANNELS = {
    "1": 1, "L": 1, "P": 1, "I;16": 1, "I": 1, "F": 1, "LA": 2, "RGB": 3, "YCbCr": 3, "RGBA": 4,
    "CMYK": 4,
}  # fmt: skip
FILES = {  # the formats that store a mode
    "RGB": ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"),
    "L": ("JPEG", "PNG", "GIF", "TIFF", "PPM"),
    "CMYK": ("TIFF", "JPEG"),
    "1": ("PNG", "TIFF", "BMP", "PPM"),
    "P": ("PNG", "GIF", "TIFF"),
    "LA": ("PNG", "TIFF"),
    "RGBA": ("PNG", "WEBP", "TIFF", "AVIF"),
    "YCbCr": ("JPEG", "TIFF"),
    "I;16": ("PNG", "TIFF"),
    "I": ("TIFF",),
    "F": ("TIFF", "PPM"),
}
WITH_EXIF = {"JPEG", "PNG", "WEBP", "TIFF", "AVIF"}

quickly = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@st.composite
def specs(draw: st.DrawFn) -> Preprocessing:
    size = draw(st.integers(1, 24))
    return Preprocessing(
        size,
        draw(st.integers(size, 32)),
        draw(st.sampled_from(["bicubic", "bilinear"])),
        (0.5,) * 3,
        (0.5,) * 3,
        draw(st.tuples(*[st.integers(0, 255)] * 3)),
        draw(st.sampled_from(["crop", "pad", "squash"])),
        draw(st.sampled_from([(0.0, 65535.0), (-3.5, 700.25), (40000.0, 40001.0)])),
        draw(st.sampled_from(DECODES)),
    )


@st.composite
def images(draw: st.DrawFn, modes: tuple[str, ...] = tuple(CHANNELS)) -> Image.Image:
    mode = draw(st.sampled_from(modes))
    width, height = draw(st.integers(1, 45)), draw(st.integers(1, 45))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    if mode in {"I;16", "I", "F"}:
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(rng.integers(0, 2**16, (height, width)).astype(kind))
    elif mode == "P":
        image = Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).convert("P")
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        if draw(st.booleans()):
            image.info["transparency"] = draw(
                st.one_of(
                    st.integers(0, 255), st.just(bytes(rng.integers(0, 256, 256, dtype=np.uint8)))
                )
            )
    elif mode == "1":
        image = Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).convert("1")
    else:
        data = rng.integers(0, 256, (height * width * CHANNELS[mode]), dtype=np.uint8)
        image = Image.frombytes(mode, (width, height), data.tobytes())
    if draw(st.booleans()):
        image.getexif()[ORIENTATION] = draw(st.integers(1, 8))
    return image


@quickly
@given(images(), specs())
def test_decoded_images(image: Image.Image, spec: Preprocessing) -> None:
    theirs = Preprocess.from_json(spec.to_json())
    before = image.copy()
    mine = prepare(image, spec)
    np.testing.assert_array_equal(mine, theirs(image))
    assert mine.shape == (spec.size, spec.size, 3)
    assert mine.dtype == np.uint8
    assert image == before


@quickly
@given(images(tuple(FILES)), specs(), st.data())
def test_files_as_the_streams_read_them(
    image: Image.Image, spec: Preprocessing, data: st.DataObject
) -> None:
    """The streams turn an image upright themselves; it is not turned twice."""
    kind = data.draw(st.sampled_from(FILES[image.mode]))
    buffer = io.BytesIO()
    options: dict[str, Any] = {"exif": image.getexif()} if kind in WITH_EXIF else {}
    clear = image.info.pop("transparency", None)
    if clear is not None and (kind == "PNG" or (kind == "GIF" and isinstance(clear, int))):
        options["transparency"] = clear
    image.save(buffer, kind, **options)
    encoded = buffer.getvalue()
    theirs = Preprocess.from_json(spec.to_json())
    decoded = open_image(encoded, "memory", least=theirs.least_side)
    np.testing.assert_array_equal(prepare(encoded, spec), theirs(decoded))


@quickly
@given(
    specs(),
    hnp.arrays(
        st.sampled_from(["u1", "u2", "i4", "f4", ">u2", "f8"]),
        st.tuples(st.integers(1, 30), st.integers(1, 30)),
    ),
    st.booleans(),
)
def test_arrays(spec: Preprocessing, array: np.ndarray, axis: bool) -> None:
    """An array is what a grey image or a grey file with its levels would be."""
    theirs = Preprocess.from_json(spec.to_json())
    mine = prepare(array[..., None] if axis else array, spec)
    np.testing.assert_array_equal(mine, theirs(array))
    if array.dtype.str in {"|u1", "<u2", "<i4", "<f4"}:
        image = Image.fromarray(array)
        np.testing.assert_array_equal(mine, theirs(image))
        buffer = io.BytesIO()
        image.save(buffer, "TIFF")
        np.testing.assert_array_equal(mine, prepare(buffer.getvalue(), spec))


@quickly
@given(specs(), st.integers(1, 30), st.integers(1, 30), st.integers(3, 4), st.booleans())
def test_colour_arrays(
    spec: Preprocessing, height: int, width: int, channels: int, transposed: bool
) -> None:
    array = np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)
    array = array.transpose(1, 0, 2) if transposed else array
    theirs = Preprocess.from_json(spec.to_json())
    mine = prepare(array, spec)
    np.testing.assert_array_equal(mine, theirs(Image.fromarray(np.ascontiguousarray(array))))
    order = [2, 1, 0, 3][:channels]
    np.testing.assert_array_equal(mine, prepare(array[..., order], spec, channels="bgr"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int, tmp_path: Path) -> None:
    spec = Preprocessing(9, 12, "bicubic", (0.5,) * 3, (0.5,) * 3, (255, 255, 255))
    array = np.random.default_rng(0).integers(0, 256, (31, 20, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(array).save(tmp_path / "image.png", exif=exif)
    mine = prepare(tmp_path / "image.png", spec)
    theirs = Preprocess.from_json(spec.to_json())
    decoded = open_image(tmp_path / "image.png", "image")
    np.testing.assert_array_equal(mine, theirs(decoded))
    flat = prepare(array, spec)
    assert np.array_equal(mine, flat) == (orientation == 1)


def test_a_paletted_image_with_transparency_shows_the_background() -> None:
    spec = Preprocessing(4, 4, "bilinear", (0.5,) * 3, (0.5,) * 3, (7, 8, 9))
    image = Image.new("P", (6, 6), 3)
    image.putpalette([200] * 768)
    image.info["transparency"] = 3
    expected = np.broadcast_to(np.array([7, 8, 9], np.uint8), (4, 4, 3))
    np.testing.assert_array_equal(prepare(image, spec), expected)
    np.testing.assert_array_equal(Preprocess.from_json(spec.to_json())(image), expected)

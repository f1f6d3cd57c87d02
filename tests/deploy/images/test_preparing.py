"""Images: what is accepted, what comes out, and what a hostile file can do (nothing)."""

import os
import struct
import tracemalloc
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from edgecl_deploy.errors import ImageError, OptionError
from edgecl_deploy.format import Preprocessing
from edgecl_deploy.images import open_image, prepare, read_header

SPEC = Preprocessing(8, 12, "bicubic", (0.5,) * 3, (0.5,) * 3, (255, 0, 0))


def encode(image, form, **options):
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(height, width, channels=3):
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_shorter_side_is_resized_and_the_centre_is_cut():
    array = noise(24, 50)
    image = Image.fromarray(array).resize((25, 12), Image.Resampling.BICUBIC)
    expected = np.asarray(image.crop((8, 2, 16, 10)))
    np.testing.assert_array_equal(prepare(array, SPEC), expected)
    upright = np.ascontiguousarray(array.transpose(1, 0, 2))
    assert prepare(upright, SPEC).shape == (8, 8, 3)
    assert not np.array_equal(prepare(array, replace(SPEC, interpolation="bilinear")), expected)


def test_a_prepared_image_is_left_alone():
    spec = replace(SPEC, resize=8)
    array = noise(8, 8)
    np.testing.assert_array_equal(prepare(array, spec), array)


def test_transparency_shows_the_background():
    clear = np.zeros((12, 12, 4), np.uint8)
    expected = np.broadcast_to(np.array([255, 0, 0], np.uint8), (8, 8, 3))
    np.testing.assert_array_equal(prepare(clear, SPEC), expected)
    palette = Image.new("P", (12, 12), 0)
    palette.putpalette([0, 0, 255] * 256)
    data = encode(palette, "PNG", transparency=0)
    np.testing.assert_array_equal(prepare(data, SPEC), expected)


def test_exif_turns_the_image_upright():
    array = np.zeros((20, 20, 3), np.uint8)
    array[:10] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    data = encode(Image.fromarray(array), "PNG", exif=exif)
    prepared = prepare(data, SPEC)
    assert prepared[:, -1].mean() > 250
    assert prepared[:, 0].mean() < 5


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_every_format_of_the_list_is_read(form, tmp_path):
    image = Image.fromarray(noise(30, 20))
    data = encode(image, form)
    path = tmp_path / "image"
    path.write_bytes(data)
    prepared = prepare(data, SPEC)
    assert prepared.shape == (8, 8, 3)
    assert prepared.dtype == np.uint8
    assert prepared.flags.c_contiguous
    assert prepared.flags.writeable
    np.testing.assert_array_equal(prepare(path, SPEC), prepared)
    np.testing.assert_array_equal(prepare(str(path), SPEC), prepared)
    np.testing.assert_array_equal(prepare(bytearray(data), SPEC), prepared)


def test_grey_and_sixteen_bit_images():
    grey = noise(20, 20)[..., 0]
    rgb = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(prepare(grey, SPEC), prepare(rgb, SPEC))
    spec = replace(SPEC, window=(0, 65535))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(prepare(deep, spec), prepare(rgb, spec))


def test_the_callers_image_stays_open_and_unchanged():
    image = Image.fromarray(noise(20, 20, 4))
    before = image.copy()
    prepare(image, SPEC)
    assert image == before


def test_the_learner_has_the_same_definition():
    preprocess = pytest.importorskip("edgecl.backbones.preprocess")
    theirs = preprocess.Preprocess.from_json(SPEC.to_json())
    for shape in ((30, 41), (12, 12), (57, 9)):
        for channels in (3, 4):
            image = Image.fromarray(noise(*shape, channels))
            np.testing.assert_array_equal(prepare(image, SPEC), theirs(image))
    deep = Image.fromarray(noise(20, 31)[..., 0].astype(np.uint16) * 257)
    spec = replace(SPEC, window=(300, 9000))
    theirs = preprocess.Preprocess.from_json(spec.to_json())
    np.testing.assert_array_equal(prepare(deep, spec), theirs(deep))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.9])
def test_a_truncated_file_is_an_image_error(form, part):
    data = encode(Image.fromarray(noise(64, 64)), form)
    with pytest.raises(ImageError, match="Take the picture again"):
        prepare(data[: int(part * len(data))], SPEC)


def png_of(width, height):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("size", "action"),
    [
        ((8200, 8200), "Make it smaller, crop it, or allow more with --max-pixels"),
        ((2**31 - 1, 2**31 - 1), "Make it smaller|Take the picture again"),
        ((1, 40_000_000), "Crop the image"),
    ],
)
def test_a_decompression_bomb_costs_nothing(size, action):
    data = png_of(*size)
    tracemalloc.start()
    with pytest.raises(ImageError, match=action):  # and no warning of Pillow's
        prepare(data, SPEC)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_thread_that_would_grow_is_refused():
    with pytest.raises(
        ImageError, match="begin a run with `--resize pad`, or allow more with --max-pixels"
    ):
        prepare(np.zeros((1, 1_000_000, 3), np.uint8), SPEC)  # 12 x 12,000,000 after the resize


def test_the_limit_can_be_set():
    prepare(noise(20, 20), SPEC, max_pixels=400)
    with pytest.raises(ImageError, match=r"1 to 400 pixels; found 21 x 20\. .*--max-pixels"):
        prepare(noise(20, 21), SPEC, max_pixels=400)


def test_the_limit_of_a_process_is_in_its_environment(monkeypatch):
    data = encode(Image.new("L", (21, 20)), "PNG")
    monkeypatch.setenv("EDGECL_MAX_PIXELS", "400")
    for read in (prepare, lambda data, _: open_image(data), lambda data, _: read_header(data)):
        with pytest.raises(ImageError, match="1 to 400 pixels"):
            read(data, SPEC)
    prepare(data, SPEC, max_pixels=420)
    for wrong in ("0", "-5", "many", "1e6", str(2**27 + 1)):
        monkeypatch.setenv("EDGECL_MAX_PIXELS", wrong)
        with pytest.raises(OptionError, match="EDGECL_MAX_PIXELS, or choose another number"):
            prepare(data, SPEC)
    monkeypatch.setenv("EDGECL_MAX_PIXELS", str(2**27))
    wide = encode(Image.new("1", (8200, 8200)), "PNG")
    assert prepare(wide, SPEC).shape == (8, 8, 3)  # over the default, which Pillow takes as well


def test_formats_that_start_programs_are_not_decoded():
    with pytest.raises(ImageError, match=r"PostScript.*Convert it to PNG"):
        prepare(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", SPEC)


@pytest.mark.parametrize(
    ("source", "action"),
    [
        (np.zeros((8, 8, 3), np.float32), r"call array\.astype\(numpy\.uint8\)"),
        (np.zeros((3, 8, 8), np.uint8), "Put the colours last"),
        (np.zeros((0, 8, 3), np.uint8), "Leave the image out"),
        (7, r"numpy\.asarray\(image\)"),
        (None, r"numpy\.asarray\(image\)"),
        ("/no/such/file.jpg", "Check the path"),
        (b"", "an empty file. Take the picture again"),
    ],
)
def test_what_is_no_image_is_an_image_error(source, action):
    with pytest.raises(ImageError, match=action):
        prepare(source, SPEC)


def test_a_folder_a_pipe_or_a_huge_file_is_an_image_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ImageError, match="Name the image files"):
            prepare(path, SPEC)
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**40)
    with pytest.raises(ImageError, match="Compress it"):
        prepare(tmp_path / "huge", SPEC)

"""JPEG files at a reduced scale: which scale, how near to all pixels, and which limits hold."""

import io
import math
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from edgecl_deploy.errors import ImageError
from edgecl_deploy.format import Preprocessing
from edgecl_deploy.images import open_image, prepare
from edgecl_deploy.images.opening import MAX_PIXELS, Margins
from edgecl_deploy.sample import encoded, sample_photo

FULL = Preprocessing(56, 64, "bicubic", (0.5,) * 3, (0.5,) * 3, (255, 255, 255))
REDUCED = replace(FULL, decode="draft2")


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("short", "scale"), [(127, 1), (128, 1), (255, 1), (256, 2), (511, 2), (512, 4), (1024, 8),
                         (1025, 8), (3000, 8)]
)  # fmt: skip
@pytest.mark.parametrize("wide", [True, False])
def test_the_smallest_scale_has_twice_the_pixels_of_the_resize(short, scale, wide):
    size = (short + 100, short) if wide else (short, short + 100)
    opened = open_image(jpeg(Image.new("RGB", size)), least=128)
    assert opened.size == tuple(-(-side // scale) for side in size)  # rounded up
    margins = Margins.of(opened)
    assert (opened.width - margins.right, opened.height - margins.bottom) == (
        size[0] / scale,
        size[1] / scale,
    )


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(800, 600), (1201, 803), (401, 603), (517, 519)])
def test_it_is_near_to_all_pixels(size, fit):
    image = sample_photo(*size, seed=size[0])
    for turn in (1, 3, 6, 7):
        exif = Image.Exif()
        exif[0x0112] = turn
        for mode in ("RGB", "L", "CMYK"):
            data = jpeg(image.convert(mode), exif=exif)
            spec = replace(FULL, fit=fit, resize=64 if fit == "crop" else 56)
            whole = prepare(data, spec).astype(int)
            reduced = prepare(data, replace(spec, decode="draft2")).astype(int)
            error = np.abs(whole - reduced)
            assert error.mean() <= 0.5
            assert error.max() <= 16
            assert error.any()  # it was reduced


def test_other_files_and_what_is_decoded_already_are_as_they_are():
    image = sample_photo(400, 300)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    opened = Image.open(io.BytesIO(jpeg(image)))  # the caller's, who may use it afterwards
    for source in (buffer.getvalue(), image, np.asarray(image), opened):
        np.testing.assert_array_equal(prepare(source, REDUCED), prepare(source, FULL))
    assert opened.size == (400, 300)


def test_a_text_in_a_file_is_no_margin():
    image, text = sample_photo(90, 80), PngImagePlugin.PngInfo()
    text.add_text("edgecl_margins", "(9, 9, 9, 9)")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text)
    np.testing.assert_array_equal(prepare(buffer.getvalue(), REDUCED), prepare(image, FULL))


def test_it_is_several_times_faster_and_takes_less_memory():
    data = encoded(sample_photo(1600, 1200))
    seconds = {spec.decode: math.inf for spec in (FULL, REDUCED)}
    for _ in range(5):  # in turns, in seconds of this process: others on the machine do not count
        for spec in (FULL, REDUCED):
            spent = timed(lambda spec=spec: prepare(data, spec))
            seconds[spec.decode] = min(seconds[spec.decode], spent)
    assert seconds["draft2"] < 0.6 * seconds["full"]  # about a quarter


def timed(work):
    begin = time.process_time()
    work()
    return time.process_time() - begin


def test_the_stored_size_counts_against_the_limits():
    data = jpeg(Image.new("L", (640, 480)))
    with pytest.raises(ImageError, match=r"1 to 307199 pixels; found 640 x 480"):
        prepare(data, REDUCED, max_pixels=640 * 480 - 1)
    frame = data.index(b"\xff\xc0")
    huge = data[: frame + 5] + b"\xff\xdc\xff\xdc" + data[frame + 9 :]  # 65500 x 65500
    tracemalloc.start()
    with pytest.raises(ImageError, match=f"1 to {MAX_PIXELS} pixels|Make it smaller"):
        prepare(huge, REDUCED)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("part", [0.05, 0.5, 0.95])
def test_a_truncated_file_is_an_image_error(part):
    data = encoded(sample_photo(800, 600))
    with pytest.raises(ImageError, match="Take the picture again"):
        prepare(data[: int(part * len(data))], REDUCED)


def test_scans_are_bounded_before_anything_is_decoded():
    data = jpeg(sample_photo(64, 64), progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start : data.rindex(b"\xff\xd9")]
    with pytest.raises(ImageError, match="must have at most 64 scans"):
        prepare(data[:start] + scan * 70 + b"\xff\xd9", REDUCED)

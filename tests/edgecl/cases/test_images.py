"""Images as people have them: a table of files and arrays, read alike by learner and device."""

import io
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from edgecl.backbones import BackboneError, Preprocess
from edgecl.streams import BrokenImageError, open_image
from edgecl_deploy.errors import ImageError
from edgecl_deploy.images import (
    DEVICE_PIXELS,
    MAX_FILE,
    MAX_PIXELS,
    MOST_PIXELS,
    prepare,
    read_header,
)

SPEC = Preprocess(size=16, resize=16, background=(10, 20, 30), window=(0.0, 4095.0))
READ = ""
Make = Callable[[Path], Any]  # is given a path to write to; may return a source instead


def noise(height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def deep(kind: str = "uint16", most: int = 4095) -> np.ndarray:
    return np.random.default_rng(6).integers(0, most + 1, (20, 24)).astype(kind)


def saved(image: Image.Image | np.ndarray, kind: str, **options: Any) -> Make:
    """Return a maker of a file of a kind, whatever its name is."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image

    def make(path: Path) -> None:
        image.save(path, kind, **options)

    return make


def content(data: bytes) -> Make:
    """Return a maker of a file with this content."""
    return lambda path: path.write_bytes(data) and None


def pages(first: np.ndarray, kind: str, **options: Any) -> Make:
    """Return a maker of a file with a black second frame or page."""
    second = Image.new("RGB", (24, 20))
    return saved(first, kind, save_all=True, append_images=[second], **options)


def encoded(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(noise()).save(out, kind, **options)
    return out.getvalue()


def lab() -> Image.Image:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    found = ImageCms.applyTransform(Image.fromarray(noise()), to_lab)
    assert found is not None
    return found


def box(brand: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + brand + b"\0\0\0\0" + b"".join(compatible)
    return struct.pack(">I", 4 + len(body)) + body + b"\0" * 64


def turned(exif: bytes) -> bytes:
    """Return a JPEG with these EXIF data."""
    whole = encoded("JPEG")
    segment = b"Exif\0\0" + exif
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + whole[2:]


def scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    whole = encoded("JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def bound(path: Path) -> None:
    """Make a socket; its name must be short."""
    here = os.open(path.parent, os.O_RDONLY)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{here}/{path.name}")
    listener.close()
    os.close(here)


def thumbnail(path: Path) -> None:
    """Make a TIFF whose first image is a small copy, as DNG and NEF are."""
    Image.fromarray(noise()).save(path, "TIFF", tiffinfo={254: 1})


def linked(path: Path) -> None:
    whole = path.with_name("whole")
    whole.write_bytes(encoded("PNG"))
    path.symlink_to(whole)


CLEAR = np.dstack([noise(), np.full((20, 24), 90, np.uint8)])
PALETTE = Image.fromarray(noise()).convert("P")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"

FILES: dict[str, tuple[Make, str]] = {
    # what is opened, by content
    "an EPS called png": (content(EPS), r"PostScript file. Convert it to PNG"),
    "an EPS of DOS": (content(b"\xc5\xd0\xd3\xc6" + b"\0" * 40 + EPS), r"PostScript file"),
    "a PDF": (content(b"%PDF-1.7\n" + b"x" * 99), r"PDF.*pdftoppm"),
    "an AVIF called jpg": (saved(noise(), "AVIF"), READ),
    "a PNG called jpg": (saved(noise(), "PNG"), READ),
    "a JPEG 2000": (saved(noise(), "JPEG2000"), r"JPEG 2000 file. Convert it to JPEG or PNG"),
    "a TGA": (saved(noise(), "TGA"), r"another kind of file. Convert it to JPEG or PNG"),
    "an icon": (saved(noise(32, 32), "ICO"), r"an icon. Convert it to JPEG or PNG"),
    "a Photoshop file": (content(b"8BPS\0\1" + b"\0" * 60), r"Photoshop file"),
    "an SVG": (content(b'<?xml version="1.0"?>\n<svg width="9">'), r"SVG drawing. Convert it"),
    "a pipe": (os.mkfifo, r"an image must be a file; found a folder or a device"),
    "a folder": (os.mkdir, r"Name the image files"),
    "a socket": (bound, r"there and readable|must be a file"),
    "a link to an image": (linked, READ),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), r"Check the path"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), r"Name the image files"),
    # limits, the same on both sides
    "fifty megapixels": (saved(Image.new("L", (8160, 6144)), "JPEG", quality=5), READ),
    "too many pixels": (saved(Image.new("1", (8193, 8192)), "PNG"), r"8193 x 8192. Make it small"),
    "more than Pillow warns of": (saved(Image.new("1", (12000, 9000)), "PNG"), r"Make it smaller"),
    "more than Pillow opens": (saved(Image.new("1", (20000, 9000)), "PNG"), r"Make it smaller"),
    "too many bytes": (lambda path: os.truncate(made(path), MAX_FILE + 1), r"Compress it"),
    "a thread": (saved(Image.new("L", (60_000, 1)), "PNG"), READ),
    "a thread that grows": (saved(Image.new("L", (9_000_000, 1)), "PNG"), r"--resize pad"),
    "many scans": (content(scans(80)), r"at most 64 scans"),
    "some scans": (content(scans(20)), READ),
    # what is no image, told apart
    "a text": (content(b"label,file\ncat,1.jpg\n"), r"a text. Name image files only"),
    "a text in another language": (content("Straße\n".encode()), r"a text"),
    "a text of Windows": (content("cat".encode("utf-16")), r"another kind|a text"),
    "a HEIC": (content(box(b"heic", b"mif1")), r"HEIC file. .*heif-convert.*Most Compatible"),
    "a HEIC of another brand": (content(box(b"mif1", b"heic")), r"HEIC file"),
    "a video": (content(box(b"isom", b"mp42")), r"a video. Take single frames out.*ffmpeg"),
    "a video of QuickTime": (content(box(b"qt  ")), r"a video"),
    "a video of Windows": (content(b"RIFF\0\0\1\0AVI LIST" + b"\0" * 50), r"a video"),
    "a video of the web": (content(b"\x1aE\xdf\xa3" + b"\0" * 50), r"a video"),
    "an empty file": (content(b""), r"there and readable|an empty file. Take the picture"),
    "a pointer of Git LFS": (content(b"version https://git-lfs.github.com/"), r"git lfs pull"),
    "a web page": (content(b"<!DOCTYPE html><html>404"), r"a web page. Fetch the image itself"),
    "an archive": (content(b"PK\3\4" + b"\0" * 60), r"an archive. Unpack it"),
    "a JPEG XL": (content(b"\xff\x0a" + b"\0" * 60), r"JPEG XL"),
    "a raw photograph of Canon": (content(b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 50), r"raw photo"),
    "a new one of Canon": (content(box(b"crx ", b"isom")), r"raw photograph"),
    "a raw photograph with a thumbnail": (thumbnail, r"thumbnail.*Develop it"),
    "random bytes": (content(np.random.default_rng(1).bytes(300)), r"another kind of file"),
    "a whole JPEG cut short": (content(encoded("JPEG")[:-300]), r"complete JPEG.*Take the picture"),
    "a header alone": (content(b"\x89PNG\r\n\x1a\n"), r"a header that is damaged"),
    # modes
    "16 bits": (saved(deep(), "PNG"), READ),
    "16 bits the other way round": (saved(Image.fromarray(deep(">u2")), "TIFF"), READ),
    "32 bits": (saved(deep("int32", 70000), "TIFF"), READ),
    "float": (saved(deep("float32"), "TIFF"), READ),
    "float of PFM": (saved(deep("float32"), "PPM"), READ),
    "nothing but NaN": (saved(np.full((20, 20), np.nan, np.float32), "TIFF"), READ),
    "16 bits with a clear level": (saved(deep(), "PNG", transparency=7), READ),
    "grey": (saved(noise()[..., 0], "PNG"), READ),
    "one bit": (saved(Image.fromarray(noise()).convert("1"), "PNG"), READ),
    "palette": (saved(PALETTE, "GIF"), READ),
    "palette with a clear colour": (saved(PALETTE, "PNG", transparency=5), READ),
    "alpha": (saved(CLEAR, "PNG"), READ),
    "grey and alpha": (saved(Image.fromarray(CLEAR).convert("LA"), "PNG"), READ),
    "CMYK": (saved(Image.fromarray(noise()).convert("CMYK"), "JPEG"), READ),
    "LAB": (saved(lab(), "TIFF"), READ),
    "YCbCr": (saved(Image.fromarray(noise()).convert("YCbCr"), "TIFF"), READ),
    # more than one image
    "an animated GIF": (pages(noise(), "GIF"), READ),
    "an animated WebP": (pages(noise(), "WEBP", lossless=True), READ),
    "an animated AVIF": (pages(noise(), "AVIF"), READ),
    "an animated PNG": (pages(noise(), "PNG"), READ),
    "a TIFF of pages": (pages(noise(), "TIFF"), READ),
    "two pictures of a camera": (pages(noise(), "MPO"), READ),
    # EXIF
    "damaged EXIF": (content(turned(b"MM\0*\0\0\xff\xff")), READ),
    "empty EXIF": (content(turned(b"")), READ),
    "EXIF of a stranger": (content(turned(b"II*\0\x08\0\0\0\1\0\x12\1\2\0\4\0\0\0abc\0")), READ),
}


def made(path: Path) -> Path:
    path.touch()
    return path


def learned(path: Path, spec: Preprocess) -> np.ndarray | str:
    """Return what the learner makes of a file: its pixels, or what it says."""
    try:
        return spec(open_image(path, path.name))
    except (BrokenImageError, BackboneError) as error:
        return str(error)


def classified(path: Path, spec: Preprocess) -> np.ndarray | str:
    """Return what a device makes of it."""
    try:
        return prepare(path, spec)
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_alike_or_refused_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make, message = FILES[name]
    path = tmp_path / "x.png"
    make(path)
    (tmp_path / "bin").mkdir()
    for program in ("gs", "gswin64c", "djpeg"):  # what would be started
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    ours, theirs = learned(path, SPEC), classified(path, SPEC)
    assert not (tmp_path / "started").exists()
    if message:
        assert isinstance(theirs, str)
        assert theirs in ours
        assert_matches(message, theirs)
    else:
        assert not isinstance(theirs, str), theirs
        np.testing.assert_array_equal(ours, theirs)
        assert read_header(path).mode
        if path.stat().st_size < 10**6:
            np.testing.assert_array_equal(prepare(path.read_bytes(), SPEC), theirs)
    assert capfd.readouterr() == ("", "")


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


def test_the_first_frame_counts(tmp_path: Path) -> None:
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        pages(np.full((20, 24, 3), 200, np.uint8), kind)(tmp_path / "x")
        assert prepare(tmp_path / "x", SPEC).mean() > 190, kind


def test_15_arrays_are_rgb_unless_it_is_said() -> None:
    rgb = noise(16, 16)
    np.testing.assert_array_equal(prepare(rgb, SPEC), rgb)
    np.testing.assert_array_equal(prepare(rgb[..., ::-1], SPEC, channels="bgr"), rgb)
    bgra = CLEAR[..., [2, 1, 0, 3]]
    np.testing.assert_array_equal(prepare(bgra, SPEC, channels="bgr"), prepare(CLEAR, SPEC))
    grey = rgb[..., :1]
    np.testing.assert_array_equal(prepare(grey, SPEC, channels="bgr"), prepare(grey[..., 0], SPEC))
    np.testing.assert_array_equal(prepare(deep()[..., None], SPEC), prepare(deep(), SPEC))
    wide = Image.fromarray(deep("float32"))
    np.testing.assert_array_equal(prepare(wide, SPEC), prepare(deep("float64"), SPEC))


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.zeros((3, 20, 24), np.uint8), r"array\.transpose\(1, 2, 0\)"),
        (np.zeros((1, 20, 24), np.uint8), r"array\.transpose\(1, 2, 0\)"),
        (np.zeros((20, 24, 2), np.uint8), "Choose one channel or three"),
        (np.zeros((2, 20, 24, 3), np.uint8), "Pass the images one by one"),
        (np.zeros((20, 24, 3), np.float32), r"Scale it to 0\.\.255"),
        (np.zeros((20, 24), complex), r"Scale it to 0\.\.255"),
        (np.zeros((0, 24), np.uint16), "Leave the image out"),
    ],
)
def test_15_an_array_that_is_no_image_is_told_what_to_do(array: np.ndarray, advice: str) -> None:
    with pytest.raises(ImageError, match=advice):
        prepare(array, SPEC)


def test_an_array_of_more_than_8_bits_needs_a_window() -> None:
    with pytest.raises(ImageError, match="--window LOW,HIGH"):
        prepare(deep(), replace(SPEC, window=None))


@pytest.mark.parametrize("size", [(640, 360), (360, 640), (3000, 30)])
def test_12_only_a_crop_loses_the_sides(size: tuple[int, int], tmp_path: Path) -> None:
    frame = Image.new("RGB", size, "white")
    wide = size[0] > size[1]
    frame.paste("red", (0, 0, size[0] // 8, size[1]) if wide else (0, 0, size[0], size[1] // 8))
    frame.save(tmp_path / "x.png")
    found = {}
    for fit in ("crop", "pad", "squash"):
        spec = SPEC.with_options(fit, None, None)
        found[fit] = prepare(tmp_path / "x.png", spec)
        np.testing.assert_array_equal(learned(tmp_path / "x.png", spec), found[fit])
    red = {fit: (pixels == [255, 0, 0]).all(axis=2).any() for fit, pixels in found.items()}
    assert red == {"crop": False, "pad": True, "squash": True}
    bars = found["pad"] if wide else found["pad"].transpose(1, 0, 2)
    assert (bars[[0, -1]] == SPEC.background).all()
    assert (found["squash"] != SPEC.background).any(axis=2).all()


def test_a_window_maps_its_ends_and_clips_the_rest() -> None:
    levels = np.array([[-5, 100, 101, 355, 356, 9000, 4_000_000_000]] * 7, np.float64)
    spec = Preprocess(size=7, resize=7, window=(100.0, 355.0))
    assert prepare(levels, spec)[0, :, 0].tolist() == [0, 0, 1, 255, 255, 255, 255]
    levels[0] = [np.nan, np.inf, -np.inf, 0, 0, 0, 0]
    assert prepare(levels, spec)[0, :3, 0].tolist() == [0, 255, 0]


def test_a_16_bit_window_is_the_high_byte_to_within_a_level() -> None:
    levels = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    spec = Preprocess(size=256, resize=256, window=(0.0, 65535.0))
    assert np.abs(prepare(levels, spec)[..., 0].astype(int) - (levels >> 8)).max() == 1


def test_a_clear_level_of_16_bits_shows_the_background(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 7, np.uint16)).save(tmp_path / "x.png", transparency=7)
    assert (prepare(tmp_path / "x.png", SPEC) == SPEC.background).all()


def test_a_pillow_image_that_would_start_a_program_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "x.eps")
    with Image.open(tmp_path / "x.eps") as image, pytest.raises(ImageError, match="Convert it to"):
        prepare(image, SPEC)


def test_the_limits_are_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "images.md").read_text(encoding="utf-8")
    assert (MAX_PIXELS, DEVICE_PIXELS, MOST_PIXELS) == (2**26, 2**24, 2**27)
    for limit in ("2^26", "2^24", "2^27"):
        assert limit in page
    assert MAX_FILE == 256 << 20
    assert "256 MiB" in page

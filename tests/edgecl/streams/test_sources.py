"""Sources decode what is whole and name what is broken."""

import contextlib
import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgecl.streams import (
    ArraySource,
    BrokenImageError,
    ImageSet,
    PathSource,
    StreamError,
    ZipSource,
    open_image,
)
from edgecl.streams import _sources as sources
from edgecl_deploy.images import opening


def encoded(kind="PNG", size=(40, 30)):
    out = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(out, kind)
    return out.getvalue()


@settings(max_examples=60)
@given(st.data())
def test_damaged_bytes_decode_or_raise_our_error(data):
    whole = bytearray(encoded(data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF"]))))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(BrokenImageError):  # any other error fails the test
        open_image(cut, "hostile.png").convert("RGB")


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(opening.open_image, "__kwdefaults__", {"max_pixels": 1000})
    with pytest.raises(BrokenImageError, match=r"big\.png: .*40 x 30\. Make it smaller"):
        open_image(encoded(), "big.png")


def test_pillows_bomb_warning_is_not_in_the_way(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # 40 x 30 is more than twice
    with pytest.raises(BrokenImageError, match="DecompressionBomb"):
        open_image(encoded(), "bomb.png")


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
def test_images_come_upright_and_once_only(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("RGB", (20, 10)).save(tmp_path / "image", kind, exif=exif)
    image = PathSource([tmp_path / "image"]).image(0)
    assert image.size == (10, 20)
    assert image.getexif().get(0x0112, 1) == 1


def test_truncated_file_is_named(tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encoded("JPEG")[:-200])
    with pytest.raises(
        BrokenImageError, match=r"cut\.jpg: .*complete JPEG.* Take the picture again"
    ):
        PathSource([path]).image(0)


def test_array_source_gives_grey_and_rgb():
    assert ArraySource(np.zeros((2, 4, 5), np.uint8)).image(1).mode == "L"
    image = ArraySource(np.full((2, 4, 5, 3), 7, np.uint8)).image(1)
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (5, 4), (7, 7, 7))


@pytest.mark.parametrize("shape", [(4,), (4, 4), (1, 4, 4, 4), (1, 1, 4, 4, 3)])
def test_array_source_refuses_other_shapes(shape):
    with pytest.raises(StreamError, match="Convert it before"):
        ArraySource(np.zeros(shape, np.uint8))


def test_zip_source_reads_and_pickles(tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", encoded())
        archive.writestr("broken.png", b"no image")
    source = ZipSource([(path, "a.png"), (path, "broken.png"), (path, "missing.png")])
    assert source.image(0).size == (40, 30)
    assert pickle.loads(pickle.dumps(source)).image(0).size == (40, 30)  # noqa: S301 (our bytes)
    with pytest.raises(BrokenImageError, match=r"broken\.png"):
        source.image(1)
    with pytest.raises(BrokenImageError, match=r"missing\.png.*Fetch or install"):
        source.image(2)


def test_zip_source_refuses_large_members(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 10)
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", encoded())
    with pytest.raises(BrokenImageError, match="limit 10"):
        ZipSource([(path, "a.png")]).image(0)


def test_missing_archive_is_named(tmp_path):
    with pytest.raises(BrokenImageError, match=r"none\.zip"):
        ZipSource([(tmp_path / "none.zip", "a.png")]).image(0)


def test_image_set_subset_and_lengths():
    source = ArraySource(np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8))
    images = ImageSet.of(source, [5, 6, 7], ["a", "b", "c"]).subset([2, 0]).subset([1, 0])
    assert (images.labels, images.names, len(images)) == ((5, 7), ("a", "c"), 2)
    assert images.image(1).getpixel((0, 0)) == 2
    with pytest.raises(StreamError, match="Check the data set's files"):
        ImageSet.of(source, [1], ["a"])


def test_a_digest_is_of_what_is_stored(tmp_path):
    data = encoded()
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(data)
    files = PathSource([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "none.png", tmp_path])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("c.png", data)
    member = ZipSource([(tmp_path / "all.zip", name) for name in ("c.png", "none.png")])
    assert files.digest(0) == files.digest(1) == member.digest(0) != b""
    assert [files.digest(2), files.digest(3), member.digest(1)] == [b""] * 3
    (tmp_path / "a.png").write_bytes(data + b"\0")
    assert files.digest(0) != files.digest(1)


def test_a_digest_of_pixels_is_of_their_shape_and_kind():
    grey = np.zeros((2, 2, 3), np.uint8)
    arrays = [
        ArraySource(grey),
        ArraySource(grey.reshape(2, 3, 2)),
        ArraySource(grey[..., None].repeat(3, 3)),
    ]
    assert len({source.digest(0) for source in arrays}) == 3
    assert arrays[0].digest(0) == arrays[0].digest(1)


class Decoded:
    """A source that has no digests."""

    def __init__(self, image):
        self.held = image

    def __len__(self):
        return 1

    def image(self, index, least=None):
        if self.held is None:
            raise BrokenImageError("broken")
        return self.held


def test_a_source_without_digests_is_decoded_for_them():
    palette = Image.new("P", (2, 2))
    other = palette.copy()
    other.putpalette([9, 9, 9] * 256)
    clear = palette.copy()
    clear.info["transparency"] = 0
    images = [palette, other, clear, Image.new("L", (2, 2)), Image.new("L", (4, 1))]
    digests = {ImageSet.of(Decoded(image), [0], ["a"]).digest(0) for image in images}
    assert len(digests) == 5
    assert ImageSet.of(Decoded(None), [0], ["a"]).digest(0) == b""

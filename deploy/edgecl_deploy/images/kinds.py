"""What a file is by its first bytes: which decoder reads it, or why none does and what to do.

The list of decoders is short on purpose: Pillow has more, some of them start programs, and each is
a way in for a hostile file.
"""

import re

from edgecl_deploy.errors import ImageError

HEAD = 256  # bytes that are looked at
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")  # Pillow's names

_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}  # bytes
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_RAW = (b"HEAPCCDR", b"FUJIFILMCCD-RAW", b"IIRO", b"IIU\0", b"\0MRM", b"FOVb")
_TEXT = bytes({7, 8, 9, 10, 12, 13, 27} | set(range(0x20, 0x7F)) | set(range(0x80, 0x100)))

_CONVERT = "Convert it to JPEG or PNG."
_REFUSED = (  # what others begin with, what they are, what to do
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL file", _CONVERT),
    (rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000 file", _CONVERT),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file", "Convert it to PNG; it is a program."),
    (rb"%PDF", "a PDF file", "Convert its pages to PNG, for example with `pdftoppm -png`."),
    (rb"8BPS", "a Photoshop file", _CONVERT),
    (rb"\x00\x00\x01\x00", "an icon", _CONVERT),
    (rb"RIFF....AVI |\x1aE\xdf\xa3|FLV\x01|OggS|\x00\x00\x01[\xb3\xba]|0&\xb2u", "a video", ""),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ", "an archive", "Unpack it first."),
    (rb"version https://git-lfs", "a pointer of Git LFS", "Fetch the file with `git lfs pull`."),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg", "an SVG drawing", "Convert it to PNG."),
    (rb"\s*(<!doctype html|<html|<\?xml)", "a web page", "Fetch the image itself again."),
)
_FRAMES = "Take single frames out, for example with `ffmpeg -i VIDEO -vf fps=1 %04d.png`."


def kind_of(head: bytes) -> str:
    """Return the format, one of `FORMATS`, of a file that begins like this.

    Raises:
        ImageError: It is none of them; the error says what it is and what to do.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(_TIFF) and head[8:10] != b"CR":
        return "TIFF"
    if re.match(rb"P[1-6f]\s", head):
        return "PPM"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if _brands(head) & _AVIF:
        return "AVIF"
    found, action = _refused(head)
    raise ImageError(f"an image must be a file in one of {', '.join(FORMATS)}", found, action)


def _brands(head: bytes) -> set[bytes]:
    """Return the brands of a file in boxes (MP4 and its relatives), none of another."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head) - 3)
    return {head[8:12]} | {head[at : at + 4] for at in range(16, end, 4)}


def _refused(head: bytes) -> tuple[str, str]:
    """Return what a file is that no decoder of the list reads, and what to do with it."""
    if not head:
        return "an empty file", "Take the picture again, or copy it again."
    brands = _brands(head)
    if brands & _HEIC or head[8:12] in {b"mif1", b"msf1"}:
        return "a HEIC file", (
            "Convert it to JPEG, for example with `heif-convert`, or set the phone to take JPEG "
            "(iPhone: Settings, Camera, Formats, Most Compatible)."
        )
    if head[8:11] == b"crx" or head.startswith((*_TIFF, *_RAW)):
        return "a raw photograph", "Develop it, or take the camera's JPEG."
    if brands or head[4:8] in {b"moov", b"mdat", b"wide"}:
        return "a video", _FRAMES
    for start, what, action in _REFUSED:
        if re.match(start, head, re.DOTALL | re.IGNORECASE):
            return what, action or _FRAMES
    if not head.translate(None, _TEXT):
        return "a text", "Name image files only."
    return "another kind of file", _CONVERT

"""The least typical pictures, where an operator has asked for them.

Laws: none is kept unless the setting `drift_pictures` asks for it; they stay on the device, for its
user and group alone; another release, and whoever acknowledges an alarm, removes them.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from edgecl_deploy.manifest.whole import TEMPORARY, write_whole

FOLDER = "drift"  # in the local folder
_NAME = re.compile(r"p([01]\.\d{4})-(\d{1,18})\.png")
_MODE = 0o660


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that counted.

    Attributes:
        typical: Its highest p-value.
        time: When it was answered: seconds since 1970.
        image: uint8 [side, side, 3], as it was prepared; None if it is on the disk already.
    """

    typical: float
    time: float
    image: np.ndarray | None = None

    @property
    def name(self) -> str:
        """Its file; in a list the least typical come first."""
        return f"p{self.typical:.4f}-{round(self.time * 1e6)}.png"


def least(kept: Iterable[Picture], most: int) -> tuple[Picture, ...]:
    """Return the least typical ones, and of those that are equally so the newest.

    Args:
        kept: Pictures.
        most: How many at most.
    """
    return tuple(sorted(kept, key=lambda each: (each.typical, -each.time))[:most])


def read_pictures(local: Path) -> tuple[Picture, ...]:
    """Return the pictures in a local folder, by their names."""
    found = [_NAME.fullmatch(name) for name in sorted(_names(local / FOLDER))]
    return tuple(Picture(float(each[1]), int(each[2]) / 1e6) for each in found if each)


def has_pictures(local: Path) -> bool:
    """Return whether a local folder holds pictures, or parts of them."""
    return bool(_names(local / FOLDER))


def write_pictures(local: Path, kept: Iterable[Picture]) -> None:
    """Let a local folder hold these pictures and no others, whole or in part; needs its lock.

    Args:
        local: The folder; in it `FOLDER` is there, if a picture is to be written.
        kept: The pictures.
    """
    folder, wanted = local / FOLDER, {each.name: each for each in kept}
    here = _names(folder)
    for name in here - wanted.keys():
        with suppress(FileNotFoundError):
            (folder / name).unlink()
    for name, each in wanted.items():
        if name not in here and each.image is not None:
            write_whole(folder / name, _png(each.image), mode=_MODE, durable=False)


def _names(folder: Path) -> set[str]:
    if folder.is_symlink() or not folder.is_dir():
        return set()
    names = {path.name for path in folder.iterdir()}
    return {name for name in names if name.endswith(".png") or name.startswith(TEMPORARY)}


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    out = BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()

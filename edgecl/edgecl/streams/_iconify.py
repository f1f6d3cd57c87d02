"""Iconify icon sets (the JSON of the `@iconify-json/*` packages) and their rasterisation."""

import json
from dataclasses import dataclass
from typing import Any

from edgecl.streams._errors import StreamError


@dataclass(frozen=True)
class IconSet:
    """The visible icons of one set, without aliases and icons that are marked hidden."""

    prefix: str
    icons: dict[str, dict[str, Any]]  # name -> body, and left, top, width, height where they differ
    box: tuple[int | float, ...]  # the set's default left, top, width, height
    groups: dict[str, str]  # icon name -> category; empty for sets without categories

    @classmethod
    def parse(cls, icons: bytes, metadata: bytes) -> "IconSet":
        """Read icons.json and metadata.json of a package."""
        data, meta = json.loads(icons), json.loads(metadata)
        visible = {name: icon for name, icon in data["icons"].items() if not icon.get("hidden")}
        box = (data.get("left", 0), data.get("top", 0), data["width"], data["height"])
        groups = {n: group for group, names in meta.get("categories", {}).items() for n in names}
        return cls(data["prefix"], visible, box, groups)

    def svg(self, name: str, size: int) -> str:
        """Return one icon as a square SVG; an icon that is not square is centred."""
        icon = self.icons[name]
        keys = ("left", "top", "width", "height")
        left, top, width, height = (
            icon.get(k, default) for k, default in zip(keys, self.box, strict=True)
        )
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{size}" height="{size}" viewBox="{left} {top} {width} {height}">'
            f"{icon['body']}</svg>"
        )


def rasterise(svg: str) -> bytes:
    """Render an SVG to a PNG (RGBA with its alpha) at the SVG's own size, without any font.

    Raises:
        StreamError: resvg is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise StreamError(
            "Rasterising icons needs resvg-py, which is not installed. Install edgecl[data]."
        ) from error
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))

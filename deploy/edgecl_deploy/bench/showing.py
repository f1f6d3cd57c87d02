"""Shows what `edgecl-device bench` measured: a table for a terminal, and a small picture."""

from html import escape
from statistics import median

from edgecl_deploy.bench.contestant import STAGES
from edgecl_deploy.bench.measuring import RANKS, Bench, Measured

_LABEL, _CELL = 34, 8  # characters
_COLOURS = ("#9a9a9a", "#e0a030", "#c06070", "#4477aa", "#66aa77")  # of the stages
_LEFT, _WIDTH, _BAR, _ROW = 190, 640, 22, 44  # pixels


def table(bench: Bench) -> str:
    """Return the figures as lines of text."""
    able = [each for each in bench.engines if each.error is None]
    wide = len(RANKS) * _CELL
    lines = [
        f"{bench.picture}, batches of {bench.batch}; milliseconds per image",
        " " * _LABEL + "".join(f"{each.name[: wide - 1]:>{wide}}" for each in able),
        f"{'':{_LABEL}}" + "".join(f"{f'p{rank}':>{_CELL}}" for _ in able for rank in RANKS),
    ]
    for stage in STAGES:
        cells = (f"{each.rank(stage, rank):{_CELL}.2f}" for each in able for rank in RANKS)
        lines.append(f"{stage:{_LABEL}}" + "".join(cells))
    for name, value in (
        ("images per second, one by one", lambda each: each.rate("sequential")),
        ("images per second, overlapped", lambda each: each.rate("overlapped")),
        ("times the first", bench.ratio),
        ("start to first answer, ms", lambda each: each.start["start_ms"]),
        ("swap, ms", lambda each: median(each.swaps)),
        ("memory, MB", lambda each: each.mb),
        ("runs that were measured", lambda each: len(each.ms["run"])),
    ):
        lines.append(f"{name:{_LABEL}}" + "".join(f"{value(each):{wide}.4g}" for each in able))
    return "\n".join(lines + [f"{each.name}: {each.error}" for each in bench.engines if each.error])


def picture(bench: Bench) -> str:
    """Return an SVG picture: a bar of median milliseconds per engine, and images per second."""
    able = [each for each in bench.engines if each.error is None]
    most = max(sum(each.rank(stage, 50) for stage in STAGES) for each in able)
    height = 64 + _ROW * len(able)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(8, 18, f"{bench.picture}, batches of {bench.batch}: milliseconds per image (median)"),
    ]
    for index, stage in enumerate(STAGES):
        x = 8 + 90 * index
        parts += [_rect(x, 28, 12, 12, _COLOURS[index]), _text(x + 18, 39, stage)]
    for row, each in enumerate(able):
        parts += _bar(each, 56 + _ROW * row, (_WIDTH - 190) / most)
    return "\n".join([*parts, "</svg>", ""])


def _bar(each: Measured, top: int, scale: float) -> list[str]:
    parts, x = [_text(8, top + 15, each.name)], float(_LEFT)
    for colour, stage in zip(_COLOURS, STAGES, strict=True):
        width = scale * each.rank(stage, 50)
        parts.append(_rect(x, top, width, _BAR, colour))
        x += width
    total = sum(each.rank(stage, 50) for stage in STAGES)
    figures = f"{total:.1f} ms; {each.rate('overlapped'):.1f} images/s overlapped"
    return [*parts, _text(x + 6, top + 15, figures)]


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="#222">{escape(text)}</text>'

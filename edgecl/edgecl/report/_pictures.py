"""Hand-made SVG: a table of shares as colours, lines over tasks, bars over tasks.

Colours come from the page's style, so that one picture serves light and dark. Sizes are in CSS
pixels at full width; a picture shrinks with the page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor

from edgecl.report._html import Html, join, tag

LINE_WIDTH, LINE_HEIGHT, BAR_HEIGHT = 540.0, 300.0, 230.0
LABEL_GAP = 16  # smallest distance of two names at the ends of lines


@dataclass(frozen=True)
class Series:
    """One line: its name and a value, 0..1, for each stage; None where there is none."""

    name: str
    values: Sequence[float | int | None]

    @property
    def known(self) -> list[tuple[int, float | int]]:
        """Return the stages that have a value, with it."""
        return [(stage, value) for stage, value in enumerate(self.values) if value is not None]


@dataclass(frozen=True)
class Bar:
    """One bar: its value on top of the bar before it."""

    label: str
    value: float | int
    before: float | int = 0


def heat_map(
    title: str,
    rows: Sequence[Sequence[float | int | None]],
    *,
    row_axis: str,
    column_axis: str,
    low: float = 0.0,
    diagonal: bool = False,
) -> Html:
    """Return shares, 0..1, as a grid of coloured cells, in per cent; both axes count from 1.

    Args:
        title: what is shown, for those who do not see it.
        rows: the shares; None leaves a cell empty.
        row_axis: what the rows are.
        column_axis: what the columns are.
        low: the share that has the weakest colour; 1 has the strongest.
        diagonal: frame the cells of the diagonal.
    """
    count = len(rows)
    wide = max(20.0, min(62.0, 480.0 / max(count, 1)))
    high = max(20.0, min(40.0, wide))
    left, top = 40.0, 44.0
    width, height = left + wide * count + 2, top + high * count + 40
    parts = [
        tag("text", column_axis, x=left, y=14),
        tag(
            "text",
            row_axis,
            x=-top,
            y=12,
            transform="rotate(-90)",
            text_anchor="end",
        ),
    ]
    step = ceil(count / 25)
    for index in range(0, count, step):
        middle = left + wide * (index + 0.5)
        parts.append(tag("text", index + 1, x=middle, y=top - 10, text_anchor="middle"))
        line = top + high * (index + 0.5) + 4.5
        parts.append(tag("text", index + 1, x=left - 8, y=line, text_anchor="end"))
    for row, values in enumerate(rows):
        for column, value in enumerate(values):
            x, y = left + wide * column, top + high * row
            # In a confusion zeros are many and expected: a dot is easier to read.
            zero = "·" if diagonal and row != column else "0"
            box = {"x": x + 1, "y": y + 1, "width": wide - 2, "height": high - 2, "rx": 3.0}
            parts.append(_cell(box, value, low, zero))
            if diagonal and row == column:
                parts.append(tag("rect", class_="frame", **box))
    parts.append(_legend(left, height - 22, low))
    return _picture(title, width, height, *parts)


def _cell(box: dict[str, float], value: float | int | None, low: float, zero: str) -> Html:
    if value is None:
        return tag("rect", class_="empty", **box)
    strength = _strength(value, low)
    drawn = tag(
        "rect", tag("title", f"{value * 100:.1f} %"), class_="cell", fill_opacity=strength, **box
    )
    if box["width"] < 28:
        return drawn
    tone = "low" if strength < 0.6 else "mid" if strength < 0.78 else "high"
    text = f"{value * 100:.0f}" if value else zero
    middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2 + 4.5}
    return join(drawn, tag("text", text, class_=tone, text_anchor="middle", **middle))


def _strength(value: float | int, low: float) -> float:
    share = (value - low) / (1 - low)
    return 0.07 + 0.93 * min(max(share, 0.0), 1.0)


def _legend(x: float, y: float, low: float) -> Html:
    steps = 6
    boxes = [
        tag(
            "rect",
            class_="cell",
            fill_opacity=_strength(low + (1 - low) * index / (steps - 1), low),
            x=x + 44 + 20 * index,
            y=y,
            width=20,
            height=12,
        )
        for index in range(steps)
    ]
    return join(
        tag("text", f"{low * 100:.0f} %", x=x, y=y + 11),
        *boxes,
        tag("text", "100 %", x=x + 52 + 20 * steps, y=y + 11),
    )


def lines(title: str, series: Sequence[Series], width: float = LINE_WIDTH) -> Html:
    """Return accuracies over the number of tasks learned, one line each, named at its end."""
    count = max((len(one.values) for one in series), default=0)
    series = [one for one in series if one.known]
    if not series:
        return tag("p", "There is no accuracy: no test image was at hand.", class_="note")
    values = [value for one in series for _, value in one.known]
    low, high = _bounds(values)
    longest = max(len(_short(one.name)) for one in series)
    left, right, top, bottom = 48.0, 20.0 + 8.5 * longest, 12.0, 46.0

    def place(stage: int, value: float | int) -> tuple[float, float]:
        along = stage / (count - 1) if count > 1 else 0.5
        return (
            left + along * (width - left - right),
            top + (high - value) / (high - low) * (LINE_HEIGHT - top - bottom),
        )

    parts = []
    for value in _ticks(low, high):
        y = place(0, value)[1]
        parts.append(tag("line", class_="rule", x1=left, x2=width - right, y1=y, y2=y))
        parts.append(tag("text", f"{value * 100:.0f} %", x=left - 8, y=y + 4.5, text_anchor="end"))
    for stage in range(0, count, ceil(count / 12)):
        x = place(stage, low)[0]
        parts.append(tag("text", stage + 1, x=x, y=LINE_HEIGHT - 26, text_anchor="middle"))
    parts.append(tag("text", "tasks learned", x=left, y=LINE_HEIGHT - 5))
    ends = [place(*one.known[-1]) for one in series]
    heights = _spread([y for _, y in ends], top, LINE_HEIGHT - bottom)
    for index, one in enumerate(series):
        colour = f"var(--s{index % 8})"
        points = [place(stage, value) for stage, value in one.known]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        # A second round of colours is dashed, each dot names its value, and a line that others
        # will cover is drawn wider.
        covered = sum(list(other.values) == list(one.values) for other in series[index + 1 :])
        style = f"stroke-width:{2.5 + 3 * covered}"
        dashes = None if index < 8 else "7 6"
        parts.append(
            tag(
                "polyline",
                class_="series",
                points=path,
                stroke=colour,
                style=style,
                stroke_dasharray=dashes,
            )
        )
        parts += [
            tag(
                "circle",
                tag("title", f"{one.name}, task {stage + 1}: {value * 100:.1f} %"),
                class_="dot",
                cx=x,
                cy=y,
                r=4 + 2 * covered,
                fill=colour,
            )
            for (stage, value), (x, y) in zip(one.known, points, strict=True)
        ]
        where = {"x": ends[index][0] + 10, "y": heights[index] + 4.5}
        parts.append(tag("text", _short(one.name), class_="name", style=f"fill:{colour}", **where))
    return _picture(title, width, LINE_HEIGHT, *parts)


def bars(title: str, data: Sequence[Bar], axis: str, show: Callable[[float | int], str]) -> Html:
    """Return one bar per task, or per entry of a pool; what was before is drawn paler below.

    Args:
        title: what is shown, for those who do not see it.
        data: the bars.
        axis: what the bars are.
        show: how a height is written.
    """
    left, top, bottom = 2.0, 26.0, 46.0
    tallest = max((bar.value + bar.before for bar in data), default=0.0) or 1.0
    pitch = (LINE_WIDTH - 2 * left) / max(len(data), 1)
    thick = min(pitch * 0.7, 56.0)
    scale = (BAR_HEIGHT - top - bottom) / tallest
    base = BAR_HEIGHT - bottom
    named = ceil(len(data) * 30 / LINE_WIDTH)  # a label needs 30 pixels
    parts = []
    for index, bar in enumerate(data):
        middle = left + pitch * (index + 0.5)
        below, above = bar.before * scale, bar.value * scale
        total = bar.value + bar.before
        hint = tag("title", f"{bar.label}: {show(bar.value)}")
        if below:
            box = {"x": middle - thick / 2, "width": thick, "y": base - below, "height": below}
            parts.append(tag("rect", class_="before", **box))
        box = {"x": middle - thick / 2, "width": thick, "y": base - below - above, "height": above}
        parts.append(tag("rect", hint, class_="bar", **box))
        if index % named == 0:
            parts.append(tag("text", bar.label, x=middle, y=base + 18, text_anchor="middle"))
        if pitch >= 48:
            line = base - below - above - 7
            parts.append(
                tag("text", show(total), class_="value", x=middle, y=line, text_anchor="middle")
            )
    if pitch < 48:
        parts.append(tag("text", f"highest: {show(tallest)}", class_="value", x=left, y=14))
    parts.append(tag("line", class_="rule", x1=left, x2=LINE_WIDTH - left, y1=base, y2=base))
    parts.append(tag("text", axis, x=left, y=BAR_HEIGHT - 5))
    return _picture(title, LINE_WIDTH, BAR_HEIGHT, *parts)


def _picture(title: str, width: float, height: float, *parts: Html) -> Html:
    drawn = tag(
        "svg",
        tag("title", title),
        *parts,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=title,
        style=f"max-width:{width:.0f}px;min-width:{min(width, 300.0 + width / 10):.0f}px",
    )
    return tag("figure", tag("div", drawn, class_="wide"))


def _bounds(values: Sequence[float | int]) -> tuple[float, float]:
    """Return the ends of an accuracy axis, on tenths, at least two tenths apart."""
    low = max(0.0, floor(min(values) * 10 - 0.2) / 10)
    high = min(1.0, ceil(max(values) * 10 + 0.2) / 10)
    if high - low < 0.2:
        low, high = (high - 0.2, high) if high - 0.2 >= 0 else (0.0, 0.2)
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    step = 0.05 if high - low <= 0.25 else 0.1 if high - low <= 0.55 else 0.2
    count = floor((high - low) / step + 1e-6)
    return [low + step * index for index in range(count + 1)]


def _spread(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """Return the heights moved apart, so that names next to them do not overlap."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = list(heights)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + LABEL_GAP)
    over = placed[order[-1]] - bottom
    if over > 0:
        placed = [max(top, height - over) for height in placed]
        for before, after in pairwise(order):
            placed[after] = max(placed[after], placed[before] + LABEL_GAP)
    return placed


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"

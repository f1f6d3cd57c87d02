"""Draw the pictures of README.md, each for light and dark pages, from the recorded results.

With --check nothing is written; the exit code tells whether something would be. The SVG is written
by hand rather than by a plotting package, so that it does not change with a version or a font.
"""

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"
FONT = "-apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
STREAM = "openemoji10"  # the longest stream that both tables have
LONG = "-long"  # ends the names of rows of longer trainings on augmented images


@dataclass(frozen=True)
class Theme:
    """The colours of a page."""

    text: str
    muted: str
    line: str
    panel: str
    images: str  # methods that see images only, and the workstation
    names: str  # methods that also read class names, and what travels


THEMES = {
    "light": Theme("#1f2328", "#59636e", "#d1d9e0", "#f6f8fa", "#0969da", "#bc4c00"),
    "dark": Theme("#f0f6fc", "#9198a1", "#3d444d", "#151b23", "#4493f8", "#f0883e"),
}


@dataclass(frozen=True)
class Method:
    """A method's figures on the stream, means over the seeds."""

    name: str
    names: bool  # it reads class names
    kilobytes: float  # of a later task's update
    accuracy: float  # percent, after the last task
    seeds: int


@dataclass(frozen=True)
class Label:
    """Where a method's name is written, in pixels from its point."""

    dx: float
    dy: float
    anchor: str = "start"
    note: str = ""


LABELS = {
    "cgil": Label(-9, -9, "end"),
    "proof": Label(10, -8, note="old images kept"),
    "clip-lda": Label(11, -3),
    "layup": Label(11, -2),
    "ranpac": Label(9, 15),
    "simplecil": Label(-11, 5, "end"),
    "lda": Label(-11, 5, "end"),
}
QUIET = {
    "zero-shot": Label(0, 20, "middle"),
    "l2p": Label(8, 4),
    "ease": Label(8, 5),
}
CEILING = "joint-prompts"  # the prompts of cgil, trained on the features of every image at once
HIDDEN = {"layup-plain", "ranpac-plain", CEILING}  # the first two coincide with their neighbours


def recorded() -> dict[str, Method]:
    """Return every method that was run on the stream, as it trains by default in the benchmark."""
    found = recorded_on(STREAM, names=False) | recorded_on(STREAM, names=True)
    return {name: each for name, each in found.items() if not name.endswith(LONG)}


def recorded_on(wanted: str, *, names: bool) -> dict[str, Method]:
    """Return the methods without or with class names that were run on a stream."""
    runs = defaultdict(list)
    file = RESULTS / f"{'vlm' if names else 'methods'}.json"
    for key, cell in json.loads(file.read_text())["cells"].items():
        stream, method, _ = key.split("/")
        if stream == wanted and "a_last" in cell:
            runs[method].append(cell)
    found = {}
    for name, cells in runs.items():
        size = statistics.mean(statistics.median(cell["pack_bytes"][1:]) for cell in cells)
        accuracy = statistics.mean(cell["a_last"] for cell in cells)
        found[name] = Method(name, names, size / 1000, 100 * accuracy, len(cells))
    return found


def setting() -> tuple[dict[str, int], dict[str, int]]:
    """Return the settings of the two tables, which must be of the same classes and tasks."""
    both = [
        json.loads((RESULTS / f"{file}.json").read_text())["settings"][STREAM]
        for file in ("methods", "vlm")
    ]
    if any(both[0][key] != both[1][key] for key in ("stream", "tasks", "classes", "test_images")):
        sys.exit(f"methods.json and vlm.json must have run {STREAM} alike, found others. Run both.")
    return both[0], both[1]


def text(x: float, y: float, words: str, **attributes: str | float) -> str:
    """Return a text element; underscores in attributes become hyphens."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(words)}</text>'


def named(x: float, y: float, name: str, words: str, theme: Theme) -> str:
    """Return a name and what it is, on one line in every font."""
    return (
        f'<text x="{x}" y="{y}"><tspan font-weight="600">{name}</tspan>'
        f'<tspan dx="9" fill="{theme.muted}">{words}</tspan></text>'
    )


def svg(width: int, height: int, label: str, body: list[str], theme: Theme) -> str:
    """Return a whole SVG."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="{FONT}" font-size="14" fill="{theme.text}" role="img" '
        f'aria-label="{escape(label)}">'
    )
    return "\n".join([head, *body, "</svg>", ""])


def accuracy(theme: Theme) -> str:
    """Draw accuracy against bytes per task."""
    methods, (images, names) = recorded(), setting()
    best, ceiling = methods["cgil"], methods[CEILING]
    model = json.loads((RESULTS / "update_cost.json").read_text())["bundle_bytes"] / 1000
    width, height, left, right, top, bottom = 830, 450, 48, 818, 86, 388
    low, high = math.log10(5), math.log10(180_000)

    def across(kilobytes: float) -> float:
        return left + (right - left) * (math.log10(kilobytes) - low) / (high - low)

    def up(percent: float) -> float:
        return bottom - (bottom - top) * percent / 90

    title = (
        f"A new task is {best.kilobytes:.0f} KB, not a new {model / 1000:.0f} MB model, "
        f"and {best.accuracy:.0f} % are right"
    )
    subtitle = (
        f"cgil; its prompts trained on everything at once give {ceiling.accuracy:.0f} %. "
        f"{images['classes']} classes in {images['tasks']} tasks, {best.seeds} seeds"
    )
    body = [
        text(0, 20, title, font_size=19, font_weight=600),
        text(0, 42, subtitle, fill=theme.muted, font_size=15),
        text(0, 74, "% right after the last task, among all classes", fill=theme.muted),
    ]
    for percent in (0, 25, 50, 75):
        y = up(percent)
        body.append(f'<path d="M{left} {y:.1f}H{right}" stroke="{theme.line}"/>')
        body.append(text(left - 10, y + 5, str(percent), fill=theme.muted, text_anchor="end"))
    for kilobytes, words in ((10, "10 KB"), (100, "100 KB"), (1e3, "1 MB"), (1e4, "10 MB"),
                             (1e5, "100 MB")):  # fmt: skip
        body.append(
            text(across(kilobytes), bottom + 21, words, fill=theme.muted, text_anchor="middle")
        )
    body.append(
        text((left + right) / 2, bottom + 44,
             f"bytes that a new task ships, median of tasks 2 to {images['tasks']} (log scale)",
             fill=theme.muted, text_anchor="middle")
    )  # fmt: skip
    body += reference_lines(theme, (left, right, top, bottom), across(model), up(ceiling.accuracy))
    for method in sorted(methods.values(), key=lambda each: each.name in LABELS):
        if method.name not in HIDDEN:
            body += point(method, across(method.kilobytes), up(method.accuracy), theme)
    pixels = (images["pixels"], names["pixels"])
    body += legend(theme, across(3_300), up(70), pixels)
    return svg(width, height, f"{title}, {subtitle}", body, theme)


def reference_lines(
    theme: Theme, box: tuple[float, float, float, float], model: float, ceiling: float
) -> list[str]:
    """Return the lines of what a whole model weighs and of training on everything at once."""
    left, right, top, bottom = box
    dashed = f'stroke="{theme.muted}" stroke-dasharray="5 5" fill="none"'
    return [
        f'<path d="M{left} {ceiling:.1f}H{right}" {dashed}/>',
        text(model - 8, ceiling - 8, "prompts, all at once", font_size=13, fill=theme.muted,
             text_anchor="end"),
        f'<path d="M{model:.1f} {top}V{bottom}" {dashed}/>',
        text(model - 8, bottom - 28, "the whole model,", font_size=13, fill=theme.muted,
             text_anchor="end"),
        text(model - 8, bottom - 11, "shipped once", font_size=13, fill=theme.muted,
             text_anchor="end"),
    ]  # fmt: skip


def point(method: Method, x: float, y: float, theme: Theme) -> list[str]:
    """Return a method's mark and, for some, its name."""
    label = LABELS.get(method.name) or QUIET.get(method.name)
    colour = theme.names if method.names else theme.images
    loud = method.name in LABELS
    size, opacity = (6.5, 1) if loud else (4.5, 0.4)
    mark = (
        f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size}" height="{2 * size}" rx="2"'
        if method.names
        else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}"'
    )
    shown = [f'{mark} fill="{colour}" opacity="{opacity}"><title>{describe(method)}</title>'
             f"</{'rect' if method.names else 'circle'}>"]  # fmt: skip
    if label:
        words = method.name + (f" ({label.note})" if label.note else "")
        style = {"font_weight": 600} if loud else {"font_size": 13, "fill": theme.muted}
        shown.append(text(x + label.dx, y + label.dy, words, text_anchor=label.anchor, **style))
    return shown


def describe(method: Method) -> str:
    """Return what a pointer over the mark shows."""
    return f"{method.name}: {method.accuracy:.1f} %, {method.kilobytes:,.0f} KB"


def legend(theme: Theme, x: float, y: float, pixels: tuple[int, int]) -> list[str]:
    """Return what the two marks mean."""
    return [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{theme.images}"/>',
        text(x + 13, y + 5, "sees images only"),
        text(x + 13, y + 21, f"vit-s14, {pixels[0]} px", fill=theme.muted, font_size=13),
        f'<rect x="{x - 6:.1f}" y="{y + 34:.1f}" width="12" height="12" rx="2" '
        f'fill="{theme.names}"/>',
        text(x + 13, y + 45, "also reads class names"),
        text(x + 13, y + 61, f"edgecl-clip-s, {pixels[1]} px", fill=theme.muted, font_size=13),
    ]


def box(
    x: float, y: float, width: float, words: tuple[str, str], theme: Theme, colour: str, fill: str
) -> list[str]:
    """Return a rounded box with a word and what it is."""
    middle = x + width / 2
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="50" rx="8" fill="{fill}" '
        f'stroke="{colour}" stroke-width="1.5"/>',
        text(middle, y + 22, words[0], font_weight=600, text_anchor="middle"),
        text(middle, y + 40, words[1], font_size=13, fill=theme.muted, text_anchor="middle"),
    ]


def arrow(path: str, colour: str) -> str:
    """Return a line that ends in a head."""
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5" '
        'marker-end="url(#head)"/>'
    )


def program(theme: Theme) -> str:
    """Draw how a device computes a label, and what a new task changes."""
    label = (
        "A device computes the label of an image by one exported program: frozen backbone, "
        "matcher, classifier. What was learned are inputs of the program, a pack per task. "
        "The workstation learns a new task with the same program and ships its pack alone."
    )
    body = [
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{theme.muted}"/>'
        "</marker></defs>",
        f'<rect x="1" y="1" width="828" height="262" rx="12" fill="{theme.panel}" '
        f'stroke="{theme.line}"/>',
        named(20, 28, "device", "ONNX Runtime, no PyTorch", theme),
        f'<rect x="140" y="46" width="550" height="106" rx="10" fill="none" '
        f'stroke="{theme.images}" stroke-width="1.5"/>',
        named(158, 70, "program", "one graph from image to scores, exported once", theme),
    ]
    parts = (("backbone", "frozen"), ("matcher", "which tasks?"), ("classifier", "scores"))
    for x, words in zip((158, 338, 518), parts, strict=True):
        body += box(x, 86, 154, words, theme, theme.images, theme.panel)
    body += [
        *(arrow(f"M{x} 111H{x + 24}", theme.muted) for x in (313, 493)),
        f'<rect x="26" y="91" width="50" height="40" rx="4" fill="none" stroke="{theme.muted}" '
        'stroke-width="1.5"/>',
        f'<circle cx="40" cy="104" r="4" fill="{theme.muted}"/>',
        f'<path d="M28 128L46 112L56 121L64 114L74 124" fill="none" stroke="{theme.muted}" '
        'stroke-width="1.5"/>',
        text(51, 150, "image", text_anchor="middle"),
        arrow("M84 111H155", theme.muted),
        arrow("M672 111H738", theme.muted),
        text(746, 116, "label", font_weight=600),
        text(20, 214, "learned,", font_weight=600),
        text(20, 232, "a pack per task", fill=theme.muted),
    ]
    body += packs(theme)
    body += [
        text(686, 214, "new inputs,", fill=theme.names, font_weight=600),
        text(686, 232, "the same graph", fill=theme.names, font_weight=600),
        arrow("M635 300V239", theme.muted),
        text(650, 287, "kilobytes", fill=theme.muted),
        f'<rect x="1" y="302" width="828" height="46" rx="12" fill="none" '
        f'stroke="{theme.line}"/>',
        named(20, 331, "workstation",
              "PyTorch trains the inputs of the same program on the images of task 6", theme),
    ]  # fmt: skip
    return svg(830, 350, label, body, theme)


def packs(theme: Theme) -> list[str]:
    """Return the row of packs, each an input of the program; the last one is new."""
    shown = []
    for x, name in ((158, "pack 1"), (268, "pack 2"), (378, "…"), (488, "pack 5"), (598, "pack 6")):
        if name == "…":
            shown.append(text(x + 37, 222, name, text_anchor="middle", fill=theme.muted))
            continue
        new = name == "pack 6"
        shown += [
            f'<rect x="{x}" y="200" width="74" height="36" rx="6" fill="none" '
            f'stroke="{theme.names if new else theme.images}" '
            f'stroke-width="{2.5 if new else 1.5}"/>',
            text(x + 37, 223, name, text_anchor="middle", font_weight=600 if new else 400),
            arrow(f"M{x + 37} 200V155", theme.muted),
        ]
    return shown


def pictures() -> dict[Path, str]:
    """Return what each file should hold."""
    return {
        PICTURES / f"{name}-{mode}.svg": draw(theme)
        for name, draw in {"accuracy": accuracy, "program": program}.items()
        for mode, theme in THEMES.items()
    }


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for path, drawn in pictures().items():
        current = path.read_text(encoding="utf-8") if path.exists() else ""
        if check and current != drawn:
            sys.exit(
                f"{path.name} must be drawn from the recorded results, found another. "
                "Run `make docs`."
            )
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Record README.md's tour in a real terminal and write it as one animated SVG.

The commands run in a new folder, in a pseudo terminal, and what they print is kept with its times.
A pause longer than PAUSE seconds is cut, and a command that then takes longer than LONGEST is shown
faster. Prompts and comments are drawn here. It takes a few minutes; `make record` runs it.
"""

import argparse
import codecs
import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

import pyte

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "pictures" / "tour.svg"
COLUMNS, ROWS = 96, 25
NEW = "images/test/task_05/*/*.png"
SETUP = "edgecl data unpack emoji-demo images"  # not shown
COMMANDS = (
    "# the workstation learns 50 classes in 5 tasks, on a frozen backbone",
    "edgecl train simplecil --stream images --tasks 5 --out run",
    "# the backbone is exported once, then what was learned",
    "edgecl export bundle run -o bundle",
    "edgecl export pack run -o packs",
    "edgecl export release packs --bundle bundle -o release-5",
    "# the device, without PyTorch; it does not know these ten things yet",
    f"edgecl-device classify bundle release-5 --top 1 {NEW}",
    "# one task more, from its images alone: one small pack, the same bundle",
    "edgecl learn run images/train/task_05",
    "edgecl export pack run -o packs",
    "edgecl export release packs --bundle bundle -o release-6",
    f"edgecl-device classify bundle release-6 --top 1 {NEW}",
)
PAUSE = 0.8  # seconds; longer ones are cut
LONGEST = 3.0  # seconds of one command; longer ones are shown faster
READ = 1.2  # seconds that a command is shown before it runs, and a comment
HOLD = 6.0  # seconds that the last picture stays
FRAME = 0.12  # seconds at least between two pictures

WIDTH, HEIGHT, PAD, BAR = 8.6, 19, 14, 28  # of a cell, around the screen, of the title bar
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
BACKGROUND, FOREGROUND, MUTED = "#0d1117", "#e6edf3", "#8b949e"
COLOURS = {
    "black": "#484f58", "red": "#ff7b72", "green": "#3fb950", "brown": "#d29922",
    "blue": "#58a6ff", "magenta": "#bc8cff", "cyan": "#39c5cf", "white": "#b1bac4",
    "brightblack": "#6e7681", "brightred": "#ffa198", "brightgreen": "#56d364",
    "brightyellow": "#e3b341", "brightbrown": "#e3b341", "brightblue": "#79c0ff",
    "brightmagenta": "#d2a8ff", "brightcyan": "#56d4dd", "brightwhite": "#ffffff",
}  # fmt: skip

Event = tuple[float, str]  # seconds since the former one, and what the terminal receives


@dataclass(frozen=True)
class Run:
    """Neighbouring cells of one style."""

    column: int
    text: str
    colour: str
    background: str | None
    bold: bool


Line = tuple[Run, ...]
Picture = tuple[Line, ...]


def record(folder: Path) -> list[Event]:
    """Run the commands in a folder; return what a terminal receives."""
    subprocess.run(["bash", "-c", SETUP], cwd=folder, env=environment(), check=True)
    events: list[Event] = []
    for command in COMMANDS:
        if command.startswith("#"):
            events.append((READ, f"\x1b[90m{command}\x1b[0m\r\n"))
            continue
        events += [(READ, f"\x1b[92m$\x1b[0m \x1b[1m{command}\x1b[0m\r\n"), (READ / 2, "")]
        status, printed = output(command, folder)
        if status:
            text = "".join(text for _, text in printed)
            sys.exit(f"`{command}` must succeed, but ended with {status}:\n{text[-2000:]}")
        events += [*shortened(printed), (0.0, "\r\n")]
    return [(0.0, events[0][1]), *events[1:]]  # nothing is gained by an empty screen


def shortened(printed: list[Event]) -> list[Event]:
    """Cut long pauses, and speed up what is longer than LONGEST all the same."""
    cut = [(min(pause, PAUSE), text) for pause, text in printed]
    speed = max(1.0, sum(pause for pause, _ in cut) / LONGEST)
    return [(pause / speed, text) for pause, text in cut]


def environment() -> dict[str, str]:
    """Return the environment of the commands: this Python's own, in a colour terminal."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    quiet = {"PATH": path, "TERM": "xterm-256color", "ORT_DISABLE_TELEMETRY": "1"}
    return {name: value for name, value in os.environ.items() if name != "COLUMNS"} | quiet


def output(command: str, folder: Path) -> tuple[int, list[Event]]:
    """Run a command in a pseudo terminal; return its exit status and what it prints."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env=environment(), start_new_session=True,
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    printed: list[Event] = []
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    before = time.monotonic()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        while True:
            try:
                chunk = terminal.read(65536)
            except OSError:  # Linux says so that the other end is closed
                break
            if not chunk:
                break
            now = time.monotonic()
            printed.append((now - before, decode(chunk)))
            before = now
    return process.wait(), printed


def pictures(events: list[Event]) -> Iterator[tuple[float, Picture]]:
    """Yield each picture of the screen with the seconds that it is shown."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    shown, current = 0.0, picture(screen)
    for pause, text in [*events, (HOLD, "")]:
        shown += pause
        stream.feed(text)
        following = picture(screen)
        if following != current and shown >= FRAME:
            yield shown, current
            shown, current = 0.0, following
        elif shown < FRAME:
            current = following
    yield shown, current


def picture(screen: pyte.Screen) -> Picture:
    """Return what the screen shows."""
    return tuple(line(screen, row) for row in range(screen.lines))


def line(screen: pyte.Screen, row: int) -> Line:
    """Return a row as runs of one style, without the blanks that nothing colours."""
    cells = [screen.buffer[row][column] for column in range(screen.columns)]
    runs = []
    for style, group in groupby(enumerate(cells), key=lambda cell: look(cell[1])):
        found = list(group)
        text = "".join(cell.data for _, cell in found)
        colour, background, bold = style
        start = found[0][0] + len(text) - len(text.lstrip()) if background is None else found[0][0]
        text = text.strip() if background is None else text
        if text:
            runs.append(Run(start, text, colour, background, bold))
    return tuple(runs)


def look(cell: pyte.screens.Char) -> tuple[str, str | None, bool]:
    """Return colour, background and weight of a cell."""
    front, back = hexadecimal(cell.fg), hexadecimal(cell.bg)
    if cell.reverse:
        return back or BACKGROUND, front or FOREGROUND, cell.bold
    return front or FOREGROUND, back, cell.bold


def hexadecimal(colour: str) -> str | None:
    """Return a terminal's colour as SVG wants it; None for the default."""
    return None if colour == "default" else COLOURS.get(colour, f"#{colour}")


def animate(film: list[tuple[float, Picture]]) -> str:
    """Return the SVG: the pictures one below the other, moved in steps behind a window."""
    names: dict[Line, str] = {}
    strip: list[str] = []
    for index, (_, shown) in enumerate(film):
        uses = [
            f'<use href="#{names.setdefault(each, f"l{len(names)}")}" y="{row * HEIGHT}"/>'
            for row, each in enumerate(shown)
            if each
        ]
        strip.append(f'<g transform="translate(0 {index * ROWS * HEIGHT})">{"".join(uses)}</g>')
    width, height = COLUMNS * WIDTH, ROWS * HEIGHT
    whole = (round(width + 2 * PAD), round(height + BAR + PAD))
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {whole[0]} {whole[1]}" '
        f'font-family="{FONT}" font-size="14" fill="{FOREGROUND}" role="img" '
        f'aria-label="{escape(label())}">',
        style(film, height),
        f'<rect x=".5" y=".5" width="{whole[0] - 1}" height="{whole[1] - 1}" rx="9" '
        f'fill="{BACKGROUND}" stroke="{COLOURS["brightblack"]}"/>',
        *(f'<circle cx="{x}" cy="15" r="5" fill="{COLOURS["black"]}"/>' for x in (20, 38, 56)),
        "<defs>",
        *(f'<g id="{name}">{"".join(map(drawn, each))}</g>' for each, name in names.items()),
        "</defs>",
        f'<svg x="{PAD}" y="{BAR}" width="{width:.0f}" height="{height}"><g class="film">',
        *strip,
        "</g></svg></svg>",
        "",
    ])  # fmt: skip


def style(film: list[tuple[float, Picture]], height: int) -> str:
    """Return the animation; who wants less motion sees the last picture."""
    total = sum(seconds for seconds, _ in film)
    steps, at = [], 0.0
    for index, (seconds, _) in enumerate(film):
        steps.append(f"{100 * at / total:.2f}%{{transform:translateY(-{index * height}px)}}")
        at += seconds
    last = f"transform:translateY(-{(len(film) - 1) * height}px)"
    return (
        f"<style>.film{{{last};animation:film {total:.1f}s "
        f"step-end infinite}}@keyframes film{{{''.join(steps)}100%{{{last}}}}}"
        "@media (prefers-reduced-motion:reduce){.film{animation:none}}</style>"
    )


def drawn(run: Run) -> str:
    """Return a run's SVG; its length is fixed, so that columns meet in every font."""
    x, length = run.column * WIDTH, len(run.text) * WIDTH
    box = (
        f'<rect x="{x:.1f}" width="{length:.1f}" height="{HEIGHT}" fill="{run.background}"/>'
        if run.background
        else ""
    )
    colour = "" if run.colour == FOREGROUND else f' fill="{run.colour}"'
    weight = ' font-weight="600"' if run.bold else ""
    text = escape(run.text).replace(" ", "\u00a0")  # which nothing draws together
    return (
        f'{box}<text x="{x:.1f}" y="14.5" textLength="{length:.1f}" '
        f'lengthAdjust="spacingAndGlyphs"{colour}{weight}>{text}</text>'
    )


def label() -> str:
    """Return in words what the recording shows."""
    return "A terminal: " + "; ".join(each.lstrip("# ") for each in COMMANDS)


def main() -> None:
    """Record and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        events = record(Path(folder))
    film = list(pictures(events))
    out.write_text(animate(film), encoding="utf-8")
    seconds = sum(shown for shown, _ in film)
    print(f"{out}: {len(film)} pictures, {seconds:.0f} s, {out.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()

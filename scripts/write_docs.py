"""Write what the documents take from code and results: tables and docs/methods.md.

With --check nothing is written; the exit code says whether something would be.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from draw_pictures import recorded, setting
from which_method import tables

from edgecl.catalogue import HEADING, STATUS, Entry, catalogue
from edgecl.methods import Method, methods
from edgecl.optim import Later, TrainConfig

ROOT = Path(__file__).parent.parent
RECOMMENDED = {
    "simplecil": "updates must be smallest: one row per class, nothing is trained",
    "lda": "images are all you have, and packs must be small",
    "ranpac": "images are all you have, and a task must be learned in about a second",
    "layup": "images are all you have; leads all four of our streams",
    "clip-lda": "the class names mean something: on a CLIP, a closed form, keeps no image",
    "cgil": "they do, and a device shall learn a class from its name",
    "proof": "they do, and old images may be kept on the workstation",
}
FIELDS = ("Injection", "Matcher", "Classifier", "Differs from the paper")
INTRO = """# Methods

Made from the registry by `make docs`; do not edit. Every method runs on the one path: it trains by
the same loop, is exported as a program whose learned tensors are inputs, ships as packs, and is
verified equal on the device.
"""
RESULTS = "../benchmarks/results"
FIGURES = (
    f"[steps]({RESULTS}/mathematics.md), [accuracy]({RESULTS}/fidelity.md), "
    f"[of DIKI and CGIL]({RESULTS}/fidelity_vlm.md)"
)


def facts(method: type[Method]) -> dict[str, str]:
    """Return the fields of a method module's docstring."""
    text = sys.modules[method.__module__].__doc__ or ""
    pattern = rf"^({'|'.join(FIELDS)}):(.*?)(?=^(?:{'|'.join(FIELDS)}):|\Z)"
    found = re.findall(pattern, text, flags=re.DOTALL | re.MULTILINE)
    return {name: " ".join(value.split()) for name, value in found}


def table() -> str:
    """Return the table of README.md: where to begin, with recorded figures."""
    results, (images, names) = recorded(), setting()
    lines = ["| method | begin with it when | right | KB a task |", "|---|---|---:|---:|"]
    for name, reason in RECOMMENDED.items():
        found = results[name]
        link = f"[`{name}`](docs/methods.md#{anchor(listed(name))})"
        figures = f"{found.accuracy:.1f} % | {found.kilobytes:.0f}"
        lines.append(f"| {link} | {reason} | {figures} |")
    return "\n".join([
        *lines,
        "",
        f"Right among all {images['classes']} classes after {images['tasks']} tasks, and the "
        f"median pack of tasks 2 to {images['tasks']} (and up to 6.7 KB a class that tell images "
        f"of no class), means of {found.seeds} seeds: images alone "
        f"on [vit-s14, {images['pixels']} px](benchmarks/results/methods.md), by name on "
        f"[edgecl-clip-s, {names['pixels']} px](benchmarks/results/vlm.md).",
    ])  # fmt: skip


def listed(name: str) -> Entry:
    """Return a method's entry of the catalogue."""
    return next(each for each in catalogue() if each.name == name)


def anchor(entry: Entry) -> str:
    """Return the anchor of a method's section, as GitHub makes it of the heading."""
    kept = re.sub(r"[^\w\- ]", "", f"{entry.title} ({entry.name})".lower())
    return kept.replace(" ", "-")


def overview() -> str:
    """Return the table of docs/methods.md."""
    rows = [each.row() for each in catalogue()]
    lines = [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    passes = "Passes are runs of the backbone per image; T is the number of tasks."
    return "\n".join(["", *lines, "", f"{passes} {HEADING} {STATUS} Figures: {FIGURES}.", ""])


def page() -> str:
    """Return docs/methods.md."""
    return INTRO + overview() + schedules() + "".join(section(each) for each in catalogue())


def schedules() -> str:
    """Return the table of what a schedule is, from its fields and their comments."""
    source = inspect.getsource(TrainConfig)
    fields = re.findall(r"^    (\w+): .+ = (.+?)(?:  # (.*))?$", source, flags=re.MULTILINE)
    rows = [f"| `{name}` | `{value}` | {about} |" for name, value, about in fields]
    head = ["| field of a schedule | default | meaning |", "|---|---|---|"]
    words = "`--set schedule.NAME=VALUE` changes one; a method names what differs in its own."
    *most, last = (f"`{name}`" for name in vars(Later()))
    words += f" Tasks after the first may have their own {', '.join(most)} and {last}, by"
    words += " `--set schedule.later.NAME=VALUE`."
    words += " `bits`, `badam` and `memory_by` are [policies](policies.md)."
    return "\n".join([*head, *rows, "", words, ""])


def section(entry: Entry) -> str:
    """Return one method's part of the page."""
    method = methods()[entry.name]
    passes = "one pass" if entry.passes == "1" else f"{entry.passes} passes"
    lines = [
        f"\n## {entry.title} (`{entry.name}`)\n",
        f"<{entry.paper}>, {entry.family}, {passes}",
        "",
        *(f"- {field}: {text}" for field, text in facts(method).items()),
    ]
    notes = ROOT / "docs" / "notes" / f"{entry.name}.md"  # what was measured, by hand
    if notes.exists():
        return "\n".join([*lines, *settings(method), "", notes.read_text(encoding="utf-8")])
    return "\n".join([*lines, *settings(method)]) + "\n"


def settings(method: type[Method]) -> Iterator[str]:
    """Yield the configuration with its defaults."""
    fields = vars(method.config_type())
    if fields:
        shown = ", ".join(f"`{key}={written(value)}`" for key, value in fields.items())
        yield f"- Configuration: {shown}"
    if method.augmentation != "none":
        yield f"- Augmentation of public code: [`{method.augmentation}`](augmentation.md)"


def written(value: object) -> str:
    """Return a value of a configuration; of a schedule what differs from the defaults."""
    if not isinstance(value, TrainConfig):
        return repr(value)
    own, default = vars(value), vars(TrainConfig())
    shown = [f"{key}={each!r}" for key, each in own.items() if each != default[key]]
    return f"TrainConfig({', '.join(shown)})"


def documents() -> dict[Path, str]:
    """Return what each file should hold."""
    readme, which = ROOT / "README.md", ROOT / "docs" / "which-method.md"
    return {
        readme: with_block(readme, table()),
        which: with_block(which, tables(anchor)),
        ROOT / "docs" / "methods.md": page(),
    }


def with_block(path: Path, block: str) -> str:
    """Return a document with what stands between its two marks replaced."""
    marked = f"<!-- methods -->\n{block}\n<!-- /methods -->"
    text = path.read_text(encoding="utf-8")
    return re.sub(r"<!-- methods -->.*<!-- /methods -->", lambda _: marked, text, flags=re.DOTALL)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for path, text in documents().items():
        current = path.read_text(encoding="utf-8") if path.exists() else ""
        if check and current != text:
            sys.exit(
                f"{path.name} must agree with the registry and the results, but differs. "
                "Run `make docs`."
            )
        if not check:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

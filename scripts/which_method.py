"""The table of docs/which-method.md: what each method needs and does, and what was recorded."""

from collections.abc import Callable, Mapping

from draw_pictures import LONG, Method, recorded_on

from edgecl.catalogue import KINDS, Entry, catalogue, size

STREAMS = {  # by whether methods read class names
    False: ("digits", "emoji-demo", "fashion-mnist", "openemoji10"),
    True: ("mtil-mini-1", "openemoji10"),
}
SEEDS = 3  # of a whole figure
Results = Mapping[str, Mapping[str, Method]]  # by stream and method


def is_best(own: Method, among: Mapping[str, Method]) -> bool:
    """Return whether no other method is as accurate with smaller packs, or better with equal."""
    figures = (own.accuracy, own.kilobytes)
    return not any(
        other.accuracy >= own.accuracy
        and other.kilobytes <= own.kilobytes
        and (other.accuracy, other.kilobytes) != figures
        for other in among.values()
    )


def figure(own: Method, among: Mapping[str, Method]) -> str:
    """Return a method's accuracy, with the number of its seeds where they are fewer than all."""
    seeds = f" ({own.seeds})" if own.seeds < SEEDS else ""
    shown = f"{own.accuracy:.1f}"
    return f"**{shown}**{seeds}" if is_best(own, among) else f"{shown}{seeds}"


def row(entry: Entry, anchor: str, results: Results) -> tuple[float, str]:
    """Return the row of a method, and what rows are ordered by."""
    ships = size(sum(entry.ships[kind].bytes for kind in KINDS if kind != "once"))
    named = f"[`{entry.name}`](methods.md#{anchor})"
    cells = [named, entry.passes, ships, entry.forgets, entry.enrols or ""]
    total = 0.0
    for found in results.values():
        if entry.name not in found:
            cells.append("")
            continue
        own = found[entry.name]
        total += own.accuracy
        cells.append(figure(own, found))
        if entry.name + LONG in found:
            cells[-1] += f"; {figure(found[entry.name + LONG], found)}"
    return -total, f"| {' | '.join(cells)} |"


def tables(anchor: Callable[[Entry], str]) -> str:
    """Return both tables, of methods without and with class names.

    Args:
        anchor: returns that of a method's section in docs/methods.md.
    """
    every = catalogue()
    known = {each.name for each in every}
    parts = []
    for names, streams in STREAMS.items():
        results = {
            stream: {
                name: each
                for name, each in recorded_on(stream, names=names).items()
                if name.removesuffix(LONG) in known
            }
            for stream in streams
        }
        head = ["method", "passes", "a task", "forgets", "enrols", *results]
        entries = [each for each in every if each.reads_names == names]
        rows = sorted(row(each, anchor(each), results) for each in entries)
        title = "With class names, on a CLIP" if names else "On images alone"
        aligned = "|---|---|---:|---|---|" + "---:|" * len(results)
        parts += [f"### {title}", "", f"| {' | '.join(head)} |", aligned]
        parts += [*(line for _, line in rows), ""]
    return "\n".join(parts)

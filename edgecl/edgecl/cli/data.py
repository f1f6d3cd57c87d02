"""The commands of data sets: `edgecl data`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from edgecl.cli.printing import given, layout_line, print_files, print_path, print_rows
from edgecl.streams import STREAM_PROTOCOLS
from edgecl.streams.command_line import stream_options
from edgecl_deploy.console import (
    json_option,
    max_pixels_option,
    path_type,
    print_json,
    quiet_option,
    reporter_for,
)

if TYPE_CHECKING:
    from edgecl.streams.folders.check import Check

CLASSES_SHOWN = 50


@click.group()
def data() -> None:
    """Data sets."""


@data.command("fetch")
@click.argument("name", type=click.Choice(["openemoji10"]))
@quiet_option
@json_option
def data_fetch(name: str, quiet: bool, as_json: bool) -> None:
    """Fetch NAME with npm, check its digests, rasterise and cache it."""
    from edgecl.streams import fetch_openemoji10

    reporter = reporter_for(as_json, quiet)
    with reporter.bar(name, 100) as advance:
        seen = 0

        def progress(step: str, done: int, total: int) -> None:
            nonlocal seen
            percent = 100 * done // max(1, total)
            advance(max(0, percent - seen))
            seen = max(seen, percent)

        path = fetch_openemoji10(progress=progress)
    print_path(name, path, as_json)


@data.command("check")
@click.argument("folder", type=path_type)
@click.option("--protocol", type=click.Choice(list(STREAM_PROTOCOLS)), help="As of `edgecl train`.")
@click.option("--test-fraction", type=float, default=0.2, show_default=True)
@click.option("--seed", type=int, default=1993, show_default=True, help="Of the held-out images.")
@max_pixels_option
@quiet_option
@json_option
def data_check(folder: Path, quiet: bool, as_json: bool, **asked: Any) -> None:
    """Look at a FOLDER of images, or a table of them, and learn nothing.

    Prints the layout, the images of each class and task, their sizes, and what to look at: files
    that cannot be read, copies, images of one colour, and images that are out of line.
    """
    from edgecl.streams.folders.check import check_folder

    found = check_folder(folder, reporter=reporter_for(as_json, quiet), **asked)
    if as_json:
        print_json(asdict(found))
    else:
        print_check(found)


@data.command("unpack")
@click.argument("stream")
@click.argument("out", type=path_type)
@click.option("--protocol", type=click.Choice(list(STREAM_PROTOCOLS)))
@click.option("--seed", type=int, default=1993, show_default=True, help="Of the class order.")
@stream_options
@json_option
def data_unpack(stream: str, out: Path, seed: int, as_json: bool, **shape: Any) -> None:
    """Write STREAM as folders OUT/train/task_00/CLASS/*.png and OUT/test/..."""
    from edgecl.streams import load_stream, unpack

    count = unpack(load_stream(stream, seed=seed, **given(shape)), out)
    if as_json:
        print_json({"path": str(out), "images": count})
    else:
        click.echo(f"{count} images in {out}")


def print_check(found: "Check") -> None:
    """Print what a check of a folder found."""
    click.echo(layout_line(found.files))
    rows = [asdict(each) for each in found.classes[:CLASSES_SHOWN]]
    if not any(row["task"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "task"} for row in rows]
    print_rows(rows, as_json=False)
    if (more := len(found.classes) - CLASSES_SHOWN) > 0:
        click.echo(f"... {more} classes more: --json has all")
    sizes = found.sizes
    small, middle, large = (
        f"{width} x {height}" for width, height in (sizes.smallest, sizes.median, sizes.largest)
    )
    modes = ", ".join(f"{count} {mode}" for mode, count in sizes.modes.items())
    click.echo(f"sizes: {small} to {large}, median {middle}; {sizes.bytes / 1e6:.1f} MB; {modes}")
    for reason in found.findings:
        more_names = ", ..." if reason.count > len(reason.first) else ""
        click.echo(f"look at: {reason.count} {reason.why}: {', '.join(reason.first)}{more_names}")
    print_files(found.files)

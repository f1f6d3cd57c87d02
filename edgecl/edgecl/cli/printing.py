"""What the commands of the learner print alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.console import Console
from rich.table import Table

from edgecl_deploy.console import print_json

if TYPE_CHECKING:
    from edgecl.streams import Files


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def layout_line(files: "Files") -> str:
    """Return how a folder was understood."""
    return f"{files.root}: {files.layout}, {files.total} files"


def print_files(files: "Files") -> None:
    """Print what became of every file of a folder."""
    click.echo(
        f"files: {files.total} in {files.root} ({files.layout}): {files.training} training images, "
        f"{files.test} test images"
    )
    for word, reasons in (("skipped", files.skipped), ("ignored", files.ignored)):
        for reason in reasons:
            more = ", ..." if reason.count > len(reason.first) else ""
            names = f": {', '.join(reason.first)}{more}" if reason.first else ""
            click.echo(f"  {reason.count} {word}, {reason.why}{names}")
    for note in files.notes:
        click.echo(f"  note: {note}")


def print_path(name: str, path: Path, as_json: bool) -> None:
    """Print where something was stored."""
    if as_json:
        print_json({"name": name, "path": str(path)})
    else:
        click.echo(str(path))


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows of equal keys as a table, or as JSON."""
    if as_json:
        print_json(rows)
        return
    table = Table()
    for column, name in enumerate(rows[0] if rows else ()):
        # What a user types is on one line; the rest is folded, never cut.
        table.add_column(name, no_wrap=column == 0, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)

"""The commands of the life of a run: `edgecl undo`, `classes` and `runs`.

None of them loads a backbone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from edgecl.cli import keep_option, no_wait_option
from edgecl_deploy.console import json_option, path_type, print_json

if TYPE_CHECKING:
    from edgecl.learning.overview import RunFacts
    from edgecl.learning.runs import Run


def opened(run: Path, no_wait: bool) -> "Run":
    """Open a run that is to be changed."""
    from edgecl.learning.runs import Run

    found = Run.open(run)
    found.wait = not no_wait
    return found


def kept(count: int) -> str:
    """Return the size of what is kept for `undo`."""
    from edgecl.catalogue import size

    return size(count) or "0 B"


def print_wide(rows: list[dict[str, Any]]) -> None:
    """Print rows of equal keys as columns; a narrow terminal wraps them, and nothing is cut."""
    from rich.cells import cell_len

    lines = [[name.replace("_", " ") for name in rows[0]]]
    lines += [[str("" if value is None else value) for value in row.values()] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, strict=True)
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in cells)
        click.echo("  ".join(padded).rstrip())


@click.command()
@click.argument("run", type=path_type)
@keep_option
@no_wait_option
@json_option
def undo(run: Path, keep: int | None, no_wait: bool, as_json: bool) -> None:
    """Take the last task of RUN back: RUN is what it was before it, byte for byte."""
    from edgecl.session import undo as take_back

    found = opened(run, no_wait)
    record = take_back(found, keep)
    facts: dict[str, Any] = {
        "run": str(run),
        "taken_back": record.name,
        "classes": list(record.classes),
        "tasks": len(found),
        "undoable": found.undoable(),
        "kept_bytes": found.kept_bytes(),
    }
    if as_json:
        print_json(facts)
    else:
        click.echo(
            f"task {record.task} ({record.name}) is taken back, {len(found)} are left; "
            f"{facts['undoable']} more can be, {kept(facts['kept_bytes'])} kept for that and for "
            "`edgecl forget`"
        )


@click.group()
def classes() -> None:
    """The classes of a run, and their names."""


@classes.command("list")
@click.argument("run", type=path_type)
@json_option
def classes_list(run: Path, as_json: bool) -> None:
    """List the classes of RUN: the tasks that brought them, rows, images."""
    from edgecl.learning.changes import classes_of
    from edgecl.learning.runs import Run

    found = [each.to_json() for each in classes_of(Run.open(run).records())]
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo(f"{run} has no task yet, so no class")
        return
    for row in found:
        row["tasks"] = ", ".join(map(str, row["tasks"]))
        row["learned_as"] = ", ".join(row["learned_as"])
    print_wide(found)


@classes.command("rename")
@click.argument("run", type=path_type)
@click.argument("old")
@click.argument("new")
@no_wait_option
@json_option
def classes_rename(run: Path, old: str, new: str, no_wait: bool, as_json: bool) -> None:
    """Give the class OLD of RUN the name NEW; no tensor changes, devices show it once released."""
    from edgecl.learning.changes import rename_class
    from edgecl.session import refresh

    found = opened(run, no_wait)
    with found.writing():
        stored = rename_class(found, old, new)
        refresh(found)
    print_change(found, f"{old} is {stored} now", {"old": old, "new": stored}, as_json)


@classes.command("merge")
@click.argument("run", type=path_type)
@click.argument("one", metavar="FROM")
@click.argument("into")
@no_wait_option
@json_option
def classes_merge(run: Path, one: str, into: str, no_wait: bool, as_json: bool) -> None:
    """Let the class FROM of RUN be a part of INTO: the rows of both decide, the best one wins."""
    from edgecl.learning.changes import merge_classes
    from edgecl.session import refresh

    found = opened(run, no_wait)
    with found.writing():
        merge_classes(found, one, into)
        refresh(found)
    print_change(found, f"{one} is a part of {into} now", {"from": one, "into": into}, as_json)


def print_change(run: "Run", text: str, facts: dict[str, Any], as_json: bool) -> None:
    """Print what was changed, and how devices get it."""
    if as_json:
        print_json({"run": str(run.path), **facts})
    else:
        click.echo(
            f"{text}; devices show it with the next release: `edgecl export pack {run.path} -o "
            "PACKS`, then `edgecl export release PACKS --number N`"
        )


@click.group()
def runs() -> None:
    """The runs of a folder."""


@runs.command("list")
@click.argument("folder", type=path_type)
@json_option
def runs_list(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER and in its folders: method, tasks, accuracy, size, date."""
    from edgecl.learning.overview import find_runs, run_facts

    found = [run_facts(path) for path in find_runs(folder)]
    if as_json:
        print_json([facts.to_json() for facts in found])
    elif found:
        print_wide([row_of(facts, folder) for facts in found])
    else:
        click.echo(f"no run in {folder}")


def row_of(facts: "RunFacts", folder: Path) -> dict[str, Any]:
    """Return a run as a row for people."""
    from edgecl.catalogue import size

    path = Path(facts.path)
    return {
        "run": str(path.relative_to(folder)) if path != folder else str(path),
        "method": facts.method,
        "stream": Path(facts.stream).name,
        "tasks": f"{facts.tasks} of {max(facts.tasks, facts.stream_tasks)}",
        "classes": facts.classes,
        "A_last": "" if facts.a_last is None else f"{100 * facts.a_last:.1f} %",
        "size": size(facts.size),
        "undo": facts.undoable,
        "kept": kept(facts.kept_bytes),
        "date": facts.changed[:10],
        "locked by": facts.locked_by or "",
        "damage": facts.damage or "",
    }


@runs.command("show")
@click.argument("run", type=path_type)
@json_option
def runs_show(run: Path, as_json: bool) -> None:
    """Show RUN and its tasks."""
    from edgecl.learning.overview import run_facts, task_rows

    facts, tasks = run_facts(run), task_rows(run)
    if as_json:
        print_json({**facts.to_json(), "of_tasks": tasks})
        return
    for name, value in row_of(facts, run).items():
        click.echo(f"{name}: {value}")
    if tasks:
        print_wide([{**row, "classes": ", ".join(row["classes"])} for row in tasks])

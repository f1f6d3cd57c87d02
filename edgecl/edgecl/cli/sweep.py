"""`edgecl sweep`: many trainings from one file, with a table that lives."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from edgecl_deploy.console import json_option, path_type, print_json, quiet_option

if TYPE_CHECKING:
    from edgecl.sweep import Group, Status, Sweep

ROWS = 20  # of the table that lives


@click.command()
@click.argument("file", type=path_type)
@click.option("--out", type=path_type, required=True, help="The folder of the runs.")
@click.option("--gpus", metavar="0,1", help="GPUs by number: a training at a time on each.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Trainings at a time without --gpus.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="What PyTorch computes on.  [default: cuda with --gpus, else auto]",
)
@click.option("--dry-run", is_flag=True, help="Print the trainings, and run nothing.")
@quiet_option
@json_option
@click.pass_context
def sweep(
    ctx: click.Context,
    /,
    file: Path,
    out: Path,
    gpus: str | None,
    jobs: int,
    device: str | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run every training of FILE; one that fails stops no other, and a second call goes on.

    FILE is JSON: methods, streams and seeds, each with each. The runs are in OUT, one folder each,
    what they print is in OUT/logs. Ends with 1 if a training failed.
    """
    from edgecl.report import write_comparison
    from edgecl.sweep import Sweep, read_plan, summed

    cells = read_plan(file)
    if dry_run:
        rows = [{"name": cell.name, "train": list(cell.words)} for cell in cells]
        if as_json:
            print_json(rows)
        else:
            for cell in cells:
                click.echo(f"{cell.name}: edgecl train {' '.join(cell.words)}")
        return
    if gpus is not None and device not in {None, "cuda"}:
        raise click.UsageError(f"--gpus is of --device cuda, got {device}. Leave one of them out.")
    device = device or ("auto" if gpus is None else "cuda")
    chosen = () if gpus is None else tuple(gpus.split(","))
    made = Sweep(cells, out, gpus=chosen, jobs=jobs, options=["--device", device])
    with told_when_stopped(made), shown(quiet or as_json) as look:
        found = made.run(look)
    groups = summed(cells, out)
    done = [made.run_of(each.cell) for each in found if each.state == "done"]
    page = write_comparison(done, out / "report.html") if done else None
    if as_json:
        print_json({
            "trainings": [row_of(each) for each in found],
            "groups": [group.to_json() for group in groups],
            "report": None if page is None else str(page),
        })
    else:
        print_groups(groups)
        if page is not None:
            click.echo(f"report: {page}")
    failed = [each for each in found if each.state == "failed"]
    for each in failed:
        click.echo(f"{each.cell.name} failed: {each.why} ({made.log_of(each.cell)})", err=True)
    ctx.exit(1 if failed else 0)


def row_of(status: "Status") -> dict[str, Any]:
    """Return a training's state as JSON."""
    facts = vars(status) | {"name": status.cell.name, "seconds": round(status.seconds, 1)}
    del facts["cell"]
    return facts


@contextmanager
def told_when_stopped(made: "Sweep") -> Iterator[None]:
    """Print what an interrupted sweep keeps, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        done = sum(each.state == "done" for each in made.status())
        click.echo(
            f"{done} of {len(made.cells)} trainings are done, and others keep their finished "
            "tasks; the same command goes on",
            err=True,
        )
        raise


@contextmanager
def shown(silent: bool) -> Iterator[Any]:
    """Yield what shows the states: a table that lives, or nothing."""
    if silent:
        yield lambda found: None
        return
    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield lambda found: live.update(table_of(found))


def table_of(found: "list[Status]") -> Table:
    """Return the states: what runs and what failed first, then the newest that are done."""
    counts = {state: sum(each.state == state for each in found) for state in
              ("done", "running", "waiting", "failed")}  # fmt: skip
    table = Table(title=", ".join(f"{count} {state}" for state, count in counts.items()))
    for column in ("training", "state", "tasks", "seconds", "A_last"):
        table.add_column(column, justify="left" if column in {"training", "state"} else "right")
    order = {"running": 0, "failed": 1, "done": 2, "waiting": 3}
    for each in sorted(found, key=lambda one: order[one.state])[:ROWS]:
        table.add_row(
            each.cell.name,
            each.state,
            f"{each.tasks} of {each.of_tasks}" if each.of_tasks else "",
            f"{each.seconds:.0f}" if each.seconds else "",
            "" if each.last is None else f"{100 * each.last:.1f} %",
        )
    return table


def print_groups(groups: "list[Group]") -> None:
    """Print the means over seeds."""
    table = Table()
    for column in ("stream and method", "seeds", "A_last", "average", "spread"):
        table.add_column(column, justify="left" if column == "stream and method" else "right")
    for group in groups:
        spread = "" if group.spread is None else f"{100 * group.spread:.1f}"
        table.add_row(
            group.name,
            str(len(group.seeds)),
            f"{100 * group.last:.1f} %",
            f"{100 * group.average:.1f} %",
            spread,
        )
    Console().print(table)

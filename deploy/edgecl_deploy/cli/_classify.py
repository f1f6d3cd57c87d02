"""The command that labels images, and how it writes one answer."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from edgecl_deploy.cli._run import WHERE, running, split
from edgecl_deploy.cli._shared import F, failure, misused
from edgecl_deploy.console import json_text
from edgecl_deploy.image_limits import DEVICE_PIXELS, MOST_PIXELS
from edgecl_deploy.tables import cells, head, line_of

if TYPE_CHECKING:
    from edgecl_deploy.loaded import Prediction

Writer: TypeAlias = "Callable[[str, Prediction], str]"


def answering(command: F) -> F:
    """Add the options of every command that writes a line per image."""
    for option in (
        click.option(
            "--max-pixels",
            type=click.IntRange(1, MOST_PIXELS),
            default=DEVICE_PIXELS,
            show_default=True,
            help="Of an image; a larger one is not decoded.",
        ),
        click.option(
            "--top", type=click.IntRange(1), default=5, show_default=True, help="Classes per image."
        ),
    ):
        command = option(command)
    return running(command, "Print one JSON object a line, as the answers come.")


@click.command()
@answering
@click.option("--csv", "as_csv", is_flag=True, help="Print a table with a head, as CSV.")
@click.argument("paths", nargs=-1, required=True, metavar=f"{WHERE} IMAGES...")
def classify(paths: tuple[str, ...], top: int, as_csv: bool, as_json: bool, **options: Any) -> None:
    """Label IMAGES with the release that a STORE serves, or with RELEASE on BUNDLE.

    IMAGES are files, folders with all images under them, and quoted patterns such as
    'a/**/*.jpg'. Every answer is printed when it is there. An image that cannot be read is
    reported and the others are classified; the exit status is then 1.
    """
    path, release, images = split(paths)
    if not images:
        misused("Name at least one image.")
    if as_csv and as_json:
        misused("Choose --csv or --json.")
    from edgecl_deploy.listing import find_images
    from edgecl_deploy.pipeline import FILES_AHEAD
    from edgecl_deploy.runtime import Classifier

    found = find_images(images)  # before a model is loaded
    names: deque[str] = deque()  # read, and not yet answered

    def sources() -> Iterator[str]:
        for each in found:
            names.append(each)
            yield each

    total = failed = 0
    with Classifier.open(path, release, drift=False, **options) as classifier:
        write = writer(as_csv, as_json, top)
        if as_csv:
            click.echo(line_of(head(top)))
        with closing(classifier.stream(sources(), top_k=top, ahead=FILES_AHEAD)) as answers:
            for answer in answers:
                click.echo(write(names.popleft(), answer))
                total += 1
                failed += answer.error is not None
    if failed:
        failure(f"{failed} of {total} images could not be classified; see the output.")


def writer(as_csv: bool, as_json: bool, top: int) -> Writer:
    """Return how one answer is written on one line."""
    if as_json:
        return lambda name, each: json_text({"image": name, **each.to_json()}, sys.stdout)
    if as_csv:
        return lambda name, each: line_of(cells(name, each, top))
    return lambda name, each: f"{name}: {sentence(each)}"


def sentence(prediction: "Prediction") -> str:
    """Return one answer as people read it."""
    if prediction.error is not None:
        return f"error: {prediction.error}"
    top = ", ".join(f"{label} {score:.3f}" for label, score in prediction.top)
    unknown = ""
    if prediction.known is False:
        unknown = " (unknown: below the release's threshold)"
        if prediction.p is not None and not prediction.set_size:
            unknown = f"  unknown (p {prediction.p:.2g})"
    match = " ".join(map(str, prediction.match))
    version = f"{prediction.release}.{prediction.local}" if prediction.local else prediction.release
    return f"{prediction.label}{unknown}  [{top}]  match {match}  release {version}"

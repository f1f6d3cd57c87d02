"""The command `edgecl evaluate`: a run in PyTorch, a release or a store with the device's runtime.

It belongs to this distribution because only this one may import both. What it runs is imported when
it runs, so that its help starts without torch.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.console import Console
from rich.table import Table

from edgecl_deploy.console import (
    device_option,
    json_option,
    max_pixels_option,
    path_type,
    print_json,
    quiet_option,
    reporter_for,
)
from edgecl_deploy.progress import Reporter
from edgecl_export.extras import explain_missing

if TYPE_CHECKING:
    from edgecl.learning.class_metrics import ClassFigures
    from edgecl.learning.labelled import Measured

ROWS, FEW = 40, 10  # classes of the table, and names of a line


@click.command()
@click.argument("what", metavar="RUN|RELEASE|STORE", type=path_type)
@click.argument("folder", metavar="FOLDER", type=path_type)
@click.option("--bundle", type=path_type, help="The bundle of RELEASE.")
@device_option
@max_pixels_option
@quiet_option
@json_option
def evaluate(
    what: Path, folder: Path, bundle: Path | None, device: Any, quiet: bool, as_json: bool
) -> None:
    """Classify the labelled images of FOLDER, or of its test part, and count by class.

    FOLDER has the layout of a stream: FOLDER/CLASS/*, FOLDER/test/CLASS/*, or a table.

    A RUN answers in PyTorch; a RELEASE with its --bundle, or a STORE, with the device's runtime.
    Classes of the folder that are not known are named and counted apart.
    """
    with explain_missing():
        found = measured(what, folder, bundle, device, reporter_for(as_json, quiet))
    if as_json:
        print_json(found.to_json())
        return
    show(found)


def measured(
    what: Path, folder: Path, bundle: Path | None, device: Any, reporter: Reporter
) -> "Measured":
    """Classify with what `what` is.

    Raises:
        UsageError: if it is neither run, release nor store, or the bundle does not go with it.
    """
    if (what / "run.json").is_file():
        if bundle is not None:
            raise click.UsageError("--bundle goes with a RELEASE: a RUN answers in PyTorch.")
        from edgecl.learning.labelled import evaluate_folder
        from edgecl.session import open_learner

        return evaluate_folder(open_learner(what, device=device, reporter=reporter), folder)
    from edgecl_export.measuring import evaluate_release

    if (what / "release.json").is_file():
        if bundle is None:
            raise click.UsageError(f"{what} is a release: name its bundle, too, with --bundle.")
        return evaluate_release(what, folder, bundle)
    if (what / "config.json").is_file() and bundle is None:
        return evaluate_release(what, folder)
    raise click.UsageError(f"{what} must be a run, a release with --bundle, or a store.")


def show(found: "Measured") -> None:
    """Print the figures for people."""
    figures = found.classes
    with_what = "PyTorch" if not found.release else f"the device's runtime, release {found.release}"
    console = Console()
    console.print(table(figures))
    for line in (
        f"{percent(figures.accuracy)} of {sum(figures.images)} images right, with {with_what}",
        *remarks(found),
    ):
        click.echo(line)


def table(figures: "ClassFigures") -> Table:
    """Return the classes, those with the lowest recall first where they are too many."""
    columns = (figures.names, figures.images, figures.right, figures.precision, figures.recall)
    rows = [row for row in zip(*columns, strict=True) if row[1]]
    title = "By class"
    if len(rows) > ROWS:
        title = f"The {ROWS} classes of {len(rows)} with the lowest recall (--json has all)"
        rows = sorted(rows, key=lambda row: (row[4] or 0.0, row[0]))[:ROWS]
    shown = Table(title=title)
    for index, name in enumerate(("class", "images", "right", "precision", "recall")):
        shown.add_column(name, justify="right" if index else "left")
    for name, images, right, precision, recall in rows:
        shown.add_row(name, str(images), str(right), percent(precision), percent(recall))
    return shown


def remarks(found: "Measured") -> Iterator[str]:
    """Yield a line for each thing that is not in the table."""
    figures = found.classes
    if figures.pairs:
        few = [f"{each.wanted} as {each.said} {each.images}" for each in figures.pairs[:FEW]]
        yield f"most confused: {', '.join(few)}"
    if found.unknown:
        some = [f"{name} ({images})" for name, images in found.unknown.items()]
        yield f"not known, in no figure (images): {listed(some)}"
    if figures.without_images:
        yield f"known, without images here: {listed(figures.without_images)}"
    if found.unlabelled:
        yield f"{found.unlabelled} images in no class folder, in no figure"
    for line in found.skipped[:FEW]:
        yield f"skipped: {line}"
    more = len(found.skipped) - FEW + found.skipped_left_out
    if more > 0:
        yield f"skipped: {more} more"


def listed(names: Any) -> str:
    """Return some names, and how many more there are."""
    more = len(names) - FEW
    return ", ".join(names[:FEW]) + (f" and {more} more" if more > 0 else "")


def percent(value: float | None) -> str:
    """Write a share."""
    return "-" if value is None else f"{100 * value:.1f} %"

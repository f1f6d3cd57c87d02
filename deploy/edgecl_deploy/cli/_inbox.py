"""The command that classifies what comes into a folder."""

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecl_deploy.cli._classify import answering, writer
from edgecl_deploy.cli._run import WHERE, split
from edgecl_deploy.cli._shared import failure, misused

if TYPE_CHECKING:
    from edgecl_deploy.loaded import Prediction

RESULTS = "edgecl-results.csv"


@click.command("watch-folder")
@answering
@click.option("--once", is_flag=True, help="End when the files that are there now are done.")
@click.option(
    "--settle",
    type=click.FloatRange(0, 3600),
    default=2.0,
    show_default=True,
    help="Seconds that a file must not have changed.",
)
@click.option(
    "--move",
    "finished",
    type=click.Path(path_type=Path),
    metavar="DONE",
    help="Move finished files there, those without an answer to DONE/failed.",
)
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"The table of results, which is continued.  [default: FOLDER/{RESULTS}]",
)
@click.argument("paths", nargs=-1, required=True, metavar=f"{WHERE} FOLDER")
def watch_folder(
    paths: tuple[str, ...],
    table: Path | None,
    finished: Path | None,
    settle: float,
    once: bool,
    top: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Label the images that come into FOLDER, each once, until SIGTERM or Ctrl-C.

    Every answer is a row of a table, and a line of the output. The table is the record, too: after
    a restart or a power cut no file is classified twice, unless it has changed. Files that are
    still written, hidden ones and those with other endings than an image's wait. A STORE's new
    releases answer as they come.
    """
    path, release, rest = split(paths)
    if len(rest) != 1 or not Path(rest[0]).is_dir():
        misused("Name one FOLDER that is there.")
    folder = Path(rest[0])
    from edgecl_deploy.inbox import Inbox, Table, check_finished
    from edgecl_deploy.pipeline import FILES_AHEAD
    from edgecl_deploy.runtime import Classifier
    from edgecl_deploy.stopping import stop_on_signals

    if finished is not None:
        check_finished(folder, finished)
    total = failed = 0
    write = writer(as_csv=False, as_json=as_json, top=top)

    def tell(name: str, answer: "Prediction") -> None:
        nonlocal total, failed
        total, failed = total + 1, failed + (answer.error is not None)
        click.echo(write(name, answer))

    results = Table(table or folder / RESULTS, top)
    try:
        with stop_on_signals() as stop, Classifier.open(path, release, **options) as classifier:

            def answers(names: Iterable[str]) -> "Generator[Prediction, None, None]":
                return classifier.stream(names, top_k=top, ahead=FILES_AHEAD)

            Inbox(folder, results, answers, tell, finished, settle).run(stop, once=once)
    finally:
        results.close()
    if once and failed:
        failure(f"{failed} of {total} images could not be classified; see the output.")

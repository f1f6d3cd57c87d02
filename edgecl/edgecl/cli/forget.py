"""The command `edgecl forget`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from edgecl.cli import no_wait_option
from edgecl_deploy.console import (
    device_option,
    json_option,
    path_type,
    print_json,
    quiet_option,
    reporter_for,
)

if TYPE_CHECKING:
    from edgecl.learning.forgetting import Report
    from edgecl.learning.learner import Learner
    from edgecl.proof import Proof

# What a command on a run does not reach: whoever forgets works through it.
ELSEWHERE = (
    ("packs, releases and bundles that were exported", "export again to new folders, remove these"),
    ("the site of a channel", "publish a release without it, then edgecl channel prune"),
    ("devices", "publish with --min-release N --purge; status --json shows `forgotten`"),
    ("factory releases and installed media of devices", "install again from the new release"),
    ("classes enrolled on devices", "edgecl-device enrolled remove NAME --purge"),
    ("statistics files of devices", "remove them"),
    ("features in the cache, under digests of images", "edgecl cache clear"),
    ("the images themselves, and tables of labels", "remove them"),
    ("logs of sweeps and terminals, pages that were copied", "remove them"),
    ("caches of a site, copies on USB media, backups", "your procedure for backups"),
    ("freed blocks of disks and flash", "encryption of the disk"),
)


@click.command()
@click.argument("run", type=path_type)
@click.option("--class", "name", metavar="NAME", help="Forget this class.")
@click.option("--task", type=click.IntRange(0), help="Forget this task; others keep their numbers.")
@click.option(
    "--images",
    type=path_type,
    help="IMAGES/NAME/*, which the class was learned from: where it shares a task with others and "
    "the method keeps sums.",
)
@click.option(
    "--proof",
    type=path_type,
    metavar="DIR",
    help="Learn the stream again without it, into the new run DIR, and compare the two.",
)
@device_option
@no_wait_option
@quiet_option
@json_option
@click.pass_context
def forget(
    ctx: click.Context,
    run: Path,
    name: str | None,
    task: int | None,
    images: Path | None,
    proof: Path | None,
    device: Any,
    no_wait: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Take a class or a task out of RUN: the rest is as if it had never been, or it is refused."""
    from edgecl.forget import forget_in_run
    from edgecl.learning.runs import Run, check_empty
    from edgecl.proof import prove, stream_of
    from edgecl.session import open_learner

    if (name is None) == (task is None):
        raise click.UsageError("Give one of --class NAME and --task N.")
    found = Run.open(run)
    found.wait = not no_wait

    def opened() -> "Learner":
        learner = open_learner(run, device=device, reporter=reporter_for(as_json, quiet))
        learner.run = found  # it holds the lock
        return learner

    stream = None
    if proof is not None:
        check_empty(proof)
        stream = stream_of(found)
    report = forget_in_run(found, name=name, task=task, images=images, learner=opened)
    facts = {"run": str(run), **report.to_json()}
    facts["elsewhere"] = [{"what": what, "do": do} for what, do in ELSEWHERE]
    shown = None
    if proof is not None and stream is not None:
        shown = prove(opened(), stream, proof)
        facts["proof"] = shown.to_json()
    if as_json:
        print_json(facts)
    else:
        print_report(run, report)
        if shown is not None:
            click.echo(in_words(shown))
    if shown is not None and not shown.equal:
        ctx.exit(1)


def in_words(proof: "Proof") -> str:
    """Return a proof in a line."""
    same = f"{sum(proof.ids)} of {len(proof.ids)} tasks have the id of a run that never saw it"
    errors = f"largest error {proof.error:.1e}, of a score {proof.score_error:.1e}"
    return f"{'proved' if proof.equal else 'NOT proved'} ({proof.exactness}): {same}; {errors}"


def print_report(run: Path, report: "Report") -> None:
    """Print what was erased, and what was not."""
    entry = report.entry
    gaps = [task for task in entry.tasks if task >= len(entry.after) or entry.after[task] is None]
    click.echo(f"{run} has forgotten it ({entry.exactness}); tasks without classes: {gaps}")
    for line in report.erased:
        click.echo(f"erased: {line}")
    for what, do in ELSEWHERE:
        click.echo(f"not erased: {what}: {do}")
    click.echo("next: " + "; ".join(entry.commands[1:]))

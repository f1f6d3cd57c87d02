"""The command that tells whether what a device sees has changed."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgecl_deploy.cli._shared import ATTENTION, failure, of_store
from edgecl_deploy.console import print_json
from edgecl_deploy.store.layout import LOCAL

if TYPE_CHECKING:
    from edgecl_deploy.drift.verdict import Drift
    from edgecl_deploy.store.store import Store

_SHOWN = 10  # classes that people see
_WIDTH = 40  # characters of the longest bar


@click.command(epilog=f"Exit status: 0, or {ATTENTION} if something seems to have changed.")
@of_store
@click.option("--reset", is_flag=True, help="Take an alarm back, and begin to count anew.")
@click.pass_context
def drift(ctx: click.Context, store: "Store", reset: bool, as_json: bool) -> None:
    """Tell whether what STORE's device sees has changed: the camera, the world or the model.

    It reads what the process that serves wrote, a minute ago at most. Images of one class count
    once in `drift_every` seconds, and the first 200 of a release do not count. An alarm stays until
    --reset, or until another release or local generation answers.
    """
    from edgecl_deploy.drift.keeping import acknowledge
    from edgecl_deploy.drift.pictures import FOLDER, read_pictures
    from edgecl_deploy.update.status import day

    if reset:
        done = acknowledge(store.path / LOCAL)
        if as_json:
            print_json({"acknowledged": done})
        else:
            click.echo("Counting begins anew." if done else "There was nothing to take back.")
        return
    found = _found(store)
    folder = store.path / LOCAL / FOLDER
    pictures = (
        [str(folder / each.name) for each in read_pictures(store.path / LOCAL)]
        if found.images
        else []
    )
    if as_json:
        config = store.config
        print_json({
            "device": config.device,
            "run_length": config.drift_run_length,
            "every": config.drift_every,
            **asdict(found),
            "pictures": pictures,
        })
    else:
        for name, lines in (
            *_told(found, store.config.drift_run_length, day),
            ("pictures", pictures),
        ):
            for line in lines:
                click.echo(f"{name:10} {line}")
                name = ""
    if found.cause:
        ctx.exit(ATTENTION)


def _found(store: "Store") -> "Drift":
    """Return what was seen of the images of the release that serves; nothing if another one was."""
    from edgecl_deploy.drift.keeping import read_drift
    from edgecl_deploy.drift.state import Mark, State
    from edgecl_deploy.drift.verdict import verdict

    serving = store.serving()
    if serving is None:
        failure("a release must serve; found none. Run `edgecl-device update`.")
    state = read_drift(store.path / LOCAL)
    if state is None or state.mark.digest != serving.digest:
        state = State(Mark(serving.digest, serving.release), float(serving.created))
    return verdict(state)


def _told(found: "Drift", run_length: float, day: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield what people read: the cause, since when, the evidence, what to do; then the counts."""
    nothing = "nothing" if found.images else f"no image of release {found.version} counted yet"
    yield "changed", [found.cause or nothing]
    if found.since is not None:
        alarmed = "" if found.alarmed is None else f", alarm at {day(found.alarmed)}"
        yield "since", [f"{day(found.since)} or a little before{alarmed}"]
    yield "evidence", list(found.reasons)
    yield "do", list(found.advice)
    yield "images", [f"{found.images} of {found.answered} count, of release {found.version}"]
    levels = " ".join(f"{name} 10^{value:.1f}" for name, value in found.evidence.items())
    yield "detectors", [f"{levels}; alarm of atypical at {run_length:g}"]
    if found.histogram is not None:
        yield "typical", list(_bars(found.histogram))
    if found.classes is not None:
        most = sorted(found.classes.items(), key=lambda each: -each[1])
        more = len(most) - _SHOWN
        shown = [f"{name}  {count}" for name, count in most[:_SHOWN]]
        if more > 0 or found.other:
            rest = sum(count for _, count in most[_SHOWN:]) + found.other
            shown.append(f"others  {rest}")
        yield "classes", shown


def _bars(counts: tuple[int, ...]) -> Iterator[str]:
    """Yield a line for each tenth of the highest p-value, from 0 to 1."""
    pairs = [sum(counts[i : i + 2]) for i in range(0, len(counts), 2)]
    for place, count in enumerate(pairs):
        bar = "#" * round(_WIDTH * count / max(pairs))
        yield f"{place / 10:.1f}-{(place + 1) / 10:.1f}  {count:6} {bar}".rstrip()

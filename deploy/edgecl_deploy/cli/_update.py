"""The commands that ask a channel for a release."""

import json
from typing import TYPE_CHECKING

import click

from edgecl_deploy.cli._shared import of_store
from edgecl_deploy.update.outcome import FACTORY_KEPT, Outcome, Result

if TYPE_CHECKING:
    from edgecl_deploy.store.store import Store

_QUIET = {Outcome.UPDATED, Outcome.UP_TO_DATE}


def _statuses() -> str:
    rows = [(outcome.value, outcome.word) for outcome in Outcome]
    rows += [(1, "an error before it began"), (2, "a wrong command line")]
    rows += [(FACTORY_KEPT, "updated, and the factory release should be erased: it cannot be")]
    return "\b\nExit status:\n" + "\n".join(f"{number:4} {text}" for number, text in sorted(rows))


@click.command(epilog=_statuses())
@of_store
@click.option("--from", "url", metavar="URL|DIR", help="Another place of the same channel.")
@click.option("--retry", is_flag=True, help="Try a release again that failed here.")
@click.pass_context
def update(ctx: click.Context, store: "Store", url: str | None, retry: bool, as_json: bool) -> None:
    """Install the channel's release, if there is one for this device.

    The release is fetched, verified, tested in a process of its own, switched to, and watched; a
    release that fails is undone and not installed again.
    """
    from edgecl_deploy.stopping import stop_on_signals
    from edgecl_deploy.update.poll import poll

    with stop_on_signals() as stop:
        result = poll(store, url, retry=retry, stop_requested=lambda: stop.requested).result
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        click.echo(_sentence(result), err=result.outcome not in _QUIET)
    ctx.exit(result.status)


def _sentence(result: Result) -> str:
    notes = ["the clock is behind"] if result.clock == "behind" else []
    notes += ["a channel for development only"] if result.development else []
    notes += [f"{result.fetched / 1000:.1f} kB"] if result.fetched else []
    if result.factory_kept is not None:
        notes += [f"release {result.factory_kept} of the factory should be erased and stays"]
    return f"{result.outcome.word}: {result.reason}" + (f" ({'; '.join(notes)})" if notes else "")


@click.command()
@of_store
@click.option(
    "--interval",
    type=click.FloatRange(1),
    default=6 * 3600,
    show_default=True,
    help="Seconds between two polls, on average.",
)
def watch(store: "Store", interval: float, as_json: bool) -> None:
    """Poll the channel again and again, until SIGTERM or SIGINT.

    The waits are drawn at random around the interval, so that a fleet does not poll at once. After
    a failure the next poll comes sooner, then later and later, up to 4 hours; a server that asks
    to wait is left alone that long. With --json every poll is one line.
    """
    from edgecl_deploy.stopping import stop_on_signals
    from edgecl_deploy.update.poll import PollResult, poll
    from edgecl_deploy.update.watch import Schedule, Watch

    def tell(result: Result, wait: float) -> None:
        if as_json:
            click.echo(json.dumps({**result.to_json(), "next": round(wait, 1)}))
        else:
            click.echo(f"{_sentence(result)}; next poll in {wait:.0f} s")

    with stop_on_signals() as stop:

        def once() -> PollResult:
            return poll(store, stop_requested=lambda: stop.requested)

        Watch(store, once, Schedule(interval), stop, tell).run()

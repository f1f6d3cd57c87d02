"""The commands that make a store, show it, and change it."""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgecl_deploy.cli._shared import ATTENTION, misused, of_store, report, reporting
from edgecl_deploy.store.layout import LOCAL

if TYPE_CHECKING:
    from edgecl_deploy.store.fsck import Damage
    from edgecl_deploy.store.records import Config
    from edgecl_deploy.store.store import Store

_FOLDER = click.Path(exists=True, file_okay=False)


@click.command()
@reporting
@click.argument("path", metavar="STORE", type=click.Path())
@click.option("--bundle", required=True, type=_FOLDER, help="The bundle of this device.")
@click.option(
    "--root",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    help="The root.json to trust, from a source that you trust.",
)
@click.option("--channel", "url", required=True, metavar="URL", help="The place of the channel.")
@click.option("--name", default="stable", show_default=True, help="The channel.")
@click.option("--release", type=_FOLDER, help="A release that serves from the start.")
@click.option("--device-id", help="Decides its place in roll-outs.  [default: a random one]")
@click.option("--trial-seconds", type=float, help="How long a new release is watched.")
@click.option("--trial-requests", type=int, help="Images that it must answer by then.")
@click.option("--untested", is_flag=True, default=None, help="Take releases without canaries too.")
@click.option(
    "--signed-bundle", is_flag=True, help="Refuse a bundle that the channel did not sign."
)
def init(
    path: str,
    bundle: str,
    root: str,
    url: str,
    name: str,
    release: str | None,
    device_id: str | None,
    signed_bundle: bool,
    as_json: bool,
    **limits: float | None,
) -> None:
    """Make a STORE, on the first day of a device.

    The bundle stays where it is; everything else comes from the channel. With --signed-bundle the
    channel is asked now, and nothing is made unless it has signed this bundle.
    More settings: `edgecl-device config STORE`.
    """
    from edgecl_deploy.store.owner import act_as_owner
    from edgecl_deploy.store.records import Config
    from edgecl_deploy.store.settings import configured
    from edgecl_deploy.store.store import new_device_id
    from edgecl_deploy.update.provision import provision

    act_as_owner(path)
    given = {key: value for key, value in limits.items() if value is not None}
    config = configured(Config(bundle, url, name, device_id or new_device_id()), given)
    store, development = provision(path, config, root, release, signed_bundle=signed_bundle)
    if development and not as_json:
        click.echo("Warning: this channel's keys are for development only.", err=True)
    serving = store.serving()
    values = {
        "store": path,
        "device": config.device,
        "channel": name,
        "release": None if serving is None else serving.release,
        "development": development,
    }
    report(values, as_json)


@click.command(epilog=f"Exit status: 0, or {ATTENTION} if something needs attention.")
@of_store
@click.pass_context
def status(ctx: click.Context, store: "Store", as_json: bool) -> None:
    """Show which release serves and what needs attention, without the network.

    Attention is needed when no release serves, or a damaged one; when a trial was interrupted; when
    the last update failed and the next one will too; when metadata has expired, the clock is
    behind, or the disk is full.
    """
    from edgecl_deploy.update.status import status as of

    found = of(store)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        for line in _overview(found.to_json()):
            click.echo(line)
    if found.attention:
        ctx.exit(ATTENTION)


def _overview(found: dict[str, Any]) -> Iterator[str]:
    from edgecl_deploy.update.status import day

    def shown(value: Any, text: Callable[[Any], str]) -> list[str]:
        return [] if value is None else [text(value)]

    ends = min(((end, role) for role, end in found["expires"].items()), default=None)
    rows: dict[str, list[str]] = {
        "serves": shown(found["release"], lambda number: f"release {number}") or ["no release"],
        "channel": [f"{found['channel']} at {found['url']}"],
        "device": [found["device"]],
        "update": [found["phase"]],
        "last": shown(
            found["last"], lambda at: f"{day(at['time'])} {at['outcome']}: {at['reason']}"
        ),
        "refreshed": shown(found["refreshed"], day),
        "expires": shown(ends, lambda end: f"{day(end[0])} ({end[1]})"),
        "pinned": shown(found["pinned"], lambda number: f"release {number}"),
        "denied": [f"{name[:12]}: {reason}" for name, reason in found["denied"].items()],
        "inhibited": found["inhibited"],
        "local": [f"{name}: {state}" for name, state in found["local"].items()],
        "free": [f"{found['free'] / 1e6:.0f} MB"],
        "trust": ["for development only"] if found["development"] else [],
        "ATTENTION": found["attention"],
    }
    for name, lines in rows.items():
        for line in lines:
            yield f"{name:10} {line}"


@click.command()
@of_store
@click.option("--last", type=click.IntRange(1), help="Only so many lines.  [default: all]")
def history(store: "Store", last: int | None, as_json: bool) -> None:
    """Show what happened to STORE, oldest first."""
    from edgecl_deploy.update.operate import history as of
    from edgecl_deploy.update.status import day

    events = list(of(store))[-(last or 0) :]
    if as_json:
        click.echo(json.dumps(events))
        return
    for event in events:
        details = {key: each for key, each in event.items() if key not in {"time", "event"}}
        click.echo(f"{day(event['time'])}  {event['event']:14} {_details(details)}")


def _details(details: dict[str, Any]) -> str:
    if "outcome" in details:
        return f"{details['outcome']}: {details.get('reason')}"
    return ", ".join(f"{key} {value}" for key, value in details.items())


@click.command()
@of_store
@click.option("--if-trial", is_flag=True, help="Only if a release is on trial.")
@click.option("--keep", is_flag=True, help="The next update may take the release again.")
@click.option("--reason", default="the operator went back", show_default=True, help="For the log.")
def rollback(store: "Store", if_trial: bool, keep: bool, reason: str, as_json: bool) -> None:
    """Go back to the release before, and do not install this one again.

    If an update is watching a release on trial, that update undoes it.
    """
    from edgecl_deploy.update.operate import rollback as go_back

    _tell(go_back(store, reason, if_trial=if_trial, deny=not keep).to_json(), as_json)


def _tell(change: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(change))
    else:
        serves = "no release" if change["release"] is None else f"release {change['release']}"
        verb = "serves now" if change["changed"] else "serves, as before"
        click.echo(f"{serves} {verb}: {change['reason']}")


@click.command()
@of_store
@click.argument("release", type=click.IntRange(1), required=False)
@click.option("--off", is_flag=True, help="Follow the channel again.")
def pin(store: "Store", release: int | None, off: bool, as_json: bool) -> None:
    """Let only RELEASE be installed; without a number, the one that serves.

    If it is in the store, it serves at once.
    """
    from edgecl_deploy.update.operate import pin as hold

    if off and release is not None:
        misused("Name a release, or use --off.")
    if not off and release is None:
        serving = store.serving()
        if serving is None:
            misused("No release serves: name the one that may be installed.")
        release = serving.release
    _tell(hold(store, release).to_json(), as_json)


@click.command(epilog=f"Exit status: 0, or {ATTENTION} if something is damaged.")
@of_store
@click.option("--repair", is_flag=True, help="Mend the store, and let a whole release serve.")
@click.pass_context
def fsck(ctx: click.Context, store: "Store", repair: bool, as_json: bool) -> None:
    """Read every byte of STORE and of its bundle, and compare it with its name or checksum.

    With --repair what can be derived is written anew, damaged objects are removed, and the exit
    status is 0 if a whole release serves in the end; the next update fetches again what it needs.
    A damaged bundle must be installed again.
    """
    from edgecl_deploy.store import fsck as disk
    from edgecl_deploy.update.metadata import check_metadata, remove_metadata
    from edgecl_deploy.update.operate import PATIENCE

    about = [*disk.check_bundle(store), *check_metadata(store)]
    if repair:
        with store.lock(PATIENCE):
            found = disk.repair(store)
            remove_metadata(store, about)
    else:
        found = disk.check(store)
    about += _local_damages(store)
    found += about
    serving = store.serving()
    whole = serving is not None and store.complete(serving)
    release = serving.release if serving is not None and whole else None
    if as_json:
        click.echo(json.dumps({"damaged": [asdict(each) for each in found], "release": release}))
    else:
        for each in found:
            click.echo(f"{each.what}: {each.found}")
        serves = "no whole release serves" if release is None else f"release {release} serves"
        click.echo(f"{'mended' if repair else 'damaged'}: {len(found)}; {serves}")
    own = ("bundle", LOCAL)
    if not whole or (found and not repair) or any(each.what.startswith(own) for each in about):
        ctx.exit(ATTENTION)


def _local_damages(store: "Store") -> "list[Damage]":
    """Return what is damaged of the classes of this device; nothing mends it."""
    from edgecl_deploy.enrol.local import Local
    from edgecl_deploy.store.fsck import Damage

    damages = Local(store.path / LOCAL).damages()
    return [Damage(f"{LOCAL}/{what}", found) for what, found in damages.items()]


@click.command()
@of_store
def gc(store: "Store", as_json: bool) -> None:
    """Remove the releases that nobody will go back to."""
    from edgecl_deploy.store.gc import collect
    from edgecl_deploy.store.recover import recover
    from edgecl_deploy.update.operate import PATIENCE

    with store.lock(PATIENCE):
        recover(store)
        gone = collect(store)
    report(asdict(gone), as_json)


@click.command()
@of_store
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE...]")
@click.option(
    "--signed-bundle", is_flag=True, help="Refuse a bundle that the channel did not sign."
)
def config(store: "Store", settings: tuple[str, ...], signed_bundle: bool, as_json: bool) -> None:
    """Show the settings of STORE, or change some.

    A value is JSON or a text: rate_kbps=200, rate_kbps=null, url=https://example.org/edgecl,
    'hook=/usr/bin/report --fleet a'. A hook gets the outcome of every update as JSON on its input.
    With --signed-bundle the channel is asked, and nothing is changed unless it signed the bundle.
    """
    from edgecl_deploy.store.settings import configured
    from edgecl_deploy.update.access import check_url, plain_url
    from edgecl_deploy.update.operate import PATIENCE

    if settings or signed_bundle:
        with store.lock(PATIENCE):
            given = dict(map(_setting, settings))
            check_url(str(given.get("url", "")))
            store.mend_documents()
            changed = configured(store.config, given)
            if signed_bundle:
                _check_signed(store, changed)
            if settings:
                store.configure(changed)
                store.log.write("config", store.now(), settings=list(settings))
    values = store.config.to_json()
    values["url"] = plain_url(values["url"])  # an older store may have a password in it
    if not as_json:
        values |= values.pop("limits")
    report(values, as_json)


def _check_signed(store: "Store", changed: "Config") -> None:
    from edgecl_deploy.update.bundles import check_signed
    from edgecl_deploy.update.poll import channel_of

    check_signed(channel_of(store, changed), changed)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        misused(f"a setting is NAME=VALUE, not {text}")
    if name == "hook" and not value.startswith("["):
        return name, shlex.split(value)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value

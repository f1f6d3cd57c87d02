"""The commands `edgecl channel ...`."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from edgecl_deploy.console import json_option, path_type
from edgecl_export.channel.options import (
    MARK,
    NEW_PASSPHRASE,
    PASSPHRASE,
    channel_option,
    keys_option,
    opened,
    parse_days,
    repository_command,
    rollout_options,
    site_option,
)

if TYPE_CHECKING:
    from edgecl_deploy.format import Channel
    from edgecl_export.channel.publish import Published
    from edgecl_export.channel.renew import Refreshed
    from edgecl_export.channel.repository import Repository
    from edgecl_export.channel.show import Said


@click.group()
def channel() -> None:
    """Publish releases to devices as signed static files."""


OFFLINE = """
Now take {keys}/root-*.pem offline: move each to a medium of its own, two of the three sign
a change of keys (--key file2:PATH). Also move a copy of targets-2.pem and releases-2.pem away;
one of each is enough to work. What stays is needed to publish; back it up."""


@channel.command()
@click.argument("site", type=path_type)
@keys_option
@click.option("--publisher", default="lab", show_default=True, help="The first one.")
@click.option("--dev", is_flag=True, help="One root key, no passphrase: for trying only.")
@click.option("--unencrypted", is_flag=True, help="Do not encrypt the private keys.")
@json_option
def init(
    site: Path, keys: Path, publisher: str, dev: bool, unencrypted: bool, as_json: bool
) -> None:
    """Make the keys and the empty repository SITE."""
    from edgecl_export.channel.repository import Repository
    from edgecl_export.channel.show import show

    repository = Repository.create(
        site,
        keys,
        publisher=publisher,
        development=dev,
        passphrase=None if unencrypted else new_passphrase(needed=not dev),
        unencrypted=unencrypted,
    )
    if dev:
        click.echo(MARK, err=True)
    root = repository.root_file
    value = {"site": str(site), "keys": str(keys), "root": str(root), "development": dev}
    text = f"{site} is ready. {root} goes onto every device with its firmware."
    show((value, text if dev else text + OFFLINE.format(keys=keys)), as_json)


def new_passphrase(*, needed: bool) -> str | None:
    """Return a passphrase from the environment, or ask for it twice at a terminal."""
    given = os.environ.get(PASSPHRASE)
    if given is None and needed and sys.stdin.isatty():
        return str(
            click.prompt(
                "passphrase of the keys", hide_input=True, confirmation_prompt=True, err=True
            )
        )
    return given


@channel.command()
@click.argument("release", type=path_type)
@channel_option
@click.option("--bundle", type=path_type, required=True, help="The release is tested on it.")
@click.option("--publisher", help="Whose role signs the packs.  [default: the only one]")
@rollout_options
@click.option(
    "--min-release",
    type=click.IntRange(0),
    default=0,
    help="Devices must not go back to an older one; it never falls.",
)
@click.option(
    "--purge",
    is_flag=True,
    help="Devices erase the releases before --min-release once they run this one; it stays so. "
    "Devices of an older version do not go on: update them first.",
)
@click.option("--notes", default="", help="For people.")
@click.option(
    "--sign-bundle",
    is_flag=True,
    help="Sign the bundle: `edgecl-device init --signed-bundle` takes no other one.",
)
@repository_command
def publish(repository: "Repository", release: Path, bundle: Path, **options: Any) -> "Published":
    """Test RELEASE on a bundle, and put it into a channel; only new objects are added."""
    return repository.publish(release, bundle, **options)


@channel.command()
@click.option("--from", "source", required=True, help="The channel that has the release.")
@click.option(
    "--to", required=True, help="The channel that gets it; the same one for a new roll-out."
)
@rollout_options
@repository_command
def promote(repository: "Repository", source: str, to: str, **options: Any) -> "Channel":
    """Put the release of one channel into another one."""
    return repository.promote(source, to, **options)


@channel.command()
@click.argument("name")
@repository_command
def halt(repository: "Repository", name: str) -> "Channel":
    """Stop the roll-out of channel NAME: no further device takes its release."""
    return repository.halt(name)


@channel.command()
@click.argument("name")
@repository_command
def resume(repository: "Repository", name: str) -> "Channel":
    """Continue the halted roll-out of channel NAME."""
    return repository.resume(name)


@channel.command()
@click.option("--all", "everything", is_flag=True, help="Renew every role whose key is at hand.")
@repository_command
def refresh(repository: "Repository", everything: bool) -> "Refreshed":
    """Sign timestamp and snapshot again, and what is about to expire: for cron, once a week."""
    return repository.refresh(everything=everything)


@channel.command()
@click.option(
    "--before",
    type=click.IntRange(min=1),
    metavar="RELEASE",
    help="Remove what only older releases need now, not in a week: it was forgotten.",
)
@repository_command
def prune(repository: "Repository", before: int | None) -> "Said":
    """Remove what no channel names any more: for cron, once a month.

    Every update of a device fetches the list of a publisher's objects. Devices of any age can
    follow a pruned site; files are removed a week after nothing signed names them any more.
    """
    from dataclasses import asdict

    pruned = repository.prune(before or 0)
    text = (
        f"{pruned.entries} objects are listed no more; {pruned.files} files removed "
        f"({pruned.size} bytes), {pruned.later} can be in a week"
    )
    return asdict(pruned), text


@channel.command("bundle")
@click.argument("out", type=path_type)
@channel_option
@click.option(
    "--expires",
    callback=parse_days,
    default="90d",
    show_default=True,
    help="Days that it is accepted.",
)
@repository_command
def bundle_command(repository: "Repository", out: Path, channel: str, expires: int) -> "Said":
    """Write OUT, a copy of one channel for devices without a network."""
    copy = repository.mirror(out, channel=channel, days=expires)
    value = {"path": str(out), "release": copy.release, "expires": copy.expires}
    return value, f"{out}: release {copy.release}, accepted until {copy.expires}"


@channel.command()
@site_option
@keys_option
@json_option
def status(site: Path, keys: Path, as_json: bool) -> None:
    """Show expiries and roll-outs.

    Exit code: 0 all is well, 3 something needs attention soon, 4 something has expired;
    1 the repository cannot be read, 2 wrong usage.
    """
    from edgecl_export.channel.show import show_status

    found = opened(site, keys).status()
    show_status(found, as_json)
    sys.exit(found.code)


@channel.command()
@site_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
def serve(site: Path, host: str, port: int) -> None:
    """Serve SITE on this machine, for trying it."""
    from edgecl_export.channel.serve import Server

    server = Server(site, host=host, port=port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    click.echo(f"{site} at {server.url}, until interrupted")
    try:
        server.run()
    except KeyboardInterrupt:
        click.echo(f"{server.requests} requests, {server.bytes_sent} bytes sent")
    finally:
        server.close()


@channel.group()
def key() -> None:
    """Add, replace and revoke keys."""


@key.command("add")
@click.argument("role")
@click.option("--public", type=path_type, help="PEM of a public key whose private part is away.")
@click.option("--uri", help="Where that private part is, such as hsm:... or awskms:...")
@repository_command
def key_add(repository: "Repository", role: str, public: Path | None, uri: str | None) -> "Said":
    """Add a key to ROLE; packs-NEW adds a publisher."""
    if uri and not public:
        raise click.UsageError("--uri needs --public, the public part of that key.")
    data = None if public is None else public.read_bytes()
    keyid = repository.add_key(role, public=data, uri=uri)
    return {"role": role, "keyid": keyid}, f"{role} has the new key {keyid}"


@key.command("passphrase")
@repository_command
def key_passphrase(repository: "Repository") -> "Said":
    """Encrypt the private keys at hand with a new passphrase.

    It is asked for, or taken from EDGECL_NEW_KEY_PASSPHRASE. Keys on media follow with --key.
    """
    given = os.environ.get(NEW_PASSPHRASE)
    if given is None:
        given = click.prompt(
            "new passphrase of the keys", hide_input=True, confirmation_prompt=True, err=True
        )
    paths = [str(path) for path in repository.protect(str(given))]
    return {"files": paths}, "\n".join(f"{path} has the new passphrase" for path in paths)


@key.command("rotate")
@click.argument("role")
@click.argument("keyid", required=False)
@repository_command
def key_rotate(repository: "Repository", role: str, keyid: str | None) -> "Said":
    """Replace one key of ROLE, or all of them, and sign what they have signed again."""
    replaced = repository.rotate(role, keyid)
    lines = [f"{old[:12]} is replaced by {new}" for old, new in replaced.items()]
    return {"role": role, "replaced": replaced}, "\n".join(lines)


@key.command("revoke")
@click.argument("role")
@click.argument("keyid")
@repository_command
def key_revoke(repository: "Repository", role: str, keyid: str) -> "Said":
    """Take a key away from ROLE and every other role that has it."""
    roles = repository.revoke(role, keyid)
    text = f"{keyid} is revoked for {', '.join(roles)}; destroy its private part"
    return {"keyid": keyid, "roles": roles}, text

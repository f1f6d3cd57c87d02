"""The commands `edgecl channel ...`."""

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import rich_click as click

from edgecl.cli import json_option, print_json
from edgecl_export.channel.options import (
    MARK,
    PASSPHRASE,
    channel_option,
    keys_option,
    opened,
    parse_rollout,
    path_type,
    repository_options,
    rollout_options,
    site_option,
)
from edgecl_export.channel.repository import Repository
from edgecl_export.channel.serve import Server
from edgecl_export.channel.show import print_status, report, report_channel


@click.group()
def channel() -> None:
    """Publish releases to devices as signed static files."""


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
    passphrase = None if unencrypted else os.environ.get(PASSPHRASE)
    if passphrase is None and not (dev or unencrypted) and sys.stdin.isatty():
        passphrase = click.prompt(
            "passphrase of the keys", hide_input=True, confirmation_prompt=True, err=True
        )
    repository = Repository.create(
        site, keys, publisher=publisher, development=dev,
        passphrase=passphrase, unencrypted=unencrypted,
    )  # fmt: skip
    if dev:
        click.echo(MARK, err=True)
    value = {
        "site": str(site),
        "keys": str(keys),
        "root": str(repository.root_file),
        "development": dev,
    }
    advice = "" if dev else (
        f"\nNow take {keys}/root-*.pem offline: move each to a medium of its own, two of the three "
        "sign\na change of keys (--key file2:PATH). Also move a copy of targets-2.pem and "
        "releases-2.pem away;\none of each is enough to work. What stays is needed to publish; "
        "back it up."
    )  # fmt: skip
    text = f"{site} is ready. {repository.root_file} goes onto every device with its firmware."
    report(value, f"{text}{advice}", as_json)


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
    help="Devices must not go back behind it; it never falls.",
)
@click.option("--notes", default="", help="For people.")
@repository_options
def publish(
    release: Path, channel: str, bundle: Path, publisher: str | None, rollout_hours: float,
    percent: int, start: str | None, force_rollout: bool, min_release: int, notes: str, site: Path,
    keys: Path, extra_keys: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Test RELEASE on a bundle, and put it into a channel; only new objects are added."""
    found = opened(site, keys, extra_keys).publish(
        release, bundle, channel=channel, publisher=publisher,
        rollout=parse_rollout(rollout_hours, percent, start), min_release=min_release, notes=notes,
        force_rollout=force_rollout,
    )  # fmt: skip
    report_channel(found.channel, as_json, found)


@channel.command()
@click.option("--from", "source", required=True, help="The channel that has the release.")
@click.option(
    "--to", required=True, help="The channel that gets it; the same one for a new roll-out."
)
@rollout_options
@repository_options
def promote(
    source: str, to: str, rollout_hours: float, percent: int, start: str | None,
    force_rollout: bool, site: Path, keys: Path, extra_keys: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Put the release of one channel into another one."""
    rollout = parse_rollout(rollout_hours, percent, start)
    repository = opened(site, keys, extra_keys)
    report_channel(
        repository.promote(source, to, rollout=rollout, force_rollout=force_rollout), as_json
    )


@channel.command()
@click.argument("name")
@repository_options
def halt(name: str, site: Path, keys: Path, extra_keys: tuple[str, ...], as_json: bool) -> None:
    """Stop the roll-out of channel NAME: no further device takes its release."""
    report_channel(opened(site, keys, extra_keys).halt(name), as_json)


@channel.command()
@click.argument("name")
@repository_options
def resume(name: str, site: Path, keys: Path, extra_keys: tuple[str, ...], as_json: bool) -> None:
    """Go on with the halted roll-out of channel NAME."""
    report_channel(opened(site, keys, extra_keys).resume(name), as_json)


@channel.command()
@click.option("--all", "everything", is_flag=True, help="Renew every role whose key is at hand.")
@repository_options
def refresh(
    everything: bool, site: Path, keys: Path, extra_keys: tuple[str, ...], as_json: bool
) -> None:
    """Sign timestamp and snapshot again, and what is about to expire: for cron, once a week."""
    done = opened(site, keys, extra_keys).refresh(everything=everything)
    text = f"signed {', '.join(done.signed)}"
    if done.missing:
        text += f"; about to expire, its keys not at hand: {', '.join(done.missing)}"
    report(asdict(done), text, as_json)


@channel.command("bundle")
@click.argument("out", type=path_type)
@channel_option
@click.option("--expires", default="90d", show_default=True, help="Days that it is accepted.")
@repository_options
def bundle_command(
    out: Path, channel: str, expires: str, site: Path, keys: Path, extra_keys: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Write OUT, a copy of one channel for devices without a network."""
    days = expires.removesuffix("d")
    if not (days.isascii() and days.isdigit()):
        raise click.BadParameter(f"{expires!r} is no number of days such as 90d")
    copy = opened(site, keys, extra_keys).mirror(out, channel=channel, days=int(days))
    value = {"path": str(out), "release": copy.release, "expires": copy.expires}
    report(value, f"{out}: release {copy.release}, accepted until {copy.expires}", as_json)


@channel.command()
@site_option
@keys_option
@json_option
def status(site: Path, keys: Path, as_json: bool) -> None:
    """Show expiries and roll-outs.

    Exit code: 0 all is well, 3 something needs attention soon, 4 something has expired;
    1 the repository cannot be read, 2 wrong usage.
    """
    found = opened(site, keys).status()
    print_json(found.to_json()) if as_json else print_status(found)
    sys.exit(found.code)


@channel.command()
@site_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
def serve(site: Path, host: str, port: int) -> None:
    """Serve SITE on this machine, for trying it."""
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
@repository_options
def key_add(
    role: str, public: Path | None, uri: str | None, site: Path, keys: Path,
    extra_keys: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Add a key to ROLE; packs-NEW adds a publisher."""
    if uri and not public:
        raise click.UsageError("--uri needs --public, the public part of that key.")
    data = None if public is None else public.read_bytes()
    keyid = opened(site, keys, extra_keys).add_key(role, public=data, uri=uri)
    report({"role": role, "keyid": keyid}, f"{role} has the new key {keyid}", as_json)


@key.command("rotate")
@click.argument("role")
@click.argument("keyid", required=False)
@repository_options
def key_rotate(
    role: str, keyid: str | None, site: Path, keys: Path, extra_keys: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Replace one key of ROLE, or all of them, and sign what they have signed again."""
    replaced = opened(site, keys, extra_keys).rotate(role, keyid)
    lines = [f"{old[:12]} is replaced by {new}" for old, new in replaced.items()]
    report({"role": role, "replaced": replaced}, "\n".join(lines), as_json)


@key.command("revoke")
@click.argument("role")
@click.argument("keyid")
@repository_options
def key_revoke(
    role: str, keyid: str, site: Path, keys: Path, extra_keys: tuple[str, ...], as_json: bool
) -> None:
    """Take a key away from ROLE and every other role that has it."""
    roles = opened(site, keys, extra_keys).revoke(role, keyid)
    text = f"{keyid} is revoked for {', '.join(roles)}; destroy its private part"
    report({"keyid": keyid, "roles": roles}, text, as_json)

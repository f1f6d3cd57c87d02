"""What the commands `edgecl channel ...` share: options, and how a repository is opened."""

import os
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import rich_click as click

from edgecl.cli import json_option, reporter_for
from edgecl_export.channel.manifests import Rollout
from edgecl_export.channel.repository import Repository

Command = Callable[..., Any]
PASSPHRASE = "EDGECL_KEY_PASSPHRASE"  # noqa: S105, the name of a variable
MARK = "DEVELOPMENT KEYS: one root key, unprotected. Never put devices in the field on this site."
path_type = click.Path(path_type=Path)
site_option = click.option(
    "--site", type=path_type, default="site", show_default=True, envvar="EDGECL_SITE",
    help="The folder that a web server shows.",
)  # fmt: skip
keys_option = click.option(
    "--keys", type=path_type, default="keys", show_default=True, envvar="EDGECL_KEYS",
    help="The folder of the private keys, outside of SITE.",
)  # fmt: skip
channel_option = click.option("--channel", required=True, help="Such as stable or canary.")
ROLLOUT_OPTIONS = (
    click.option("--rollout-hours", type=float, default=0.0, help="Until --percent is reached."),
    click.option("--percent", type=int, default=100, help="Of the devices, at the end."),
    click.option("--start", help="Of the roll-out, such as 2030-01-31T06:00Z.  [default: now]"),
    click.option("--force-rollout", is_flag=True, help="Do not wait for the release before."),
)


def repository_options(command: Command) -> Command:
    """Add the options that say which repository, and with which keys."""
    extra = click.option(
        "--key", "extra_keys", multiple=True, metavar="[KEYID=]URI",
        help="A key that is not in KEYS, for this command: file2:PATH, or KEYID=hsm:... and so on.",
    )  # fmt: skip
    return site_option(keys_option(extra(json_option(command))))


def rollout_options(command: Command) -> Command:
    """Add the options of a roll-out."""
    for option in reversed(ROLLOUT_OPTIONS):
        command = option(command)
    return command


def ask(what: str) -> str:
    """Return a secret from the environment, or ask for it."""
    return os.environ.get(PASSPHRASE) or str(click.prompt(what, hide_input=True, err=True))


def opened(site: Path, keys: Path, extra_keys: tuple[str, ...] = ()) -> Repository:
    """Open a repository, and warn if it has development keys."""
    can_ask = bool(os.environ.get(PASSPHRASE)) or sys.stdin.isatty()
    repository = Repository.open(
        site, keys, extra_keys=extra_keys, passphrase=ask if can_ask else None
    )
    repository.reporter = reporter_for(as_json=False, quiet=False)  # bars are on stderr
    if repository.development:
        click.echo(MARK, err=True)
    return repository


def parse_rollout(hours: float, percent: int, start: str | None) -> Rollout:
    """Read the options of a roll-out.

    Raises:
        BadParameter: if the start is no time.
    """
    if start is None:
        return Rollout(hours, percent)
    try:
        begin = datetime.fromisoformat(start.replace("Z", "+00:00"))
    except ValueError as error:
        raise click.BadParameter(f"{start!r} is no ISO date and time", param_hint="--start") from (
            error
        )
    begin = begin if begin.tzinfo else begin.replace(tzinfo=timezone.utc)
    return Rollout(hours, percent, begin.timestamp())

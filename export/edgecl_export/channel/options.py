"""What the commands `edgecl channel ...` share: options, and how a repository is opened.

The repository is imported when a command runs: the help starts without TUF and cryptography.
"""

import os
import sys
from datetime import datetime, timezone
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from edgecl_deploy.console import Command, json_option, options, path_type, reporter_for

if TYPE_CHECKING:
    from edgecl_export.channel.repository import Repository

PASSPHRASE = "EDGECL_KEY_PASSPHRASE"  # noqa: S105, the name of a variable
NEW_PASSPHRASE = "EDGECL_NEW_KEY_PASSPHRASE"  # noqa: S105
MARK = "DEVELOPMENT KEYS: one root key, unprotected. Never put devices in the field on this site."


def parse_time(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read an ISO date and time, in UTC if it names no zone; return seconds since 1970.

    Raises:
        BadParameter: if it is none.
    """
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no ISO date and time") from error
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()


def parse_days(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Read a number of days such as 90d.

    Raises:
        BadParameter: if it is none.
    """
    days = value.removesuffix("d")
    if not (days.isascii() and days.isdigit()):
        raise click.BadParameter(f"{value!r} is no number of days such as 90d")
    return int(days)


site_option = click.option(
    "--site",
    type=path_type,
    default="site",
    show_default=True,
    envvar="EDGECL_SITE",
    help="The folder that a web server shows.",
)
keys_option = click.option(
    "--keys",
    type=path_type,
    default="keys",
    show_default=True,
    envvar="EDGECL_KEYS",
    help="The folder of the private keys, outside of SITE.",
)
extra_keys_option = click.option(
    "--key",
    "extra_keys",
    multiple=True,
    metavar="[KEYID=]URI",
    help="A key that is not in KEYS, for this command: file2:PATH, or KEYID=hsm:... and so on.",
)
trust_clock_option = click.option(
    "--trust-clock",
    is_flag=True,
    help="Sign although the clock is before what has been signed.",
)
channel_option = click.option("--channel", required=True, help="Such as stable or canary.")
ROLLOUT_OPTIONS = (
    click.option("--rollout-hours", type=float, default=0.0, help="Until --percent is reached."),
    click.option("--percent", type=int, default=100, help="Of the devices, at the end."),
    click.option(
        "--start",
        callback=parse_time,
        help="Of the roll-out, such as 2030-01-31T06:00Z.  [default: now]",
    ),
    click.option(
        "--force-rollout",
        is_flag=True,
        help="Do not wait until the release before has reached all devices.",
    ),
)


def rollout_options(command: Command) -> Command:
    """Add the options of a roll-out; the command gets a `Rollout`, and `force_rollout`."""

    @wraps(command)
    def run(*, rollout_hours: float, percent: int, start: float | None, **rest: Any) -> Any:
        from edgecl_export.channel.manifests import Rollout

        return command(rollout=Rollout(rollout_hours, percent, start), **rest)

    return options(*ROLLOUT_OPTIONS)(run)


def repository_command(command: Command) -> Command:
    """Add the options of every command that changes a repository.

    The command gets the opened `repository`; what it returns is printed, as JSON if asked for.
    """

    @wraps(command)
    def run(
        *,
        site: Path,
        keys: Path,
        extra_keys: tuple[str, ...],
        trust_clock: bool,
        as_json: bool,
        **rest: Any,
    ) -> None:
        from edgecl_export.channel.show import show

        repository = opened(site, keys, extra_keys)
        repository.trust_clock = trust_clock
        repository.warn = lambda text: click.echo(f"Warning: {text}.", err=True)
        show(command(repository=repository, **rest), as_json)

    return options(site_option, keys_option, extra_keys_option, trust_clock_option, json_option)(
        run
    )


def ask(what: str) -> str:
    """Return a secret from the environment, or ask for it."""
    return os.environ.get(PASSPHRASE) or str(click.prompt(what, hide_input=True, err=True))


def opened(site: Path, keys: Path, extra_keys: tuple[str, ...] = ()) -> "Repository":
    """Open a repository, and warn if it has development keys."""
    from edgecl_export.channel.repository import Repository

    can_ask = bool(os.environ.get(PASSPHRASE)) or sys.stdin.isatty()
    repository = Repository.open(
        site, keys, extra_keys=extra_keys, passphrase=ask if can_ask else None
    )
    repository.reporter = reporter_for(as_json=False, quiet=False)  # bars are on stderr
    if repository.development:
        click.echo(MARK, err=True)
    return repository

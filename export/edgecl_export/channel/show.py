"""What the commands `edgecl channel ...` print, for machines and for people."""

from typing import Any

import rich_click as click
from rich.console import Console
from rich.table import Table

from edgecl.cli import print_json
from edgecl_deploy.format import Channel
from edgecl_export.channel.publish import Published
from edgecl_export.channel.status import Status


def report(value: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a result for machines or for people."""
    print_json(value) if as_json else click.echo(text)


def report_channel(channel: Channel, as_json: bool, found: Published | None = None) -> None:
    """Print what a channel says now."""
    rollout = channel.rollout
    value = {
        "channel": channel.name,
        "release": channel.number,
        "digest": channel.release,
        "publisher": channel.publisher,
        "min_release": channel.min_release,
        "halted": channel.halted,
        "rollout": None if rollout is None else rollout.to_json(),
    }
    text = f"{channel.name}: release {channel.number} ({channel.release[:12]})"
    if channel.halted:
        text += ", halted"
    elif rollout is None:
        text += " for all devices"
    else:
        text += f" for {rollout.percent} % of the devices within {rollout.duration / 3600:g} h"
    if found is not None:
        value.update(new_objects=found.objects, new_bytes=found.size, known_objects=found.known)
        text += f"; {found.objects} new objects ({found.size} bytes), {found.known} known"
    report(value, text, as_json)


def print_status(found: Status) -> None:
    """Print a site's status for people."""
    roles = Table("role", "version", "expires", "days left", "signs", "keys (* not at hand)")
    for role in found.roles:
        keys = " ".join(f"{keyid[:8]}{'' if here else '*'}" for keyid, here in role.keys.items())
        days = "" if role.days_left is None else f"{role.days_left:.0f}"
        signs = f"{role.threshold} of {len(role.keys)}"
        roles.add_row(role.role, str(role.version), (role.expires or "")[:10], days, signs, keys)
    channels = Table("channel", "release", "publisher", "devices now", "at the end", "state")
    for each in found.channels:
        state = "halted" if each.halted else "finished" if each.finished else "on its way"
        channels.add_row(
            each.name, str(each.release), each.publisher, f"{each.share:.1%}",
            f"{each.percent} %", state,
        )  # fmt: skip
    console = Console()
    console.print(roles)
    console.print(channels)
    for problem in found.problems:
        console.print(problem, highlight=False, markup=False)

"""What the commands `edgecl channel ...` print, for machines and for people."""

from dataclasses import asdict
from typing import Any

import rich_click as click
from rich.console import Console
from rich.table import Table

from edgecl_deploy.console import print_json
from edgecl_deploy.format import Channel
from edgecl_export.channel.publish import Published
from edgecl_export.channel.renew import Refreshed
from edgecl_export.channel.status import Status

Said = tuple[dict[str, Any], str]  # for machines, for people
Result = Channel | Published | Refreshed | Said


def show(result: Result, as_json: bool) -> None:
    """Print the result of a command."""
    value, text = said(result)
    print_json(value) if as_json else click.echo(text)


def said(result: Result) -> Said:
    """Describe the result of a command."""
    match result:
        case Channel():
            return channel_said(result)
        case Published():
            value, text = channel_said(result.channel)
            value |= {
                "new_objects": result.objects,
                "new_bytes": result.size,
                "known_objects": result.known,
            }
            added = f"{result.objects} new objects ({result.size} bytes), {result.known} known"
            return value, f"{text}; {added}"
        case Refreshed():
            text = f"signed {', '.join(result.signed)}"
            if result.missing:
                text += f"; about to expire, its keys not at hand: {', '.join(result.missing)}"
            return asdict(result), text
    return result


def channel_said(channel: Channel) -> Said:
    """Describe a channel as it is now."""
    rollout = channel.rollout
    value = {
        "channel": channel.name,
        "release": channel.number,
        "digest": channel.release,
        "publisher": channel.publisher,
        "min_release": channel.min_release,
        "purge": channel.purge,
        "halted": channel.halted,
        "rollout": None if rollout is None else rollout.to_json(),
        "bundle": None if channel.bundle is None else channel.bundle.to_json(),
    }
    text = f"{channel.name}: release {channel.number} ({channel.release[:12]})"
    if channel.bundle is not None:
        text += f", bundle {channel.bundle.name} ({channel.bundle.sha256[:12]})"
    if channel.halted:
        return value, f"{text}, halted"
    if rollout is None:
        return value, f"{text} for all devices"
    share = f"{rollout.percent} % of the devices within {rollout.duration / 3600:g} h"
    return value, f"{text} for {share}"


def show_status(found: Status, as_json: bool) -> None:
    """Print a site's status."""
    if as_json:
        print_json(found.to_json())
        return
    console = Console()
    console.print(role_table(found))
    console.print(channel_table(found))
    for problem in found.problems:
        console.print(problem, highlight=False, markup=False)


def role_table(found: Status) -> Table:
    """Return one row per role: when its signature expires, and who can renew it."""
    table = Table("role", "version", "expires", "days left", "signs", "keys (* not at hand)")
    for role in found.roles:
        keys = " ".join(f"{keyid[:8]}{'' if here else '*'}" for keyid, here in role.keys.items())
        days = "" if role.days_left is None else f"{role.days_left:.0f}"
        signs = f"{role.threshold} of {len(role.keys)}"
        table.add_row(role.role, str(role.version), (role.expires or "")[:10], days, signs, keys)
    return table


def channel_table(found: Status) -> Table:
    """Return one row per channel: its release, and how many devices may have it."""
    table = Table("channel", "release", "publisher", "devices now", "at the end", "state")
    for each in found.channels:
        state = "halted" if each.halted else "finished" if each.finished else "unfinished"
        shares = (f"{each.share:.1%}", f"{each.percent} %")
        table.add_row(each.name, str(each.release), each.publisher, *shares, state)
    return table

"""The commands that give this device a class of its own, and decide about it later."""

import getpass
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecl_deploy.cli._run import LOCAL_FOLDER, WHERE, running, split
from edgecl_deploy.cli._shared import ATTENTION, F, Group, misused, report, reporting
from edgecl_deploy.console import print_json
from edgecl_deploy.store.layout import LOCAL

if TYPE_CHECKING:
    from edgecl_deploy.enrol.enrolling import Enrolment
    from edgecl_deploy.enrol.listing import Overview
    from edgecl_deploy.enrol.local import Local


@click.command(epilog=f"Exit status: 0, or {ATTENTION} if somebody should look at the warnings.")
@running
@LOCAL_FOLDER
@click.option("--note", default="", metavar="TEXT", help="A remark, for people.")
@click.option("--keep-images", is_flag=True, help="Keep the images, not their features alone.")
@click.option("--force", is_flag=True, help="Even if it takes images of the release's self-test.")
@click.option("--dry-run", is_flag=True, help="Report, and change nothing.")
@click.option(
    "--template",
    "templates",
    multiple=True,
    metavar="TEXT",
    help="With {} for the name; for --by-name.  [default: those of the text program]",
)
@click.option("--text", metavar="TEXT_PROGRAM", help="What embeds the name, for --by-name.")
@click.option("--by-name", is_flag=True, help="By the name alone, without IMAGES.")
@click.argument("paths", nargs=-1, required=True, metavar=f"{WHERE} NAME [IMAGES...]")
def enrol(
    paths: tuple[str, ...],
    local: str | None,
    note: str,
    keep_images: bool,
    force: bool,
    dry_run: bool,
    by_name: bool,
    text: str | None,
    templates: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Teach this device the class NAME from a few IMAGES, without training.

    IMAGES are as for `classify`; five from several sides are a good beginning. Every process that
    serves the STORE takes the class within a second. Each image is judged by the others: would its
    class have won?

    With --by-name there are no images: a release that compares with class names gets one more.
    """
    user = _user()
    path, release, rest = _placed(paths, local)
    how: dict[str, Any] = {"note": note, "force": force, "dry_run": dry_run, "by": user}
    images: list[str] = []
    if by_name:
        if len(rest) != 1 or text is None or keep_images:
            misused("--by-name takes one name, no images, and --text TEXT_PROGRAM.")
        found = _by_name(path, release, rest[0], text, templates, local, how, options)
    else:
        if len(rest) < 2:
            misused("Name the class, and at least one image.")
        if text is not None or templates:
            misused("--text and --template are for --by-name.")
        from edgecl_deploy.listing import find_images
        from edgecl_deploy.runtime import Classifier

        images = list(find_images(rest[1:]))  # before a model is loaded
        with Classifier.open(path, release, local=local, drift=False, **options) as classifier:
            found = classifier.enrol(rest[0], images, keep_images=keep_images, **how)
    if as_json:
        print_json(asdict(found))
    else:
        for line in _told(found, images, dry_run):
            click.echo(line)
    if found.warnings:
        click.get_current_context().exit(ATTENTION)


def _by_name(
    path: str,
    release: str | None,
    name: str,
    text: str,
    templates: tuple[str, ...],
    local: str | None,
    how: dict[str, Any],
    options: dict[str, Any],
) -> "Enrolment":
    from edgecl_deploy.runtime import Classifier
    from edgecl_deploy.text import TextEncoder

    encoder = TextEncoder.open(text, threads=options["threads"])
    with Classifier.open(path, release, local=local, drift=False, **options) as classifier:
        return classifier.enrol_name(name, encoder, templates=templates or None, **how)


def _user() -> str:
    """Return who runs this command; `sudo` tells who was there before."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _told(found: "Enrolment", images: list[str], dry_run: bool) -> Iterator[str]:
    where = "nothing was written" if dry_run else f"local generation {found.local}"
    more = ", more of a class that the release has" if found.known else ""
    shown = f"{found.images} images" if images else "by its name"
    yield f"{found.name}: {shown}{more}; {where}"
    skipped = dict(found.skipped)
    taken = iter(found.loo)
    for place, image in enumerate(images):
        if place in skipped:
            yield f"{image}: skipped: {skipped[place]}"
            continue
        won = next(taken)
        words = {True: "recognised by the others", False: "NOT recognised by the others"}
        yield f"{image}: {words.get(won, 'taken') if won is not None else 'taken'}"
    if found.nearest is not None:
        yield f"nearest: {found.nearest[0]} ({found.nearest[1]:.3f})"
    for warning in found.warnings:
        yield f"warning: {warning}"


def _placed(paths: tuple[str, ...], local: str | None) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the store or bundle, the release of a bundle, and the other arguments."""
    path, release, rest = split(paths)
    if (release is None) != (local is None):
        misused("Use --local DIR with a bundle and a release, and not with a store.")
    if release is None:
        from edgecl_deploy.store.owner import act_as_owner

        act_as_owner(path)
    return path, release, rest


@click.group(cls=Group)
def enrolled() -> None:
    """Show the classes of this device, and decide about them."""


def _about(command: F, rest: str = "") -> F:
    """Add the arguments and options of every command about the classes of a device."""
    paths = click.argument("paths", nargs=-1, required=True, metavar=f"{WHERE}{rest}")
    return reporting(LOCAL_FOLDER(paths(command)))


def _looked(
    paths: tuple[str, ...], local: str | None, names: int | None
) -> "tuple[Local, Overview, tuple[str, ...]]":
    """Return the local folder, what it holds, and the other arguments, any number if None."""
    path, release, rest = _placed(paths, local)
    if names is not None and len(rest) != names:
        misused("Name one class." if names else f"One argument too many: {rest[0]}")
    from edgecl_deploy.enrol.listing import overview
    from edgecl_deploy.enrol.local import Local
    from edgecl_deploy.files import read_bundle, read_release

    if release is None:
        from edgecl_deploy.store.store import Store

        store = Store.open(path)
        bundle, files = store.bundle(), store.read_current()[1]
        folder = store.path / LOCAL
    else:
        bundle, files, folder = read_bundle(path), read_release(release), Path(str(local))
    return Local(folder), overview(folder, bundle, files), rest


@enrolled.command("list")
@_about
def list_(paths: tuple[str, ...], local: str | None, as_json: bool) -> None:
    """List the classes of this device, and whether each answers on the release that serves."""
    _, found, _ = _looked(paths, local, 0)
    if as_json:
        print_json({
            "generation": found.content.number,
            "enrolled": [asdict(each) for each in found.enrolled],
            "hidden": list(found.content.hidden),
        })
        return
    for each in found.enrolled:
        reason = f": {each.reason}" if each.reason else ""
        click.echo(f"{each.name}  {each.images} images  {each.state}{reason}")
    for name in found.content.hidden:
        click.echo(f"{name}  hidden, not erased")
    if not found.enrolled and not found.content.hidden:
        click.echo("This device has no classes of its own.")


def _of_name(command: F) -> F:
    return _about(command, " NAME")


def _of_names(command: F) -> F:
    return _about(command, " [NAMES...]")


@enrolled.command()
@_of_name
def show(paths: tuple[str, ...], local: str | None, as_json: bool) -> None:
    """Show what is known of the class NAME of this device."""
    _, found, (name,) = _looked(paths, local, 1)
    each = [asdict(one) for one in found.enrolled if one.name == name]
    if not each:
        misused(f"This device has no class {name}: see `edgecl-device enrolled list`.")
    if as_json:
        print_json(each)
        return
    for one in each:
        report(one, as_json)


def _written(number: int, as_json: bool, name: str, what: str) -> None:
    if as_json:
        print_json({"name": name, "generation": number})
    else:
        click.echo(f"{name}: {what}; local generation {number}")


@enrolled.command()
@_of_name
@click.option("--purge", is_flag=True, help="Remove it from older generations and from disk, too.")
def remove(paths: tuple[str, ...], local: str | None, purge: bool, as_json: bool) -> None:
    """Remove the class NAME of this device: as if it had never been enrolled.

    Without --purge the generation before still has it, until the next change but one. Flash may
    keep what was written for longer; an encrypted disk is the answer to that.
    """
    from edgecl_deploy.enrol.deciding import remove as take_away

    folder, _, (name,) = _looked(paths, local, 1)
    _written(take_away(folder, name, purge=purge), as_json, name, "purged" if purge else "removed")


@enrolled.command()
@_of_name
@click.option("--keep-both", is_flag=True, help="Both answer under the one name.")
@click.option("--rename", "new", metavar="NEW", help="The class of this device gets another name.")
@click.option("--drop", is_flag=True, help="The class of the release is the right one.")
def resolve(
    paths: tuple[str, ...],
    local: str | None,
    keep_both: bool,
    new: str | None,
    drop: bool,
    as_json: bool,
) -> None:
    """Decide about the class NAME, which this device and the release both have."""
    if sum((keep_both, new is not None, drop)) != 1:
        misused("Choose one of --keep-both, --rename and --drop.")
    from edgecl_deploy.enrol import deciding
    from edgecl_deploy.enrol.enrolling import checked_name

    folder, found, (name,) = _looked(paths, local, 1)
    if keep_both:
        number, what = deciding.keep_both(folder, name), "both answer"
    elif new is not None:
        to = checked_name(new)
        number, what = deciding.rename(folder, name, to, found.classes), f"is {to} now"
    else:
        number, what = deciding.remove(folder, name), "dropped"
    _written(number, as_json, name, what)


@enrolled.command()
@_of_name
@click.option("--off", is_flag=True, help="Answer it again.")
def suppress(paths: tuple[str, ...], local: str | None, off: bool, as_json: bool) -> None:
    """Never answer the class NAME of the release on this device: hidden, not erased."""
    from edgecl_deploy.enrol.deciding import suppress as hide

    folder, found, (name,) = _looked(paths, local, 1)
    number = hide(folder, name, found.classes, off=off)
    _written(number, as_json, name, "answers again" if off else "is hidden, not erased")


@enrolled.command()
@_of_names
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="The new file.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def export(paths: tuple[str, ...], local: str | None, out: str, yes: bool, as_json: bool) -> None:
    """Write sums over the images of this device's classes, or of some of them, for the workstation.

    `edgecl enrolled merge` learns them, without an image. They are NOT anonymous: the sums of a few
    images are as sensitive as the images.
    """
    import time

    from edgecl_deploy.enrol.statistics import SENSITIVE, added
    from edgecl_deploy.manifest.whole import write_whole

    _, found, names = _looked(paths, local, None)
    device = _device_of(paths[0])
    sums = added(found.facts, found.learned, found.states, names, device=device, now=time.time())
    told = ", ".join(f"{each.name} ({each.images} images)" for each in sums.classes)
    if not yes:
        if as_json:
            misused(f"{SENSITIVE} With --json there is no question: say --yes.")
        click.echo(f"{told}: {len(sums.to_bytes())} bytes. {SENSITIVE}", err=True)
        click.confirm("Write them?", abort=True, err=True)
    write_whole(out, sums.to_bytes(), mode=0o600)
    if as_json:
        classes = [each.to_json() for each in sums.classes]
        print_json({"file": out, "id": sums.id, "device": device, "classes": classes})
    else:
        click.echo(f"{out}: {told}; `edgecl enrolled merge RUN {out}` learns them")


def _device_of(path: str) -> str:
    from edgecl_deploy.store.layout import is_store

    if not is_store(path):
        return "a device"
    from edgecl_deploy.store.store import Store

    return Store.open(path).config.device

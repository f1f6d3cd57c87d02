"""The commands that run something: a store, a bundle and a release, or a text program."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecl_deploy.cli._shared import F, misused, report, reporting
from edgecl_deploy.errors import DeployError
from edgecl_deploy.forms import AUTO, FORMS, SLOTS
from edgecl_deploy.manifest.precisions import PRECISIONS
from edgecl_deploy.store.layout import is_store

if TYPE_CHECKING:
    from edgecl_deploy.files import BundleFiles, ReleaseFiles
    from edgecl_deploy.store.store import Store

WHERE = "(STORE | BUNDLE RELEASE)"
LOCAL_FOLDER = click.option(
    "--local",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where the classes of this device are, for BUNDLE RELEASE; a STORE has its own place.",
)
_FEW = 4  # numbers of an embedding that are shown to people


def running(command: F, as_json: str = "Print one JSON document.") -> F:
    """Add the options of every command that runs a classifier.

    Args:
        command: The command.
        as_json: The help of `--json`.
    """
    for option in (
        click.option(
            "--threads", type=click.IntRange(1), help="Threads of one run. [default: all cores]"
        ),
        click.option(
            "--engine",
            default=AUTO,
            show_default=True,
            help="What runs it: see `edgecl-device doctor`.",
        ),
        _choice(
            "--precision",
            PRECISIONS,
            "A variant that the bundle has and the release is licensed for.",
        ),
        _choice(
            "--slots",
            SLOTS,
            "Fixed is for engines that take no empty tensors; needs --form staged.",
        ),
        _choice("--form", FORMS, "One graph, or encode, match and classify: what the engine runs."),
    ):
        command = option(command)
    return reporting(command, as_json)


def _choice(name: str, values: tuple[str, ...], text: str) -> Callable[[F], F]:
    """Return an option that is left to what was measured, and to the engine, unless it is given."""
    kind = click.Choice((AUTO, *values))
    return click.option(name, type=kind, default=AUTO, show_default=True, help=text)


def store_at(path: str) -> "Store | None":
    """Open a store, None if the path is a bundle."""
    if not is_store(path):
        return None
    from edgecl_deploy.store.store import Store  # POSIX only; a bundle with a release is not

    return Store.open(path)


def split(paths: tuple[str, ...]) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the store or bundle, the release of a bundle, and the other paths."""
    first, *rest = paths
    if is_store(first):
        return first, None, tuple(rest)
    if not rest:
        misused(f"{first} is no store: name a release too, or a store.")
    for path in (first, rest[0]):
        if not Path(path).is_dir():
            misused(f"{path} must be a folder: name a store, or a bundle and a release.")
    return first, rest[0], tuple(rest[1:])


@click.command()
@reporting
@click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False),
    help="The bundle whose images the names are for; another backbone is refused.",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    metavar="TEXT",
    help="With {} for the name.  [default: those of the text program]",
)
@click.argument("path", metavar="TEXT_PROGRAM", type=click.Path(exists=True, file_okay=False))
@click.argument("names", nargs=-1, required=True, metavar="NAMES...")
def text(
    path: str, names: tuple[str, ...], bundle: str | None, templates: tuple[str, ...], as_json: bool
) -> None:
    """Embed class NAMES with a TEXT_PROGRAM.

    With --json: `scale`, the factor on the cosine with an image's embedding, and by name the
    numbers, whose norm is 1. Otherwise the first few.
    """
    from edgecl_deploy.text import TextEncoder

    encoder = TextEncoder.open(path, bundle)
    rows = encoder.embed(names, templates or None)
    if as_json:
        of_name = {name: row.tolist() for name, row in zip(names, rows, strict=True)}
        head = {"clip": encoder.program.clip, "backbone": encoder.program.backbone}
        click.echo(json.dumps({**head, "scale": encoder.scale, "embeddings": of_name}))
        return
    for name, row in zip(names, rows, strict=True):
        few = ", ".join(f"{value:.4f}" for value in row[:_FEW])
        click.echo(f"{name}: [{few}, ...]  {len(row)} numbers")


@click.command()
@reporting
@click.argument("paths", nargs=-1, metavar="[STORE | BUNDLE [RELEASE]]")
def info(paths: tuple[str, ...], as_json: bool) -> None:
    """Show versions, and the content of a STORE, or of BUNDLE and RELEASE."""
    import edgecl_deploy
    from edgecl_deploy import engines, format
    from edgecl_deploy.engines.processor import cpu_name
    from edgecl_deploy.files import read_bundle, read_release

    values: dict[str, Any] = {
        "edgecl-deploy": edgecl_deploy.__version__,
        "reads": [
            format.BUNDLE_FORMAT,
            format.REDUCED_FORMAT,
            format.PACK_FORMAT,
            format.RELEASE_FORMAT,
            format.CHANNEL_FORMAT,
            format.TEXT_FORMAT,
        ],
        "engines": {name: _engine_version(name) for name in engines.names()},
        "cpu": cpu_name(),
    }
    store = store_at(paths[0]) if paths else None
    if len(paths) > (2 if store is None else 1):
        misused(f"info takes a store, or a bundle and a release: {paths[-1]}")
    if store is not None:
        values["bundle"] = _about_bundle(read_bundle(store.config.bundle))
        if store.current() is not None:
            values["release"] = _about_release(store.read_current()[1])
    elif paths:
        values["bundle"] = _about_bundle(read_bundle(paths[0]))
        if len(paths) == 2:
            values["release"] = _about_release(read_release(paths[1]))
    report(values, as_json)


def _about_bundle(found: "BundleFiles") -> dict[str, Any]:
    return {
        "digest": found.digest,
        "backbone": found.bundle.backbone.name,
        "programs": sorted(found.bundle.programs),
        "variants": sorted(found.bundle.variants),
        "bytes": sum(ref.size for ref in found.bundle.files()),
    }


def _about_release(files: "ReleaseFiles") -> dict[str, Any]:
    from edgecl_deploy.format import class_rows

    canaries = files.release.canaries
    return {
        "number": files.release.number,
        "digest": files.digest,
        "program": files.release.program,
        "licences": sorted(canaries.variants) if canaries is not None else [],
        "packs": len(files.packs),
        "classes": len(dict.fromkeys(class_rows(files.packs))),
        "bytes": sum(len(data) for data in (*files.manifests.values(), *files.blobs.values())),
        "bundle": files.release.bundle,
    }


def _engine_version(name: str) -> str:
    from edgecl_deploy import engines

    try:
        return engines.make_engine(name).version
    except DeployError as error:
        return f"not installed. {error.action}"

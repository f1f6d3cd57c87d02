"""The commands of a device: `edgecl-device ...`, or `edgecl device ...` beside the other groups.

Errors are caught here and nowhere else: one line on stderr and exit status 1, 2 for a wrong
command line; `--verbose` shows where it happened.
"""

import importlib.metadata
import json
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import click
from PIL import Image

from edgecl_deploy import engines
from edgecl_deploy.bench import cpu_name, run_bench
from edgecl_deploy.errors import DeployError, OptionError
from edgecl_deploy.files import read_bundle, read_release
from edgecl_deploy.format import BUNDLE_FORMAT, PACK_FORMAT, RELEASE_FORMAT, class_rows
from edgecl_deploy.programs import FORMS, SLOTS
from edgecl_deploy.runtime import Classifier, Prediction

F = TypeVar("F", bound=Callable[..., Any])
_VERBOSE = "edgecl_deploy.verbose"
_FOLDER = click.Path(exists=True, file_okay=False)


class _Group(click.Group):
    """A group that turns our errors into one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DeployError as error:
            if ctx.meta.get(_VERBOSE):
                click.echo(traceback.format_exc().rstrip(), err=True)
            if isinstance(error, OptionError):
                raise click.UsageError(str(error)) from error
            raise click.ClickException(str(error)) from error


def _set_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_VERBOSE] = value


def _shared(command: F) -> F:
    """Add the options of every command that reports."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        click.option(
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_set_verbose,
            help="Show the traceback of an error.",
        ),
    ):
        command = option(command)
    return command


def _running(command: F) -> F:
    """Add the arguments and options of every command that runs a classifier."""
    for option in (
        click.option(
            "--threads", type=click.IntRange(1), help="Threads of one run. [default: all cores]"
        ),
        click.option("--engine", default="onnxruntime", show_default=True, help="What runs it."),
        click.option(
            "--slots",
            type=click.Choice(SLOTS),
            default=SLOTS[0],
            show_default=True,
            help="Fixed is for engines without dynamic shapes; needs --form staged.",
        ),
        click.option(
            "--form",
            type=click.Choice(FORMS),
            default=FORMS[0],
            show_default=True,
            help="One graph, or encode, match and classify.",
        ),
        click.argument("release", type=_FOLDER),
        click.argument("bundle", type=_FOLDER),
    ):
        command = option(command)
    return _shared(command)


@click.group(cls=_Group)
def device() -> None:
    """Classify images on a device, without torch."""
    # Every image has our own pixel limit; Pillow's warning would be a second line.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@device.command()
@_running
@click.option("--top-k", type=click.IntRange(1), default=5, show_default=True, help="Classes.")
@click.argument("images", nargs=-1, required=True, type=click.Path())
def classify(
    bundle: str,
    release: str,
    images: tuple[str, ...],
    top_k: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Label IMAGES with RELEASE on BUNDLE.

    An image that cannot be read is reported and the others are classified; the exit status is
    then 1.
    """
    classifier = Classifier.open(bundle, release, **options)
    predictions = classifier.predict(images, top_k=top_k)
    if as_json:
        pairs = zip(images, predictions, strict=True)
        click.echo(json.dumps([{"image": name, **asdict(each)} for name, each in pairs]))
    else:
        for name, each in zip(images, predictions, strict=True):
            click.echo(f"{name}: {_line(each)}")
    _fail_if_any(predictions)


def _fail_if_any(predictions: list[Prediction]) -> None:
    failed = sum(each.error is not None for each in predictions)
    if failed:
        raise click.ClickException(
            f"{failed} of {len(predictions)} images could not be classified; the output says why."
        )


def _line(prediction: Prediction) -> str:
    if prediction.error is not None:
        return f"error: {prediction.error}"
    top = ", ".join(f"{label} {score:.3f}" for label, score in prediction.top)
    unknown = " (unknown: below the release's threshold)" if prediction.known is False else ""
    match = " ".join(map(str, prediction.match))
    return f"{prediction.label}{unknown}  [{top}]  match {match}  release {prediction.release}"


@device.command()
@_running
@click.option("--batch", type=click.IntRange(1, 1024), default=1, show_default=True, help="Images.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=3.0, show_default=True, help="How long."
)
def bench(
    bundle: str, release: str, batch: int, seconds: float, as_json: bool, **options: Any
) -> None:
    """Measure milliseconds per image by stage, and per swap."""
    classifier = Classifier.open(bundle, release, **options)
    result = run_bench(classifier, release, batch=batch, seconds=seconds)
    _report(result.to_json(), as_json)


@device.command()
@_shared
@click.argument("bundle", required=False, type=_FOLDER)
@click.argument("release", required=False, type=_FOLDER)
def info(bundle: str | None, release: str | None, as_json: bool) -> None:
    """Show versions, and what BUNDLE and RELEASE hold."""
    report: dict[str, Any] = {
        "edgecl-deploy": importlib.metadata.version("edgecl-deploy"),
        "reads": [BUNDLE_FORMAT, PACK_FORMAT, RELEASE_FORMAT],
        "engines": {name: _engine_version(name) for name in engines.names()},
        "cpu": cpu_name(),
    }
    if bundle is not None:
        found = read_bundle(bundle)
        report["bundle"] = {
            "digest": found.digest,
            "backbone": found.bundle.backbone.name,
            "programs": sorted(found.bundle.programs),
            "bytes": sum(ref.size for ref in found.bundle.files()),
        }
    if release is not None:
        files = read_release(release)
        report["release"] = {
            "number": files.release.number,
            "digest": files.digest,
            "program": files.release.program,
            "packs": len(files.packs),
            "classes": len(dict.fromkeys(class_rows(files.packs))),
            "bytes": sum(len(data) for data in (*files.manifests.values(), *files.blobs.values())),
            "bundle": files.release.bundle,
        }
    _report(report, as_json)


def _engine_version(name: str) -> str:
    try:
        return engines.make_engine(name).version
    except DeployError as error:
        return f"not installed. {error.action}"


def _report(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(values))
        return
    for key, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {_short(each)}" for name, each in value.items())
        click.echo(f"{key:14} {_short(value)}")


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def main() -> None:
    """Run the script `edgecl-device`."""
    device(prog_name="edgecl-device")

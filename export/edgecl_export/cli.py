"""The commands `edgecl export ...`.

What they run is imported when they run, so that their help starts without torch and onnx.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from edgecl_deploy.console import (
    device_option,
    json_option,
    max_pixels_option,
    path_type,
    print_json,
    quiet_option,
    reporter_for,
)
from edgecl_deploy.manifest.precisions import PRECISIONS
from edgecl_export.extras import explain_missing

if TYPE_CHECKING:
    from edgecl_export.verification import Verification

engine_option = click.option(
    "--engine",
    default="onnxruntime",
    show_default=True,
    help="What runs the program, by the names of `edgecl-device doctor`.",
)
out_option = click.option("-o", "--out", type=path_type, required=True, help="The folder to write.")


class Exporting(click.RichGroup):
    """A group whose commands name the extra where a package is missing."""

    def invoke(self, ctx: click.Context) -> Any:
        with explain_missing():
            return super().invoke(ctx)


@click.group(cls=Exporting)
def export() -> None:
    """Export a backbone once, and what was learned as packs and releases."""


@export.command("bundle")
@click.argument("run", type=path_type)
@click.option(
    "--capacity",
    type=click.IntRange(1),
    help="Tasks that fixed slots hold, where they grow by task.  [default: 20]",
)
@out_option
@quiet_option
@json_option
def bundle_command(run: Path, capacity: int | None, out: Path, quiet: bool, as_json: bool) -> None:
    """Export the backbone and program of RUN, once; an existing bundle takes the program in."""
    from edgecl_deploy.files import read_bundle
    from edgecl_export import export_bundle

    digest = export_bundle(run, out, capacity=capacity, reporter=reporter_for(as_json, quiet))
    programs = sorted(read_bundle(out).bundle.programs)
    show({"bundle": str(out), "digest": digest, "programs": programs}, as_json)


@export.command("quantize")
@click.argument("bundle", type=path_type)
@click.option(
    "--run", type=path_type, required=True, help="On whose images the weights are rounded."
)
@click.option(
    "--images",
    type=click.IntRange(32),
    default=64,
    show_default=True,
    help="Training images of the run.",
)
@click.option(
    "--group",
    type=click.IntRange(0, 4096),
    default=64,
    show_default=True,
    help="Activations that share a scale where an engine rounds them; 0 for none.",
)
@quiet_option
@json_option
def quantize_command(
    bundle: Path, run: Path, images: int, group: int, quiet: bool, as_json: bool
) -> None:
    """Add int8 weights to BUNDLE, for every program that lacks them.

    The digest of the bundle changes: do it before devices are set up. A device runs them for
    releases that `edgecl export release --precision int8` has licensed.
    """
    from edgecl_deploy.files import read_bundle
    from edgecl_export import quantize_bundle

    reporter = reporter_for(as_json, quiet)
    digest = quantize_bundle(bundle, run, images=images, group=group, reporter=reporter)
    variant = read_bundle(bundle).bundle.variants["int8"]
    facts = {"weights_bytes": variant.weights.size, "group": variant.group}
    show({"bundle": str(bundle), "digest": digest, "int8": facts}, as_json)


@export.command("float16")
@click.argument("bundle", type=path_type)
@quiet_option
@json_option
def float16_command(bundle: Path, quiet: bool, as_json: bool) -> None:
    """Add matrix products in float16 to BUNDLE, for GPUs, for every program that lacks them.

    The digest of the bundle changes: do it before devices are set up. A device runs them for
    releases that `edgecl export release --precision float16` has licensed.
    """
    from edgecl_deploy.files import read_bundle
    from edgecl_export import export_float16

    digest = export_float16(bundle, reporter=reporter_for(as_json, quiet))
    variant = read_bundle(bundle).bundle.variants["float16"]
    facts = {"weights_bytes": variant.weights.size}
    show({"bundle": str(bundle), "digest": digest, "float16": facts}, as_json)


@export.command("pack")
@click.argument("run", type=path_type)
@click.option("--task", type=int, help="One task, from 0.  [default: all that PACKS lacks]")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "bits"]),
    default="float16",
    show_default=True,
    help="bits: what a schedule with bits has rounded ships exactly, in few; all else as float16.",
)
@click.option(
    "--unknown",
    type=click.Choice(["subspace", "cosine"]),
    default="subspace",
    show_default=True,
    help="What tells an image of no class; cosine takes a tenth of the bytes and tells less.",
)
@out_option
@json_option
def pack_command(
    run: Path, task: int | None, dtype: Any, unknown: Any, out: Path, as_json: bool
) -> None:
    """Write the packs of RUN's tasks; shows what each adds to those before it."""
    from edgecl_export import export_packs
    from edgecl_export.inspection import packs_bytes

    ids = export_packs(run, out, None if task is None else [task], dtype, unknown)
    # Ids are for machines; a person wants to know that a task is small.
    facts = {"ids": ids} if as_json else {"tasks": len(ids)}
    show({"packs": str(out), **facts, **packs_bytes(out)}, as_json)


@export.command("release")
@click.argument("packs", type=path_type)
@click.option(
    "--bundle", type=path_type, required=True, help="The bundle that the release is tested on."
)
@click.option(
    "--number", type=click.IntRange(1), help="Of the release.  [default: the number of packs]"
)
@click.option("--tasks", type=click.IntRange(1), help="Release the first tasks only.")
@click.option(
    "--canaries",
    type=click.IntRange(0),
    default=8,
    show_default=True,
    help="Newest tasks with a canary image.",
)
@click.option("--unknown-below", type=float, help="Scores below it count as unknown.")
@click.option(
    "--unknown-alpha",
    type=float,
    help="Share of the images of a class that may be called unknown.  [default: 0.05]",
)
@click.option(
    "--figures",
    type=path_type,
    metavar="RUN",
    help="Bring what RUN measured on images of no class.",
)
@click.option(
    "--enrolment",
    type=path_type,
    metavar="RUN",
    help="Ship what its head is solved from, so that devices can enrol classes.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS[1:]),
    multiple=True,
    help="Measure it, and license devices to run the release in it.",
)
@click.option("--run", type=path_type, help="Measure on its images.  [default: on the canaries]")
@click.option("--engine", help="What runs the precision.  [default: every one that can here]")
@click.option("--force", is_flag=True, help="License whatever the measurement finds.")
@out_option
@json_option
def release_command(
    packs: Path,
    bundle: Path,
    precisions: tuple[str, ...],
    run: Path | None,
    engine: str | None,
    force: bool,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Write a release of PACKS with canaries, tested on the bundle."""
    from edgecl_deploy.files import read_release
    from edgecl_export import Licensing, export_release

    licensing = Licensing(precisions, run, engine, force) if precisions else None
    digest = export_release(packs, out, bundle, licensing=licensing, **options)
    found: dict[str, Any] = {"release": str(out), "digest": digest}
    if precisions:
        canaries = read_release(out).release.canaries
        assert canaries is not None  # a licence needs them
        found["licences"] = {name: each.to_json() for name, each in canaries.variants.items()}
    show(found, as_json)


@export.command("text")
@click.argument("clip")
@click.option("--weights", type=path_type, help="A local weights file of the whole model.")
@click.option("--image-size", type=int, help="Pixels, as the bundle has.  [default: the model's]")
@click.option(
    "--template",
    "templates",
    multiple=True,
    metavar="TEXT",
    help="With {} for the name; several are averaged.  [default: the model's]",
)
@out_option
@json_option
def text_command(
    clip: str, templates: tuple[str, ...], out: Path, as_json: bool, **model: Any
) -> None:
    """Write the text tower of CLIP, with which a device embeds new class names.

    CLIP is edgecl-clip-s, clip-b32, clip-b16, open_clip:MODEL[/TAG], or a JSON file in open_clip's
    format.
    """
    from edgecl.backbones import load_clip
    from edgecl_export import export_text

    done = export_text(load_clip(clip, **model), out, templates or None)
    show({"text": str(out), **asdict(done)}, as_json)


@export.command("verify")
@click.argument("run", type=path_type)
@click.argument("bundle", type=path_type)
@click.argument("release", type=path_type)
@device_option
@engine_option
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=PRECISIONS[0],
    show_default=True,
    help="In which it runs; the release must be licensed for it.",
)
@max_pixels_option
@quiet_option
@json_option
def verify_command(
    run: Path, bundle: Path, release: Path, quiet: bool, as_json: bool, **options: Any
) -> None:
    """Compare PyTorch with the device's runtime on fresh images; fails when they differ.

    With int8, ONNX Runtime must equal the rounded weights. What OpenVINO rounds in addition is
    bounded by the licence of RELEASE; here the error and the agreement are shown.
    """
    from edgecl_export import verify

    reporter = reporter_for(as_json, quiet)
    result = verify(run, bundle, release, reporter=reporter, **options)
    print_json(result.to_json()) if as_json else print_verification(result)


@export.command("check")
@click.argument("bundle", type=path_type)
@click.option("--target", "names", multiple=True, help="Check for it alone; may be repeated.")
@json_option
@click.pass_context
def check_command(ctx: click.Context, bundle: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Look for what TensorRT would refuse in the graphs of BUNDLE, without a GPU; fails if any."""
    from edgecl_export.targets import check_bundle

    refused = check_bundle(bundle, names)
    print_json({"bundle": str(bundle), "refused": refused}) if as_json else print_refused(refused)
    if any(refused.values()):
        ctx.exit(1)


@export.command("inspect")
@click.argument("path", type=path_type)
@json_option
def inspect_command(path: Path, as_json: bool) -> None:
    """Show any bundle, packs folder, release, text program or run."""
    from edgecl_export import inspect

    show(inspect(path), as_json)


def show(value: dict[str, Any], as_json: bool) -> None:
    """Print a nested mapping for machines or for people."""
    if as_json:
        print_json(value)
        return
    tree = Tree(str(value.get("kind", next(iter(value)))))
    _grow(tree, value)
    Console().print(tree, highlight=False)


def _grow(tree: Tree, value: dict[str, Any]) -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            _grow(tree.add(str(key)), item)
        else:
            text = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
            tree.add(f"{key}: {text}")


def print_verification(result: "Verification") -> None:
    """Print one row per form."""
    table = Table(
        "form",
        "slots",
        "score error",
        "labels differ",
        "matches differ",
        "batch error",
        "compared",
        title=f"{result.method}, {result.tasks} tasks, {result.engine}, {result.precision}, "
        f"tolerance {result.tolerance:g}",
    )
    for check in result.checks:
        table.add_row(
            check.form,
            check.slots,
            f"{check.score_error:.1e}",
            str(check.disagreements),
            str(check.match_disagreements),
            f"{check.batch_error:.1e}",
            str(check.images),
        )
    console = Console()
    console.print(table)
    console.print(
        f"labels of the packs agree with the float32 run on {result.agreement:.1%} of real images"
    )
    print_refused(result.refused)


def print_refused(refused: Mapping[str, Sequence[str]]) -> None:
    """Print what each target would refuse."""
    for name, sentences in refused.items():
        click.echo(f"{name}: {len(sentences) or 'nothing'} to refuse")
        for sentence in sentences:
            click.echo(f"  {sentence}")

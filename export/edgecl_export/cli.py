"""The commands `edgecl export ...`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import rich_click as click
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from edgecl.backbones import load_clip
from edgecl.cli import device_option, json_option, print_json, quiet_option, reporter_for
from edgecl.learning.runs import Run
from edgecl.program import Program
from edgecl.session import open_learner
from edgecl_deploy.files import read_bundle
from edgecl_export.bundle import export_bundle
from edgecl_export.inspection import inspect
from edgecl_export.pack import Dtype, export_packs
from edgecl_export.release import export_release
from edgecl_export.text import export_text
from edgecl_export.verification import Verification, verify

path_type = click.Path(path_type=Path)
out_option = click.option("-o", "--out", type=path_type, required=True, help="The folder to write.")


@click.group()
def export() -> None:
    """Export a backbone once, and what was learned as packs and releases."""


@export.command("bundle")
@click.argument("run", type=path_type)
@click.option(
    "--capacity",
    type=click.IntRange(1),
    default=Program.capacity,
    show_default=True,
    help="Tasks that fixed slots have room for, where they grow by task.",
)
@out_option
@quiet_option
@json_option
def bundle_command(run: Path, capacity: int, out: Path, quiet: bool, as_json: bool) -> None:
    """Export the backbone and program of RUN, once; an existing bundle takes the program in."""
    learner = open_learner(run, device="cpu")
    program = replace(learner.method.program, capacity=capacity)
    digest = export_bundle(program, learner.backbone, out, reporter_for(as_json, quiet))
    say(
        {
            "bundle": str(out),
            "digest": digest,
            "programs": sorted(read_bundle(out).bundle.programs),
        },
        as_json,
    )


@export.command("pack")
@click.argument("run", type=path_type)
@click.option("--task", type=int, help="One task, from 0.  [default: all that PACKS lacks]")
@click.option("--dtype", type=click.Choice(get_args(Dtype)), default="float16", show_default=True)
@out_option
@json_option
def pack_command(run: Path, task: int | None, dtype: Any, out: Path, as_json: bool) -> None:
    """Write the packs of RUN's tasks."""
    ids = export_packs(Run.open(run), out, None if task is None else [task], dtype)
    say({"packs": str(out), "ids": ids}, as_json)


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
@out_option
@json_option
def release_command(packs: Path, bundle: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Write a release of PACKS with canaries, tested on the bundle."""
    digest = export_release(packs, out, bundle, **options)
    say({"release": str(out), "digest": digest}, as_json)


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
    clip: str,
    weights: Path | None,
    image_size: int | None,
    templates: tuple[str, ...],
    out: Path,
    as_json: bool,
) -> None:
    """Write the text tower of CLIP, with which a device embeds new class names.

    CLIP is edgecl-clip-s, clip-b32, clip-b16, open_clip:MODEL[/TAG], or a JSON file in open_clip's
    format.
    """
    model = load_clip(clip, weights=weights, image_size=image_size)
    say({"text": str(out), **asdict(export_text(model, out, templates or None))}, as_json)


@export.command("verify")
@click.argument("run", type=path_type)
@click.argument("bundle", type=path_type)
@click.argument("release", type=path_type)
@device_option
@quiet_option
@json_option
def verify_command(
    run: Path, bundle: Path, release: Path, device: Any, quiet: bool, as_json: bool
) -> None:
    """Compare PyTorch with the device's runtime on fresh images; fails when they differ."""
    learner = open_learner(run, device=device, reporter=reporter_for(as_json, quiet))
    result = verify(learner, bundle, release)
    print_json(result.to_json()) if as_json else print_verification(result)


@export.command("inspect")
@click.argument("path", type=path_type)
@json_option
def inspect_command(path: Path, as_json: bool) -> None:
    """Show any bundle, packs folder, release, text program or run."""
    say(inspect(path), as_json)


def say(value: dict[str, Any], as_json: bool) -> None:
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


def print_verification(result: Verification) -> None:
    """Print one row per form."""
    table = Table(
        "form",
        "slots",
        "score error",
        "labels differ",
        "matches differ",
        "batch error",
        "compared",
        title=f"{result.method}, {result.tasks} tasks, tolerance {result.tolerance:g}",
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

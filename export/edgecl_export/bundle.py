"""The bundle: a backbone and the programs of methods on it, exported once.

Another method adds its program; another task changes nothing.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from torch import nn

from edgecl.backbones import Backbone
from edgecl.learning.learner import Learner
from edgecl.program import Program
from edgecl.program.injectors import Branches
from edgecl.program.injectors.branches import BRANCHES
from edgecl_deploy.files import BUNDLE_FILE, read_bundle
from edgecl_deploy.format import (
    INT8,
    Bundle,
    FileRef,
    LearnedSpec,
    Preprocessing,
    SlotSpec,
    Staged,
    Variant,
)
from edgecl_deploy.format import Backbone as BackboneRef
from edgecl_deploy.format import Program as ProgramEntry
from edgecl_deploy.manifest.whole import sync
from edgecl_deploy.progress import Reporter
from edgecl_export import __version__
from edgecl_export.errors import GraphError
from edgecl_export.parity import check_program
from edgecl_export.programs import trace_program
from edgecl_export.quantize.keeping import keep_int8, same_graphs, same_weights
from edgecl_export.sources import learner_of
from edgecl_export.weights import WEIGHTS_FILE, WeightsFile, copy_bundle

# Of float32 ONNX Runtime against PyTorch, relative to the scale of the values.
TOLERANCE = {"scores": 1e-4, "feature": 1e-4}


def export_bundle(
    source: Learner | str | Path,
    out: str | Path,
    *,
    capacity: int | None = None,
    reporter: Reporter | None = None,
) -> str:
    """Export the backbone and the program of a learner, once.

    Args:
        source: a learner, or the folder of its run.
        out: a new folder, or a bundle of the same backbone, which takes the program in.
        capacity: tasks that fixed slots hold, where they grow by task.

    Returns:
        The digest of the bundle.
    """
    learner = learner_of(source, device="cpu")
    program = learner.method.program
    if capacity is not None:
        program = replace(program, capacity=capacity)
    with on_cpu(learner.backbone.model):
        return export_program(program, learner.backbone, Path(out), reporter)


@contextmanager
def on_cpu(model: nn.Module) -> Iterator[None]:
    """Keep a model on the CPU, where graphs are traced and checked."""
    device = next(model.parameters()).device
    model.to("cpu")
    try:
        yield
    finally:
        model.to(device)


def export_program(
    program: Program, backbone: Backbone, out: Path, reporter: Reporter | None = None
) -> str:
    """Export a program, into a new bundle or next to the programs of an existing one.

    The folder is made next to `out` and renamed: a bundle is there whole or not at all, and what
    `out` held before stays until then.

    Returns:
        The digest of the bundle.

    Raises:
        GraphError: if the existing bundle is of another backbone, or a graph differs from PyTorch.
    """
    reporter = reporter or Reporter()
    recover(out)
    former = read_bundle(out).bundle if out.exists() else None
    if former is not None and former.backbone.digest != backbone.digest:
        raise GraphError(
            f"To take another program, {out} must be a bundle of the backbone "
            f"{backbone.digest[:12]}, got {former.backbone.digest[:12]}. Export to a new folder."
        )
    if former is not None:
        known = former.programs.get(program.name)
        if (
            known is not None
            and known.interface == program.interface
            and has_capacity(known, program)
        ):
            return read_bundle(out).digest
    work = out.with_name(f".{out.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    if former is None:
        work.mkdir(parents=True)
    else:
        copy_bundle(out, work)
        for stale in work.glob(f"{program.name}.*.onnx"):
            stale.unlink()
    entry = write_program(program, backbone, work, reporter)
    check_program(program, backbone, entry, work)
    weights = file_ref(work / WEIGHTS_FILE)
    if backbone.rounded:
        entry = replace(entry, variants={INT8: same_graphs(entry)})
        variants: Mapping[str, Variant] = same_weights(weights)
    else:
        variants = former.variants if former else {}
    bundle = Bundle(
        backbone=BackboneRef(backbone.name, backbone.digest, backbone.width),
        preprocessing=Preprocessing(**vars(backbone.preprocess)),
        weights=weights,
        programs={**(former.programs if former else {}), program.name: entry},
        created_by=f"edgecl-export {__version__}",
        variants=variants,
        foreign=former.foreign if former else {},
    )
    return finish(bundle, work, out)


def finish(bundle: Bundle, work: Path, out: Path) -> str:
    """Write the manifest of a bundle, and put its finished folder in place.

    Returns:
        The digest of the bundle.
    """
    (work / BUNDLE_FILE).write_bytes(bundle.to_bytes())
    for path in [*work.iterdir(), work]:
        sync(path)
    replace_folder(work, out)
    return read_bundle(out).digest


def has_capacity(entry: ProgramEntry, program: Program) -> bool:
    """Return whether all fixed slots of an exported program are large enough for a program."""
    slots = program.slots()
    return all(entry.slots[name].capacity >= slot.capacity for name, slot in slots.items())


def write_program(
    program: Program, backbone: Backbone, folder: Path, reporter: Reporter
) -> ProgramEntry:
    """Trace a program's graphs, write them into a bundle's folder and describe them."""
    with reporter.bar(f"exporting {program.name}", 1) as advance:
        graphs = trace_program(program, backbone)
        advance()
    weights = WeightsFile(folder)
    written: dict[int, FileRef] = {}

    def write(model: ir.Model, form: str) -> FileRef:
        if id(model) not in written:
            if backbone.rounded:
                keep_int8(model)
            weights.externalise(model)
            path = folder / f"{program.name}.{form}.onnx"
            ir.save(model, path)
            written[id(model)] = file_ref(path)
        return written[id(model)]

    return ProgramEntry(
        interface=program.interface,
        learned={
            name: LearnedSpec(item.axis_names, dict(item.sizes), item.concat_axis)
            for name, item in program.declare().items()
        },
        passes=program.passes,
        slots={
            name: SlotSpec(
                axes=tuple(slot.axes.split()),
                sizes=dict(slot.sizes),
                pad_axis=slot.pad_axis,
                capacity=slot.capacity,
                masked=slot.masked,
                source=slot.source,
            )
            for name, slot in program.slots().items()
        },
        matcher=program.matcher.name,
        fused=write(graphs.fused, "fused"),
        staged=Staged(
            match=None if graphs.match is None else write(graphs.match, "match"),
            classify=write(graphs.classify, "classify"),
            encode_dynamic=write(graphs.encode_dynamic, "encode"),
            encode_fixed=write(graphs.encode_fixed, "encode.fixed"),
        ),
        tolerance=TOLERANCE,
        taps=program.taps,
        tokens=program.reads_tokens,
        branches=BRANCHES if isinstance(program.injector, Branches) else None,
        enrol=program.enrol,
    )


def file_ref(path: Path) -> FileRef:
    """Describe a file of a bundle."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return FileRef(path.name, digest.hexdigest(), path.stat().st_size)


def replace_folder(new: Path, target: Path) -> None:
    """Replace a folder by a finished one; `recover` repairs what a kill in between leaves."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Bring back the bundle that an interrupted export moved aside, or drop the replaced one."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        os.replace(old, target)

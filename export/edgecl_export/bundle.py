"""The bundle: a backbone and the programs of methods on it, exported once.

Later methods are added; later tasks change nothing.
"""

import hashlib
import os
import shutil
from pathlib import Path

import onnx_ir as ir

from edgecl import __version__
from edgecl.backbones import Backbone
from edgecl.learning.runs import sync
from edgecl.methods import Method
from edgecl.program.injectors import Branches
from edgecl.program.injectors.branches import BRANCHES
from edgecl.progress import Reporter
from edgecl_deploy.files import BUNDLE_FILE, read_bundle
from edgecl_deploy.format import Backbone as BackboneRef
from edgecl_deploy.format import (
    Bundle,
    FileRef,
    LearnedSpec,
    Preprocessing,
    Program,
    SlotSpec,
    Staged,
)
from edgecl_export.errors import GraphError
from edgecl_export.parity import check_program
from edgecl_export.programs import trace_program
from edgecl_export.weights import WEIGHTS_FILE, WeightsFile, copy_bundle

# Of float32 ONNX Runtime against PyTorch, relative to the scale of the values.
TOLERANCE = {"scores": 1e-4, "feature": 1e-4}


def export_bundle(
    method: Method, backbone: Backbone, out: Path, reporter: Reporter | None = None
) -> str:
    """Export a method's program, into a new bundle or beside the programs of an existing one.

    The folder is made beside `out` and renamed: a bundle is there whole or not at all, and what
    `out` held before stays until then.

    Returns:
        The digest of the bundle.

    Raises:
        GraphError: if the existing bundle is of another backbone, or a graph does not say what
            PyTorch says.
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
        known = former.programs.get(method.name)
        if known is not None and known.interface == method.interface and roomy(known, method):
            return read_bundle(out).digest
    work = out.with_name(f".{out.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    if former is None:
        work.mkdir(parents=True)
    else:
        copy_bundle(out, work)
        for stale in work.glob(f"{method.name}.*.onnx"):
            stale.unlink()
    program = write_program(method, backbone, work, reporter)
    check_program(method, backbone, program, work)
    bundle = Bundle(
        backbone=BackboneRef(backbone.name, backbone.digest, backbone.width),
        preprocessing=Preprocessing(**vars(backbone.preprocess)),
        weights=file_ref(work / WEIGHTS_FILE),
        programs={**(former.programs if former else {}), method.name: program},
        created_by=f"edgecl-export {__version__}",
    )
    (work / BUNDLE_FILE).write_bytes(bundle.to_bytes())
    for path in [*work.iterdir(), work]:
        sync(path)
    replace_folder(work, out)
    return read_bundle(out).digest


def roomy(program: Program, method: Method) -> bool:
    """Say whether the fixed slots of a program have all the room that the method's have."""
    slots = method.slots()
    return all(program.slots[name].capacity >= slot.capacity for name, slot in slots.items())


def write_program(method: Method, backbone: Backbone, folder: Path, reporter: Reporter) -> Program:
    """Trace a method's graphs, write them into a bundle's folder and describe them."""
    with reporter.bar(f"exporting {method.name}", 1) as advance:
        graphs = trace_program(method, backbone)
        advance()
    weights = WeightsFile(folder)
    written: dict[int, FileRef] = {}

    def write(model: ir.Model, form: str) -> FileRef:
        if id(model) not in written:
            weights.externalise(model)
            path = folder / f"{method.name}.{form}.onnx"
            ir.save(model, path)
            written[id(model)] = file_ref(path)
        return written[id(model)]

    return Program(
        interface=method.interface,
        learned={
            name: LearnedSpec(item.axis_names, dict(item.sizes), item.concat_axis)
            for name, item in method.declare().items()
        },
        passes=method.passes,
        slots={
            name: SlotSpec(
                axes=tuple(slot.axes.split()),
                sizes=dict(slot.sizes),
                pad_axis=slot.pad_axis,
                capacity=slot.capacity,
                masked=slot.masked,
                source=slot.source,
            )
            for name, slot in method.slots().items()
        },
        matcher=method.matcher.name,
        fused=write(graphs.fused, "fused"),
        staged=Staged(
            match=None if graphs.match is None else write(graphs.match, "match"),
            classify=write(graphs.classify, "classify"),
            encode_dynamic=write(graphs.encode_dynamic, "encode"),
            encode_fixed=write(graphs.encode_fixed, "encode.fixed"),
        ),
        tolerance=TOLERANCE,
        taps=method.taps,
        tokens=method.tokens,
        branches=BRANCHES if isinstance(method.injector, Branches) else None,
    )


def file_ref(path: Path) -> FileRef:
    """Describe a file of a bundle."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return FileRef(path.name, digest.hexdigest(), path.stat().st_size)


def replace_folder(new: Path, target: Path) -> None:
    """Put a finished folder in the place of another; `recover` mends a kill in between."""
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

"""The variant int8 of a bundle, made once from the images of a run."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgecl.backbones.rounding import Rounded
from edgecl.learning.learner import Learner
from edgecl.program.learned import join
from edgecl_deploy.engines import Arrays, Graph, make_engine
from edgecl_deploy.files import read_bundle
from edgecl_deploy.format import (
    GROUPS,
    INT8,
    W8_COLUMN,
    Bundle,
    CalibrationImages,
    Program,
    Variant,
    is_group,
)
from edgecl_deploy.progress import Reporter
from edgecl_export.bundle import file_ref, finish, recover
from edgecl_export.errors import GraphError
from edgecl_export.parity import REFERENCE
from edgecl_export.quantize.calibration import Images, calibrate, feature_errors
from edgecl_export.quantize.gptq import gptq
from edgecl_export.quantize.reference import write_dequantised
from edgecl_export.quantize.rewriting import quantise, read_rounded, uses
from edgecl_export.samples import TRAIN, samples_of
from edgecl_export.sources import learner_of
from edgecl_export.variants import write_graphs
from edgecl_export.weights import constant, copy_bundle

WEIGHTS = "weights.int8.bin"
LEAST = 32  # images
TOLERANCE = 1e-4  # of ONNX Runtime against the rounded weights, relative to the largest value
CHECKED = 4  # images

AllRounded = dict[str, Rounded]


def quantize_bundle(
    bundle: str | Path,
    source: Learner | str | Path,
    *,
    images: int = 64,
    group: int = 64,
    reporter: Reporter | None = None,
) -> str:
    """Add the variant int8 to every program of a bundle that lacks it.

    A program that has it stays as it is, and so do the weights that it shares with others.

    Args:
        source: a learner on the bundle's backbone, or the folder of its run, on whose training
            images the weights are rounded.
        images: how many of them.
        group: how many activations share a scale where an engine rounds them; 0 for none.

    Returns:
        The digest of the bundle.

    Raises:
        GraphError: if the run is of another backbone or has too few images, or the bundle has
            nothing to quantise, or there are no such groups, or it has the variant with others.
    """
    if not is_group(group):
        raise GraphError(f"The group must be {GROUPS}, got {group}. Leave it out for 64.")
    out, reporter = Path(bundle), reporter or Reporter()
    recover(out)
    files = read_bundle(out)
    held = files.bundle.variants.get(INT8)
    if held is not None and held.group != group:
        raise GraphError(
            f"All programs of a bundle must share one group of activations, which is {held.group} "
            f"in {out}, got {group}. Leave --group out, or export a new bundle."
        )
    lacking = [name for name, each in files.bundle.programs.items() if INT8 not in each.variants]
    if held is not None and not lacking:
        return files.digest
    learner = learner_of(source, device="cpu")
    pixels = calibration_images(learner, files.bundle, images)
    work = out.with_name(f".{out.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    copy_bundle(out, work)
    rounded = rounded_before(work, files.bundle)
    programs = dict(files.bundle.programs)
    lacking.sort(key=lambda name: name != learner.program.name)  # its own pass comes first
    for name in lacking:
        learned = first_learned(learner) if name == learner.program.name else None
        round_weights(work, programs[name], pixels, learned, rounded, reporter)
        programs[name] = write_variant(work, name, programs[name], rounded)
        check_encode(work, programs[name], rounded, pixels[:CHECKED])
    if held is None:
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        images_ref = CalibrationImages(len(pixels), digest)
        held = Variant(file_ref(work / WEIGHTS), W8_COLUMN, group, images_ref)
    else:
        held = replace(held, weights=file_ref(work / WEIGHTS))
    variants = {**files.bundle.variants, INT8: held}
    return finish(replace(files.bundle, programs=programs, variants=variants), work, out)


def calibration_images(learner: Learner, bundle: Bundle, count: int) -> Images:
    """Return training images of what a run has learned.

    Raises:
        GraphError: if there are too few, or they are prepared for another backbone.
    """
    if learner.backbone.digest != bundle.backbone.digest:
        raise GraphError(
            f"The run must be of the bundle's backbone {bundle.backbone.digest[:12]}, got "
            f"{learner.backbone.digest[:12]}. Name a run that was exported to this bundle."
        )
    found = samples_of(learner, count, (TRAIN,))
    if len(found) < LEAST:
        raise GraphError(
            f"Weights are rounded on at least {LEAST} images, got {len(found)}. "
            "Raise --images, or name a run whose stream has more images and can be read."
        )
    return found.images


def first_learned(learner: Learner) -> Arrays:
    """Return what a run learned in the first of its tasks, as the graphs take it."""
    first = min(learner.run.present(), default=0)
    learned = join(learner.declared, learner.run.parts()[: first + 1])
    return {name: tensor.cpu().numpy() for name, tensor in learned.items()}


def rounded_before(folder: Path, bundle: Bundle) -> AllRounded:
    """Return the int8 weights of the programs that have the variant already."""
    found: AllRounded = {}
    for program in bundle.programs.values():
        if INT8 in program.variants:
            floats = ir.load(folder / program.staged.encode_dynamic.file)
            variant = ir.load(folder / program.variants[INT8].encode_dynamic.file)
            found |= read_rounded(floats, variant)
    return found


def round_weights(
    folder: Path,
    program: Program,
    pixels: Images,
    learned: Arrays | None,
    rounded: AllRounded,
    reporter: Reporter,
) -> None:
    """Round the weights of a program that no other program has.

    Args:
        rounded: takes them in, by the content of the float weight.
    """
    moments = calibrate(folder, program, pixels, learned, rounded)
    model = ir.load(folder / program.staged.encode_dynamic.file)
    with reporter.bar("rounding weights", len(moments)) as advance:
        for use in uses(model):
            if use.key not in rounded:
                weight = constant(use.node.inputs[1])
                assert weight is not None
                rounded[use.key] = gptq(weight.astype(np.float32), moments[use.key])
                advance()


def write_variant(
    folder: Path, name: str, program: Program, rounded: Mapping[str, Rounded]
) -> Program:
    """Write the graphs of a program with int8 weights, and return its entry.

    A graph without a weight that becomes int8 is a GraphError.
    """

    def change(model: ir.Model, file: str) -> None:
        if not any(uses(model)):
            raise GraphError(
                f"A program with int8 weights needs a MatMul with a large weight, got none in "
                f"{file}. Backbones of convolutions alone stay in float32."
            )
        quantise(model, rounded)

    return write_graphs(folder, name, program, INT8, WEIGHTS, change)


def check_encode(
    folder: Path, program: Program, rounded: Mapping[str, Rounded], images: Images
) -> None:
    """Compare a rewritten graph with the float graph that has the rounded weights.

    Raises:
        GraphError: if they differ by more than rounding of float32.
    """
    engine = make_engine(REFERENCE)
    with tempfile.TemporaryDirectory() as scratch:
        floats = program.staged.encode_dynamic.file
        write_dequantised(ir.load(folder / floats), rounded, Path(scratch) / floats)
        wanted = engine.load(Graph(Path(scratch) / floats))
    own = engine.load(Graph(folder / program.variants[INT8].encode_dynamic.file, precision=INT8))
    for name, error in feature_errors(program, own, wanted, images):
        if not error <= TOLERANCE:
            raise GraphError(
                f"A graph with int8 weights must equal its rounded weights within {TOLERANCE:g}, "
                f"got a relative error of {error:.1e} in {name} of {program.fused.file}. The "
                "bundle is left as it was; report this with the version of onnxruntime."
            )

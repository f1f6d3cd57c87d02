"""The variant float16 of a bundle, for GPUs: half the bytes, and matrix products in float16.

What is a matrix product in a block (with a large weight, or of attention) reads and gives float16;
all else stays float32: norms, softmax, sums, what was learned, the inputs and outputs of a graph.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgecl_deploy.engines import Graph, make_engine
from edgecl_deploy.files import read_bundle
from edgecl_deploy.format import FLOAT16, HALF_MATMUL, Program, Variant
from edgecl_deploy.progress import Reporter
from edgecl_export.bundle import file_ref, finish, recover
from edgecl_export.errors import GraphError
from edgecl_export.parity import REFERENCE
from edgecl_export.quantize.calibration import feature_errors
from edgecl_export.quantize.rewriting import uses
from edgecl_export.variants import write_graphs
from edgecl_export.weights import constant, copy_bundle, drop_unread

WEIGHTS = "weights.float16.bin"
HEADS = 4  # axes of both factors of an attention product, [b, heads, n, d]
TOLERANCE = 2e-2  # of the features against float32, relative to the largest value
CHECKED = 4  # images of noise
LARGEST = float(np.finfo(np.float16).max)


def export_float16(bundle: str | Path, *, reporter: Reporter | None = None) -> str:
    """Add the variant float16 to every program of a bundle that lacks it.

    A program without a large weight, with one that is too large for float16, or with features that
    differ from float32 by more than rounding is a GraphError; the bundle is then left as it was.

    Args:
        bundle: its digest changes; a program that has the variant stays as it is.

    Returns:
        The digest of the bundle.
    """
    out, reporter = Path(bundle), reporter or Reporter()
    recover(out)
    files = read_bundle(out)
    programs = dict(files.bundle.programs)
    lacking = [name for name, each in programs.items() if FLOAT16 not in each.variants]
    if not lacking:
        return files.digest
    work = out.with_name(f".{out.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    copy_bundle(out, work)
    with reporter.bar("writing float16", len(lacking)) as advance:
        for name in lacking:
            programs[name] = write_graphs(work, name, programs[name], FLOAT16, WEIGHTS, halve)
            check_encode(work, programs[name], files.bundle.preprocessing.size)
            advance()
    own = Variant(file_ref(work / WEIGHTS), HALF_MATMUL, 0, None)
    variants = {**files.bundle.variants, FLOAT16: own}
    return finish(replace(files.bundle, programs=programs, variants=variants), work, out)


def halve(model: ir.Model, file: str) -> None:
    """Let the matrix products of a graph's blocks compute in float16.

    Raises:
        GraphError: if no MatMul has a large weight, or a weight is too large.
    """
    chosen = {use.node for use in uses(model)}
    if not chosen:
        raise GraphError(
            f"A program in float16 needs a MatMul with a large weight in float32, got none in "
            f"{file}. Backbones of convolutions alone, and those with int8 weights, stay as they "
            "are."
        )
    chosen |= set(attention(model))
    halves: dict[ir.Value, ir.Value] = {}
    for node in [each for each in model.graph if each in chosen]:  # in order: a Cast comes first
        for index, value in enumerate(node.inputs):
            assert value is not None
            if value not in halves:
                array = constant(value)
                halves[value] = (
                    cast(model.graph, node, value) if array is None else held(model, value, array)
                )
            node.replace_input_with(index, halves[value])
        widen(model.graph, node)
    drop_unread(model.graph)


def attention(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the products of attention: both factors are computed, and have heads."""
    for node in model.graph:
        if node.op_type == "MatMul":
            shapes = [None if value is None else value.shape for value in node.inputs]
            computed = all(constant(value) is None for value in node.inputs)
            if computed and all(shape is not None and len(shape) == HEADS for shape in shapes):
                yield node


def held(model: ir.Model, value: ir.Value, array: np.ndarray) -> ir.Value:
    """Add a weight in float16.

    Raises:
        GraphError: if it is too large.
    """
    largest = float(np.abs(array).max(initial=0))
    if not largest <= LARGEST:
        raise GraphError(
            f"float16 holds values up to {LARGEST:g}, got {value.name} with {largest:.4g}. "
            "This backbone stays in float32 and bfloat16."
        )
    name = f"{value.name}_half"
    tensor = ir.Tensor(array.astype(np.float16), name=name)
    made = ir.Value(
        name=name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
    )
    model.graph.register_initializer(made)
    return made


def cast(graph: ir.Graph, reader: ir.Node, value: ir.Value) -> ir.Value:
    """Add a Cast to float16 of what is computed, before its first reader."""
    made = ir.Value(
        name=f"{value.name}_half", type=ir.TensorType(ir.DataType.FLOAT16), shape=value.shape
    )
    graph.insert_before(reader, casting(value, made, ir.DataType.FLOAT16))
    return made


def widen(graph: ir.Graph, node: ir.Node) -> None:
    """Let a node give float16, and a Cast give float32 to what reads it."""
    output = node.outputs[0]
    wide = ir.Value(
        name=f"{output.name}_wide", type=ir.TensorType(ir.DataType.FLOAT), shape=output.shape
    )
    output.replace_all_uses_with(wide)
    output.type = ir.TensorType(ir.DataType.FLOAT16)
    graph.insert_after(node, casting(output, wide, ir.DataType.FLOAT))


def casting(source: ir.Value, output: ir.Value, to: ir.DataType) -> ir.Node:
    """Return a Cast."""
    attributes = [ir.AttrInt64("to", int(to))]
    return ir.Node("", "Cast", [source], attributes, outputs=[output], name=f"{output.name}_Cast")


def check_encode(folder: Path, program: Program, side: int) -> None:
    """Compare a graph in float16 with the one in float32, on noise.

    Raises:
        GraphError: if the features differ by more than rounding, or are no numbers.
    """
    noise = np.random.default_rng(0).integers(0, 256, (CHECKED, side, side, 3), np.uint8)
    engine = make_engine(REFERENCE)
    variant = program.variants[FLOAT16].encode_dynamic.file
    own = engine.load(Graph(folder / variant, precision=FLOAT16))
    floats = engine.load(Graph(folder / program.staged.encode_dynamic.file))
    for name, error in feature_errors(program, own, floats, noise):
        if not error <= TOLERANCE:
            raise GraphError(
                f"A graph in float16 must equal float32 within {TOLERANCE:g}, got a relative error "
                f"of {error:.1e} in {name} of {program.fused.file}. The bundle is left as it was; "
                "this backbone stays in float32 and bfloat16."
            )

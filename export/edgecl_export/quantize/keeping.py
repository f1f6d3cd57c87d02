"""A backbone whose weights are int8 already: its graphs hold them so, and lose nothing."""

import numpy as np
import onnx_ir as ir

from edgecl.backbones.rounding import Rounded, nearest
from edgecl_deploy.format import INT8, W8_COLUMN, FileRef, Program, ProgramVariant, Variant
from edgecl_export.errors import GraphError
from edgecl_export.quantize.rewriting import quantise, uses
from edgecl_export.weights import constant

GROUP = 64  # activations that share a scale where an engine rounds them
NEAR = 1e-6  # of the scale: the exporter may multiply a column, which rounds once more


def keep_int8(model: ir.Model) -> None:
    """Write the large weights of a graph as the int8 that they are.

    Raises:
        GraphError: if one has other values than int8 and a scale per column.
    """
    found: dict[str, Rounded] = {}
    for use in uses(model):
        held = constant(use.node.inputs[1])
        assert held is not None
        weight = held.astype(np.float32)
        exact = nearest(weight)
        error = np.abs(exact.dequantised() - weight) / exact.scales
        if not float(error.max(initial=0)) <= NEAR * np.abs(exact.values).max(initial=1):
            raise GraphError(
                f"A graph of a backbone with int8 weights must have the values of int8 in "
                f"{use.weight}, got a weight that is {error.max():.1e} of its scale away. Report "
                "this with the backbone's name."
            )
        found[use.key] = exact
    quantise(model, found)


def same_graphs(program: Program) -> ProgramVariant:
    """Return the variant int8 of a program whose graphs hold int8 weights: these graphs."""
    staged = program.staged
    return ProgramVariant(program.fused, staged.encode_dynamic, staged.encode_fixed)


def same_weights(weights: FileRef) -> dict[str, Variant]:
    """Return the variants of a bundle whose weights file holds int8: that file."""
    return {INT8: Variant(weights, W8_COLUMN, GROUP, None)}

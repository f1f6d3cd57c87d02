"""Graphs with int8 weights: which MatMuls have one, and how it is written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgecl.backbones.rounding import SMALLEST, Rounded
from edgecl_export.errors import GraphError
from edgecl_export.weights import constant, content_key, drop_unread

TOKENS = 3  # axes of the input, [b, n, k]: inside a block; the last projection has [b, k]
DEQUANTISE = "DequantizeLinear"
ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear")


@dataclass(frozen=True)
class Use:
    """A MatMul with a weight that becomes int8.

    Attributes:
        inputs: the name of what is multiplied with it.
        weight: the name of the weight in this graph.
        key: of the weight's content, the same in all graphs.
        shape: `[k, n]`.
    """

    node: ir.Node
    inputs: str
    weight: str
    key: str
    shape: tuple[int, int]


def uses(model: ir.Model) -> Iterator[Use]:
    """Yield the MatMuls whose weight becomes int8, by what they are and never by name.

    The weight is a large constant of two axes, the input is rows of tokens.
    """
    for node in model.graph:
        if node.op_type != "MatMul":
            continue
        inputs, weight = node.inputs
        array = constant(weight)
        if inputs is None or weight is None or array is None or inputs.shape is None:
            continue
        large = array.ndim == 2 and array.dtype == np.float32 and array.nbytes >= SMALLEST
        if large and len(inputs.shape) == TOKENS:
            k, n = array.shape
            yield Use(node, str(inputs.name), str(weight.name), content_key(array), (k, n))


def quantise(model: ir.Model, rounded: Mapping[str, Rounded]) -> None:
    """Write the weights of a graph as int8; those that nothing else reads in float are removed.

    Args:
        rounded: by the content of the float weight.
    """
    graph = model.graph
    done: dict[str, ir.Value] = {}
    for use in list(uses(model)):
        if use.weight not in done:
            done[use.weight] = dequantised(graph, use, rounded[use.key])
        use.node.replace_input_with(1, done[use.weight])
    drop_unread(graph)
    check_rounding(model)


def dequantised(graph: ir.Graph, use: Use, rounded: Rounded) -> ir.Value:
    """Add an int8 weight with its scales before the first node that reads it."""
    made = []
    for suffix, array in (("int8", rounded.values), ("scale", rounded.scales)):
        name = f"{use.weight}_{suffix}"
        tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(
            name=name,
            const_value=tensor,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
        )
        graph.register_initializer(value)
        made.append(value)
    output = ir.Value(
        name=f"{use.weight}_float",
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(use.shape),
    )
    node = ir.Node(
        "",
        DEQUANTISE,
        made,
        [ir.AttrInt64("axis", 1)],
        outputs=[output],
        name=f"{use.weight}_{DEQUANTISE}",
    )
    graph.insert_before(use.node, node)
    return output


def check_rounding(model: ir.Model) -> None:
    """Check that a graph rounds nothing while it runs, and that int8 is weights alone.

    Raises:
        GraphError: if it does.
    """
    for node in model.graph:
        wrong = ""
        if node.op_type in ROUNDING:
            wrong = "rounds activations, by a range that others in the batch or a later pack change"
        elif node.op_type == DEQUANTISE:
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                wrong = "has a zero point"
            elif any(constant(value) is None for value in node.inputs):
                wrong = "reads something that is no weight"
            elif any(
                (use.node.op_type, use.idx) != ("MatMul", 1) for use in node.outputs[0].uses()
            ):
                wrong = "is read by something else than a MatMul as its weight"
        if wrong:
            raise GraphError(
                f"A graph may hold int8 weights without zero points and nothing else that is "
                f"rounded, got the node {node.name} ({node.op_type}), which {wrong}. "
                "Export the bundle again and quantise it with `edgecl export quantize`."
            )


def read_rounded(floats: ir.Model, variant: ir.Model) -> dict[str, Rounded]:
    """Return the int8 weights of a graph by the content of the float weight.

    Args:
        floats: the graph before it was rewritten: its MatMuls have the same names.
        variant: the rewritten graph.
    """
    nodes = {node.name: node for node in variant.graph}
    found: dict[str, Rounded] = {}
    for use in uses(floats):
        source = nodes[use.node.name].inputs[1]
        assert source is not None
        producer = source.producer()
        if producer is None:
            continue
        values, scales = (constant(value) for value in producer.inputs[:2])
        assert values is not None
        assert scales is not None
        found[use.key] = Rounded(values.astype(np.int8), scales.astype(np.float32))
    return found

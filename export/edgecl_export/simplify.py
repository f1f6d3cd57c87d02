"""Rewrites of traced graphs that leave less to compute on the device.

Values stay equal to rounding.

The exporter writes attention as PyTorch decomposes it, and the normalisation of pixels as the
learner computes it. Both cost every image some of its time in every engine. All programs of a
bundle are rewritten alike, so they go on sharing weights. What a rewrite does not recognise stays.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgecl_export.weights import constant, drop_unread


def simplify(model: ir.Model) -> None:
    """Apply all rewrites."""
    graph = model.graph
    for node in [each for each in graph if each.op_type == "Conv"]:
        fold_normalisation(graph, node)
    for node in [each for each in graph if each.op_type == "Reshape"]:
        transpose_at_once(graph, node)
    for node in [each for each in graph if each.op_type == "MatMul"]:
        scale_queries_alone(graph, node)
    remove_dead(graph)


def fold_normalisation(graph: ir.Graph, conv: ir.Node) -> None:
    """Fold `(image / 255 - mean) / std` into a convolution without padding that reads it."""
    if len(conv.inputs) < 3:  # without a bias there is nowhere to put the shift
        return
    weight, bias = (constant(value) for value in conv.inputs[1:3])
    reader = first_reader(conv)
    chain = list(normalisation(reader))
    if len(chain) < 3 or weight is None or bias is None or any(conv.attributes["pads"].as_ints()):
        return
    transpose, *affine, cast = chain
    if perm(transpose) != (0, 3, 1, 2) or cast.op_type != "Cast":
        return
    gain, shift = np.ones(3), np.zeros(3)  # level -> gain * level + shift
    for node in reversed(affine):
        amount = np.asarray(constant(node.inputs[1]), np.float64)
        if node.op_type == "Sub":
            shift = shift - amount
        else:
            gain, shift = gain / amount, shift / amount
    exact = weight.astype(np.float64)  # [out, rgb, h, w]
    levels = ir.node("Transpose", [cast.outputs[0]], {"perm": [0, 3, 1, 2]})
    copy_type(transpose.outputs[0], levels.outputs[0])
    graph.insert_before(reader, levels)
    reader.replace_input_with(0, levels.outputs[0])
    moved = bias + (exact * shift[:, None, None]).sum((1, 2, 3))
    for place, array in ((1, exact * gain[:, None, None]), (2, moved)):
        old = conv.inputs[place]
        assert old is not None
        conv.replace_input_with(place, stored(graph, f"{old.name}_of_levels", array))


def first_reader(conv: ir.Node) -> ir.Node:
    """Return the first node that repeats the images for a convolution alone, else that itself."""
    node = producer(conv.inputs[0])
    while node is not None and node.op_type in {"Expand", "Tile"}:
        if len(list(node.outputs[0].uses())) > 1:
            break
        conv, node = node, producer(node.inputs[0])
    return conv


def normalisation(reader: ir.Node) -> Iterator[ir.Node]:
    """Yield the nodes from a reader of images back to their cast; incomplete if others."""
    node = producer(reader.inputs[0])
    if node is None or node.op_type != "Transpose":
        return
    while node is not None and node.op_type in {"Transpose", "Div", "Sub", "Cast"}:
        amount = constant(node.inputs[1]) if len(node.inputs) == 2 else None
        if node.op_type in {"Div", "Sub"} and (amount is None or amount.size not in {1, 3}):
            return
        yield node
        if node.op_type == "Cast":
            return
        node = producer(node.inputs[0])


def transpose_at_once(graph: ir.Graph, last: ir.Node) -> None:
    """Replace Reshape [b h, n, d], Transpose, Reshape [b, h, d, n] of keys by one Transpose."""
    swap = producer(last.inputs[0])
    if swap is None or swap.op_type != "Transpose" or perm(swap) != (0, 2, 1):
        return
    first = producer(swap.inputs[0])
    if first is None or first.op_type != "Reshape":
        return
    heads, target = first.inputs[0], last.outputs[0]
    if heads is None or heads.shape is None or target.shape is None:
        return
    if len(heads.shape) != 4 or len(target.shape) != 4:
        return
    whole = ir.node("Transpose", [heads], {"perm": [0, 1, 3, 2]})
    copy_type(target, whole.outputs[0])
    graph.insert_before(last, whole)
    target.replace_all_uses_with(whole.outputs[0])


def scale_queries_alone(graph: ir.Graph, product: ir.Node) -> None:
    """Multiply the queries by the square of a scale, where queries and keys are both scaled."""
    queries, keys = (producer(value) for value in product.inputs)
    if queries is None or keys is None or {queries.op_type, keys.op_type} != {"Mul"}:
        return
    scales = [constant(node.inputs[1]) for node in (queries, keys)]
    first, second = scales
    if first is None or second is None or first.size != 1 or not np.array_equal(first, second):
        return
    square = stored(graph, f"{queries.outputs[0].name}_scale", np.square(first))
    scaled = ir.node("Mul", [queries.inputs[0], square])
    copy_type(queries.outputs[0], scaled.outputs[0])
    graph.insert_before(product, scaled)
    product.replace_input_with(0, scaled.outputs[0])
    product.replace_input_with(1, keys.inputs[0])


def remove_dead(graph: ir.Graph) -> None:
    """Remove nodes and weights that nothing reads any more."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    drop_unread(graph)


def producer(value: ir.Value | None) -> ir.Node | None:
    """Return the node that makes a value, None for an input or a constant."""
    return None if value is None else value.producer()


def perm(node: ir.Node) -> tuple[int, ...]:
    """Return how a Transpose orders the axes."""
    return tuple(node.attributes["perm"].as_ints())


def stored(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Add a float32 constant to a graph, or return the one of this name."""
    if name not in graph.initializers:
        tensor = ir.Tensor(np.asarray(array, np.float32), name=name)
        value = ir.Value(
            name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape
        )
        graph.register_initializer(value)
    return graph.initializers[name]


def copy_type(source: ir.Value, target: ir.Value) -> None:
    """Let a new value have the type and shape of the one that it replaces."""
    target.type, target.shape = source.type, source.shape

"""The fused graph of a program, put together from the graphs of its stages.

A trace of all stages as one function would give the same nodes and take as long as the traces of
all stages together. The graphs are joined instead, and what they compute twice is computed once.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.tensor_adapters import from_torch_dtype
from onnxscript.optimizer import optimize_ir

from edgecl_export.errors import GraphError
from edgecl_export.graphs import Input, finish, measure_floats
from edgecl_export.weights import constant, content_key, drop_unread

BATCH = "b"


@dataclass(frozen=True)
class Stage:
    """One graph of several that follow each other.

    Attributes:
        name: comes before the names of its nodes and values.
        takes: what an input has for a name among the stages, where that is another.
        returns: likewise of outputs.
    """

    name: str
    model: ir.Model
    takes: Mapping[str, str] = field(default_factory=dict)
    returns: Mapping[str, str] = field(default_factory=dict)


def compose(
    stages: Sequence[Stage], inputs: Mapping[str, Input], outputs: Sequence[str]
) -> ir.Model:
    """Return the graph of stages, each of which takes what those before it return, by name.

    What no stage returns is an input of the whole. Where stages return the same name, the last
    counts. The stages themselves stay as they are.

    Args:
        inputs: of the whole, in their order; those that no stage takes are left out.
        outputs: names, in their order.

    A stage that takes what neither `inputs` nor a stage before it has is a GraphError, and so is an
    output that no stage returns.
    """
    first = stages[0].model
    whole = ir.Graph([], [], nodes=[], opset_imports=dict(first.opset_imports), name="main_graph")
    given = {name: declared(name, item) for name, item in inputs.items()}
    known = dict(given)
    axes = {axis for item in inputs.values() for axis in item.axes if axis not in item.sizes}
    for stage in stages:
        part = stage.model.graph.clone()
        taken = by_name(part.inputs, stage.takes)
        returned = by_name(part.outputs, stage.returns)
        move(part, whole, stage.name, axes)
        measure_batch(taken.values(), known)
        read = {name: value for name, value in taken.items() if value.uses()}
        require(read, known, f"The stage {stage.name} of a program takes")
        for name, value in read.items():
            value.replace_all_uses_with(known[name])
        known |= returned
    require(outputs, known, "A program answers with")
    whole.inputs.extend(given.values())
    for name in outputs:
        known[name].name = name
        whole.outputs.append(known[name])
    model = ir.Model(whole, ir_version=first.ir_version)
    share_weights(whole)
    measure_floats(model)
    optimize_ir(model)
    finish(model, inputs)
    return model


def declared(name: str, item: Input) -> ir.Value:
    """Return an input of a graph."""
    shape = ir.Shape([item.sizes.get(axis, axis) for axis in item.axes])
    return ir.Value(name=name, shape=shape, type=ir.TensorType(from_torch_dtype(item.dtype)))


def by_name(values: Iterable[ir.Value], others: Mapping[str, str]) -> dict[str, ir.Value]:
    """Return inputs or outputs of a stage by the names that they have among the stages."""
    names = {str(value.name): value for value in values}
    return {others.get(name, name): value for name, value in names.items()}


def require(names: Iterable[str], known: Mapping[str, ir.Value], what: str) -> None:
    """Refuse what is not known.

    Raises:
        GraphError: if there is any.
    """
    if absent := [name for name in names if name not in known]:
        raise GraphError(
            f"{what} inputs and what the stages before it return, got {absent} besides. "
            "Return it from an earlier stage."
        )


def measure_batch(taken: Iterable[ir.Value], known: Mapping[str, ir.Value]) -> None:
    """Take the number of images from the first input that has it: slots and features have it, too.

    So stages measure it alike, and what they compute before they differ is computed once.
    """
    batched = next(value for value in known.values() if has_batch(value))
    for value in taken:
        if has_batch(value):
            for node in value.consumers():
                if node.op_type == "Shape" and node.attributes.get_int("end", 0) == 1:
                    node.replace_input_with(0, batched)


def has_batch(value: ir.Value) -> bool:
    """Return whether the first axis of a value is that of the images."""
    return value.shape is not None and [str(size) for size in value.shape][:1] == [BATCH]


def declared_sizes(shape: ir.Shape | None, axes: Collection[str]) -> ir.Shape | None:
    """Return a shape without the sizes that only its own trace has a name for: `s0`, `p + 5`."""
    if shape is None:
        return None
    return ir.Shape([
        size if isinstance(size, int) or str(size) in axes else None for size in shape
    ])


def move(part: ir.Graph, whole: ir.Graph, prefix: str, axes: Collection[str]) -> None:
    """Move nodes and weights from one graph to another, with a prefix before their names.

    Args:
        axes: names of sizes that mean the same in every stage.
    """
    nodes, weights = list(part), list(part.initializers.values())
    part.outputs.clear()
    part.remove(nodes)
    part.initializers.clear()
    for node in nodes:
        node.name = f"{prefix}/{node.name}"
        for value in node.outputs:
            value.name = f"{prefix}/{value.name}"
            value.shape = declared_sizes(value.shape, axes)
    for value in weights:
        value.name = f"{prefix}/{value.name}"
        whole.register_initializer(value)
    whole.extend(nodes)


def share_weights(graph: ir.Graph) -> None:
    """Keep one of the weights of equal bytes: a pass over the backbone is in several stages."""
    kept: dict[tuple[object, ...], ir.Value] = {}
    for value in graph.initializers.values():
        array = constant(value)
        assert array is not None
        value.replace_all_uses_with(
            kept.setdefault((value.dtype, array.shape, content_key(array)), value)
        )
    drop_unread(graph)

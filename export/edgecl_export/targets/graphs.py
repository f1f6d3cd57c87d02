"""The rules of a target, on one graph."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgecl_export.targets import Target

BATCH = "b"  # the only axis of `encode` with fixed slots that may change
KINDS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.BOOL: "BOOL",
}


@dataclass(frozen=True, eq=False)
class Examined:
    """A graph with the types of its tensors.

    Attributes:
        constants: by name.
        kinds: the element type of every tensor.
        faults: what every target refuses.
    """

    model: onnx.ModelProto
    constants: Mapping[str, onnx.TensorProto]
    kinds: Mapping[str, int]
    faults: tuple[str, ...]

    def problems(self, target: Target) -> list[str]:
        """Return one sentence for each thing in the graph that a target would refuse."""
        found = [*check_opset(self.model, target), *self.faults]
        for node in self.model.graph.node if self.kinds else ():
            found += check_operator(node, self.kinds, target)
            found += check_restrictions(node, self.constants, target)
        return found


def examine(model: onnx.ModelProto) -> Examined:
    """Find the types of a graph, and what every target refuses of it.

    Args:
        model: its weights need not be loaded.
    """
    try:
        typed = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:  # two types meet without a Cast
        fault = f"its types are not consistent: {str(error).splitlines()[0]}"
        return Examined(model, {}, {}, (fault,))
    graph = typed.graph
    constants = constants_of(graph)
    faults = (
        *check_inputs(graph),
        *check_sizes(graph, constants),
        *check_bytes(graph),
        *check_halves(constants),
    )
    return Examined(typed, constants, kinds_of(graph, constants), faults)


def named(node: onnx.NodeProto) -> str:
    """Return how a sentence calls a node."""
    return f"{node.op_type} ({node.output[0]})"


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return what is constant: weights, and the outputs of Constant nodes."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found


def kinds_of(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> dict[str, int]:
    """Return the element type of every tensor."""
    found = {
        value.name: value.type.tensor_type.elem_type
        for value in [*graph.input, *graph.output, *graph.value_info]
    }
    return found | {name: tensor.data_type for name, tensor in constants.items()}


def check_opset(model: onnx.ModelProto, target: Target) -> Iterator[str]:
    """Check whose operators a graph has, and of which version."""
    low, high = target.opset
    for opset in model.opset_import:
        if opset.domain not in {"", "ai.onnx"}:
            yield f"its operators must be those of ONNX, found the domain {opset.domain}"
        elif not low <= opset.version <= high:
            yield f"its opset must be {low} to {high}, found {opset.version}"


def check_inputs(graph: onnx.GraphProto) -> Iterator[str]:
    """Check that the batch is the only dynamic axis: a profile must name a range for each."""
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name in weights:
            continue
        for place, axis in enumerate(value.type.tensor_type.shape.dim):
            if axis.HasField("dim_value"):
                continue
            if not axis.dim_param:
                yield f"axis {place} of the input {value.name} must have a size or a name"
            elif (place, axis.dim_param) != (0, BATCH):
                yield (
                    f"axis {place} of the input {value.name} must be fixed, found the dynamic "
                    f"axis {axis.dim_param}"
                )


def check_sizes(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> Iterator[str]:
    """Check that every tensor has a known rank and no axis of size 0."""
    inferred = {}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.HasField("shape"):
            inferred[value.name] = [
                axis.dim_value if axis.HasField("dim_value") else -1
                for axis in value.type.tensor_type.shape.dim
            ]
    inferred |= {name: list(tensor.dims) for name, tensor in constants.items()}
    for name, sizes in inferred.items():
        if 0 in sizes:
            yield f"{name} must have elements, found the shape {sizes}"
    for node in graph.node:
        for name in filter(None, node.output):
            if name not in inferred:
                yield f"the rank of {name} must be known, {named(node)} hides it"


def check_operator(node: onnx.NodeProto, kinds: Mapping[str, int], target: Target) -> Iterator[str]:
    """Check that the target has an operator, and for that type."""
    allowed = target.operators.get(node.op_type)
    if allowed is None:
        yield f"{named(node)} is no operator of it"
        return
    data = [name for name in node.input[:1] if name] or list(node.output[:1])
    if node.op_type == "Cast":
        data += node.output
    if node.op_type == "Where":
        data = list(node.input[1:])
    for name in data:
        kind = KINDS.get(kinds.get(name, 0), "unknown")
        if kind not in allowed and node.op_type not in {"ConstantOfShape", "Constant"}:
            yield f"{named(node)} takes {', '.join(sorted(allowed))}, found {kind}"


def check_restrictions(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], target: Target
) -> Iterator[str]:
    """Check what the target says of an operator beyond its types."""
    rules = target.restrictions.get(node.op_type, {})
    yield from check_constant_inputs(node, constants, rules)
    if len(list(filter(None, node.output))) > rules.get("outputs", len(node.output)):
        yield f"{named(node)} must have {rules['outputs']} output, found {len(node.output)}"
    for attribute in node.attribute:
        must = rules.get("attributes", {}).get(attribute.name)
        if must is not None and must != onnx.helper.get_attribute_value(attribute):
            yield f"{attribute.name} of {named(node)} must be {must}"


def check_constant_inputs(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], rules: Mapping[str, Any]
) -> Iterator[str]:
    """Check inputs that must be constant, absent or small."""
    inputs = {place: name for place, name in enumerate(node.input) if name}
    for place in rules.get("constant", []):
        if place in inputs and inputs[place] not in constants:
            yield f"input {place} of {named(node)} must be constant"
    for place in rules.get("absent", []):
        if array_of(constants.get(inputs.get(place, ""))).any():
            yield f"input {place} of {named(node)} must be absent or zero"
    for place, limit in rules.get("below", {}).items():
        if (array_of(constants.get(inputs.get(int(place), ""))) >= limit).any():
            yield f"input {place} of {named(node)} must be below {limit}"


def array_of(tensor: onnx.TensorProto | None) -> NDArray[np.generic]:
    """Return a small constant; nothing of what is computed, or stored outside of the graph."""
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return np.zeros(0)
    return np.asarray(numpy_helper.to_array(tensor))


def check_bytes(graph: onnx.GraphProto) -> Iterator[str]:
    """Check that bytes are inputs that a Cast reads: there is no arithmetic on them."""
    inputs = {
        value.name
        for value in graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    for node in graph.node:
        if inputs & set(node.input) and node.op_type != "Cast":
            yield f"{named(node)} must not read bytes, only Cast may"


def check_halves(constants: Mapping[str, onnx.TensorProto]) -> Iterator[str]:
    """Check that no constant overflowed when it became float16."""
    for name, tensor in constants.items():
        half = tensor.data_type == onnx.TensorProto.FLOAT16
        if half and not np.isfinite(array_of(tensor).astype(np.float32)).all():
            yield f"{name} must be finite in float16"

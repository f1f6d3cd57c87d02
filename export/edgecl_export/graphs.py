"""Export of one PyTorch function to one ONNX graph whose learned tensors are inputs."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from edgecl_export.errors import GraphError
from edgecl_export.simplify import simplify
from edgecl_export.weights import drop_unread

# TensorRT 10.3 to 11, OpenVINO and QNN read it; `Attention` (23) is younger than JetPack 6.
OPSET = 20
EXAMPLE = {"b": 2, "c": 3, "r": 4, "p": 6, "t": 5}  # sizes of dynamic axes while tracing
LARGEST = 1 << 16  # bound of a dynamic axis
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Input:
    """One input of a graph.

    Attributes:
        sizes: of the fixed axes; the others are dynamic.
        least: smallest sizes of dynamic axes, 1 where absent.
        most: largest sizes of dynamic axes, `LARGEST` where absent.
    """

    axes: tuple[str, ...]
    sizes: Mapping[str, int]
    dtype: torch.dtype = torch.float32
    least: Mapping[str, int] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)

    def example(self, generator: torch.Generator) -> Tensor:
        shape = [
            self.sizes.get(axis, max(EXAMPLE.get(axis, 2), self.least.get(axis, 1)))
            for axis in self.axes
        ]
        if self.dtype == torch.uint8:
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return torch.randn(shape, generator=generator).to(self.dtype)


class Function(nn.Module):
    """A function of named tensors as a module that owns the backbone and so its weights."""

    def __init__(self, backbone: nn.Module, call: Callable[[Inputs], Inputs]):
        super().__init__()
        self.backbone = backbone
        self.call = call

    def forward(self, inputs: Inputs) -> Inputs:
        return self.call(inputs)


def trace(
    backbone: nn.Module,
    call: Callable[[Inputs], Inputs],
    inputs: Mapping[str, Input],
    outputs: Sequence[str],
) -> ir.Model:
    """Export a function to ONNX.

    Inputs that the function does not use are left out of the graph.

    Args:
        outputs: names, in the order of the function's result.

    A dynamic axis that ended up fixed is a GraphError.
    """
    generator = torch.Generator().manual_seed(0)
    example = {name: item.example(generator) for name, item in inputs.items()}
    dims: dict[str, Any] = {}
    least: dict[str, int] = {}
    for item in inputs.values():
        for axis in item.axes:
            least[axis] = max(least.get(axis, 0), item.least.get(axis, 1))
    for item in inputs.values():
        for axis in item.axes:
            if axis not in item.sizes:
                most = item.most.get(axis, LARGEST)
                dims.setdefault(axis, Dim(axis, min=least[axis], max=most))
    shapes = {
        name: {index: dims[axis] for index, axis in enumerate(item.axes) if axis not in item.sizes}
        for name, item in inputs.items()
    }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.export warns of its own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            Function(backbone, call).eval(),
            (),
            kwargs={"inputs": example},
            dynamic_shapes={"inputs": shapes},
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model
    finish(model, inputs)
    return model


def finish(model: ir.Model, inputs: Mapping[str, Input]) -> None:
    """Rewrite a graph for devices; leave out inputs that it does not use.

    A dynamic axis of an input that ended up fixed is a GraphError.
    """
    fold_weights(model)
    simplify(model)
    measure_floats(model)
    drop_unused(model)
    forget_source(model)
    for value in model.graph.inputs:
        check_axes(value, inputs[str(value.name)])


def check_axes(value: ir.Value, declared: Input) -> None:
    """Refuse a graph input whose dynamic axis was specialised to the example's size.

    Raises:
        GraphError: if one was.
    """
    assert value.shape is not None
    for axis, size in zip(declared.axes, value.shape, strict=True):
        if axis not in declared.sizes and isinstance(size, int):
            raise GraphError(
                f"The axis {axis} of {value.name} must stay dynamic, got the fixed size {size}. "
                "Write the method's function without a Python value of that size."
            )


def fold_weights(model: ir.Model) -> None:
    """Store weights the way MatMul reads them: cut and transposed.

    The exporter folds a transposed weight only where one node uses it, and a cut one never; a
    backbone that runs twice would keep another copy of a weight than the backbone that runs once.
    Graphs can only share weights of equal bytes.
    """
    graph = model.graph
    done: dict[tuple[object, ...], ir.Value] = {}
    for node in list(graph):
        constants = [value.const_value if value else None for value in node.inputs]
        if node.op_type not in {"Slice", "Transpose"} or not all(constants):
            continue
        arrays = [tensor.numpy() for tensor in constants if tensor is not None]
        if node.op_type == "Transpose":
            how: tuple[int, ...] = tuple(node.attributes["perm"].as_ints())
            array = arrays[0].transpose(how)
        else:
            how = tuple(int(number) for numbers in arrays[1:] for number in numbers)
            array = sliced(*arrays)
        source = node.inputs[0]
        assert source is not None
        key = (source.name, node.op_type, *how)
        if key not in done:
            name = f"{source.name}_{node.op_type.lower()}_{len(done)}"
            done[key] = ir.Value(
                name=name,
                const_value=ir.Tensor(np.ascontiguousarray(array), name=name),
                type=source.type,
                shape=ir.Shape(array.shape),
            )
            graph.register_initializer(done[key])
        node.outputs[0].replace_all_uses_with(done[key])
        graph.remove(node, safe=True)
    drop_unread(graph)


def measure_floats(model: ir.Model) -> None:
    """Take sizes from the images as floats: TensorRT reads bytes in a Cast only."""
    graph = model.graph
    for value in graph.inputs:
        casts = [node for node in value.consumers() if node.op_type == "Cast"]
        if value.dtype != ir.DataType.UINT8 or not casts:
            continue
        for node in value.consumers():
            if node.op_type == "Shape":
                node.replace_input_with(0, casts[0].outputs[0])
    graph.sort()


def sliced(
    array: NDArray[np.generic],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    axes: NDArray[np.int64],
    steps: NDArray[np.int64] | None = None,
) -> NDArray[np.generic]:
    """Return what ONNX's Slice makes."""
    cut = [slice(None)] * array.ndim
    for index, axis in enumerate(axes.tolist()):
        step = 1 if steps is None else int(steps[index])
        cut[axis] = slice(int(starts[index]), int(ends[index]), step)
    return array[tuple(cut)]


def drop_unused(model: ir.Model) -> None:
    """Remove inputs that nothing reads."""
    for value in list(model.graph.inputs):
        if not value.uses() and value not in model.graph.outputs:
            model.graph.inputs.remove(value)


def forget_source(model: ir.Model) -> None:
    """Remove what the exporter notes of source files: paths of this machine, other bytes."""
    model.doc_string = None
    model.graph.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()

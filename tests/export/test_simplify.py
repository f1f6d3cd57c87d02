"""Rewrites of graphs: less to compute, the same values; what is not recognised stays."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecl_deploy.engines import Graph, make_engine
from edgecl_deploy.files import read_bundle
from edgecl_export.simplify import simplify

FLOAT, BYTE = TensorProto.FLOAT, TensorProto.UINT8
RNG = np.random.default_rng(0)


def made(
    nodes: list[onnx.NodeProto], inputs: list[tuple[str, int, list[Any]]], **constants: Any
) -> ir.Model:
    """Return a graph with the output `out`."""
    kept = [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    values = [helper.make_tensor_value_info(*each) for each in inputs]
    out = helper.make_tensor_value_info("out", FLOAT, None)
    graph = helper.make_graph(nodes, "test", values, [out], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def ops(model: ir.Model) -> Counter[str]:
    return Counter(each.op_type for each in model.graph)


def run(model: ir.Model, folder: Path, **feeds: np.ndarray) -> np.ndarray:
    path = folder / "graph.onnx"
    ir.save(model, path)
    return make_engine("onnxruntime", 1).load(Graph(path)).run(feeds)["out"]


def check(model: ir.Model, folder: Path, **feeds: np.ndarray) -> tuple[Counter[str], Counter[str]]:
    """Simplify; the output must stay. Return the operators before and after."""
    want, before = run(model, folder, **feeds), ops(model)
    simplify(model)
    got = run(model, folder, **feeds)
    assert got == pytest.approx(want, rel=1e-5, abs=1e-5)
    return before, ops(model)


def pixels(pads: list[int], order: list[int], *extra: onnx.NodeProto) -> ir.Model:
    nodes = [
        node("Cast", "image", "levels", to=FLOAT),
        node("Div", "levels most", "parts"),
        node("Sub", "parts mean", "centred"),
        node("Div", "centred std", "normal"),
        node("Transpose", "normal", "planes", perm=order),
        node("Conv", "planes weight bias", "out" if not extra else "conv", pads=pads),
        *extra,
    ]
    return made(
        nodes,
        [("image", BYTE, ["b", 4, 4, 3])],
        most=np.float32(255),
        mean=np.array([0.4, 0.5, 0.6], np.float32),
        std=np.array([0.2, 0.3, 0.25], np.float32),
        weight=RNG.normal(size=(5, 3, 2, 2)).astype(np.float32),
        bias=RNG.normal(size=5).astype(np.float32),
    )


IMAGES = RNG.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)


def test_the_normalisation_becomes_part_of_the_convolution(tmp_path: Path) -> None:
    before, after = check(pixels([0] * 4, [0, 3, 1, 2]), tmp_path, image=IMAGES)
    assert before - after == Counter(Div=2, Sub=1)


def test_a_convolution_with_padding_keeps_it(tmp_path: Path) -> None:
    """A padded zero is the mean of the data set, not the level 0."""
    before, after = check(pixels([1] * 4, [0, 3, 1, 2]), tmp_path, image=IMAGES)
    assert before == after


def test_a_convolution_without_bias_keeps_it(tmp_path: Path) -> None:
    """That of a CNN, which a batch norm follows."""
    model = pixels([0] * 4, [0, 3, 1, 2])
    conv = next(each for each in model.graph if each.op_type == "Conv")
    conv.resize_inputs(2)
    before, after = check(model, tmp_path, image=IMAGES)
    assert before == after


def test_a_normalisation_that_something_else_reads_stays_for_it(tmp_path: Path) -> None:
    more = [
        node("ReduceMean", "normal", "mean_value", keepdims=0),
        node("Add", "conv mean_value", "out"),
    ]
    before, after = check(pixels([0] * 4, [0, 3, 1, 2], *more), tmp_path, image=IMAGES)
    assert after["Sub"] == before["Sub"] == 1


def attention(scale_keys: float = 0.5, order: tuple[int, ...] = (0, 2, 1)) -> ir.Model:
    nodes = [
        node("Reshape", "keys flat", "rows"),
        node("Transpose", "rows", "columns", perm=list(order)),
        node("Reshape", "columns heads", "turned"),
        node("Mul", "queries scale_q", "scaled_q"),
        node("Mul", "turned scale_k", "scaled_k"),
        node("MatMul", "scaled_q scaled_k", "out"),
    ]
    shape = [2, 3, 4, 4]
    return made(
        nodes,
        [("queries", FLOAT, shape), ("keys", FLOAT, shape)],
        flat=np.array([6, 4, 4]),
        heads=np.array(shape),
        scale_q=np.array([0.5], np.float32),
        scale_k=np.array([scale_keys], np.float32),
    )


HEADS = {name: RNG.normal(size=(2, 3, 4, 4)).astype(np.float32) for name in ("queries", "keys")}


def test_keys_are_turned_at_once_and_only_queries_are_scaled(tmp_path: Path) -> None:
    before, after = check(attention(), tmp_path, **HEADS)
    assert before == Counter(Reshape=2, Transpose=1, Mul=2, MatMul=1)
    assert after == Counter(Transpose=1, Mul=1, MatMul=1)


def test_different_scales_stay(tmp_path: Path) -> None:
    before, after = check(attention(scale_keys=0.25), tmp_path, **HEADS)
    assert after["Mul"] == before["Mul"] == 2


def test_another_order_of_axes_stays(tmp_path: Path) -> None:
    before, after = check(attention(order=(1, 0, 2)), tmp_path, **HEADS)
    assert after["Reshape"] == before["Reshape"] == 2


def test_exported_graphs_have_been_rewritten(programs: Any) -> None:
    """Every block of every program; no pixel is normalised by a node of its own."""
    bundle = read_bundle(programs.bundle)
    assert bundle.bundle.programs
    for name, program in bundle.bundle.programs.items():
        for ref in (program.fused, program.staged.encode_dynamic, program.staged.encode_fixed):
            model = ir.load(bundle.path / ref.file)
            convolutions = [each for each in model.graph if each.op_type == "Conv"]
            assert convolutions, ref.file
            folded = all(map(reads_levels, convolutions))
            assert folded or name == "input-tuning", ref.file  # it adds to normalised pixels
            assert len(convolutions) == 1 or name == "input-tuning", ref.file  # passes share it
            products = [each for each in model.graph if each.op_type == "MatMul"]
            assert not any(map(scales_both, products)), ref.file


def reads_levels(conv: ir.Node) -> bool:
    """Return whether nothing but copies is between a convolution and the cast of the image."""
    node = conv.inputs[0].producer()
    while node.op_type in {"Transpose", "Expand", "Tile"}:
        node = node.inputs[0].producer()
    return node.op_type == "Cast"


def scales_both(product: ir.Node) -> bool:
    """Return whether both factors of a product are multiplied by a constant before."""
    factors = [value.producer() for value in product.inputs]
    return all(
        each is not None and each.op_type == "Mul" and each.inputs[1].const_value is not None
        for each in factors
    )


def test_images_that_are_repeated_are_not_normalised_either(tmp_path: Path) -> None:
    """A program with a pass per task repeats the batch before the convolution."""
    model = pixels([0] * 4, [0, 3, 1, 2])
    conv = next(each for each in model.graph if each.op_type == "Conv")
    times = ir.Value(name="times", const_value=ir.tensor(np.array([2, 1, 1, 1]), name="times"))
    model.graph.register_initializer(times)
    tile = ir.node("Tile", [conv.inputs[0], times])
    model.graph.insert_before(conv, tile)
    conv.replace_input_with(0, tile.outputs[0])
    before, after = check(model, tmp_path, image=IMAGES)
    assert before - after == Counter(Div=2, Sub=1)

"""What TensorRT takes of a graph: the targets, and each rule on a graph that breaks it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from edgecl.methods import methods
from edgecl_deploy.commands import edgecl
from edgecl_deploy.files import read_bundle
from edgecl_export.errors import VerifyError
from edgecl_export.targets import Target, check_bundle, targets
from edgecl_export.targets.graphs import examine

JETSON, NEW = "tensorrt-10.3", "tensorrt-11"
FLOAT, HALF, BYTE, INT = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.UINT8,
    TensorProto.INT64,
)


def graph_of(
    *nodes: onnx.NodeProto,
    inputs: dict[str, tuple[int, list[Any]]] | None = None,
    constants: dict[str, Any] | None = None,
    opset: int = 20,
    domain: str = "",
) -> onnx.ModelProto:
    """Return a graph whose input `x` is float [b, 4], and whose output is that of its last node."""
    values = inputs or {"x": (FLOAT, ["b", 4])}
    made = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, *each) for name, each in values.items()],
        [onnx.ValueInfoProto(name=nodes[-1].output[0])],
        [
            numpy_helper.from_array(np.asarray(each), name)
            for name, each in (constants or {}).items()
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid(domain, opset)])


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), **attributes)


def test_every_target_names_its_source() -> None:
    assert set(targets()) == {JETSON, NEW}
    for name, target in targets().items():
        assert isinstance(target, Target)
        assert (target.name, "onnx/onnx-tensorrt" in target.source) == (name, True)
        assert target.opset[0] < target.opset[1]
        assert set(target.restrictions) <= set(target.operators)
        assert {"MatMul", "LayerNormalization", "Gelu"} <= set(target.operators)


def test_the_newer_one_takes_what_the_older_one_takes() -> None:
    old, new = targets()[JETSON], targets()[NEW]
    assert set(old.operators) < set(new.operators)
    assert all(kinds <= new.operators[name] for name, kinds in old.operators.items())
    assert "Attention" not in old.operators


SOUND = {
    "a product": graph_of(node("MatMul", "x w"), constants={"w": np.ones((4, 2), np.float32)}),
    "bytes through Cast": graph_of(
        node("Cast", "image", "f", to=FLOAT),
        node("ReduceMean", "f axes", keepdims=0),
        inputs={"image": (BYTE, ["b", 8, 8, 3])},
        constants={"axes": np.array([1, 2])},
    ),
    "the best": graph_of(node("TopK", "x k", "y i", sorted=1), constants={"k": np.array([2])}),
    "a size": graph_of(
        node("Shape", "x", "s", start=0, end=1),
        node("ConstantOfShape", "s"),
    ),
}
BROKEN: dict[str, tuple[onnx.ModelProto, str]] = {
    "an operator that it lacks": (
        graph_of(node("DynamicQuantizeLinear", "x", "q s z")),
        r"DynamicQuantizeLinear \(q\) is no operator of it",
    ),
    "a later opset": (graph_of(node("Relu", "x"), opset=25), "its opset must be 9 to 2., found 25"),
    "an older opset": (graph_of(node("Relu", "x"), opset=8), "its opset must be 9 to 2., found 8"),
    "an operator of another domain": (
        graph_of(node("Relu", "x"), domain="com.microsoft", opset=1),
        "found the domain com.microsoft",
    ),
    "a type that it lacks": (
        graph_of(node("Relu", "x"), inputs={"x": (TensorProto.DOUBLE, ["b", 4])}),
        r"Relu \(y\) takes .*, found unknown",
    ),
    "two types without a Cast": (
        graph_of(node("Add", "x h"), inputs={"x": (FLOAT, ["b", 4]), "h": (HALF, ["b", 4])}),
        "its types are not consistent",
    ),
    "another dynamic axis": (
        graph_of(node("Relu", "x"), inputs={"x": (FLOAT, ["b", "p", 4])}),
        "axis 1 of the input x must be fixed, found the dynamic axis p",
    ),
    "a first axis that is not the batch": (
        graph_of(node("Relu", "x"), inputs={"x": (FLOAT, ["r", 4])}),
        "axis 0 of the input x must be fixed, found the dynamic axis r",
    ),
    "an axis without a name": (
        graph_of(node("Relu", "x"), inputs={"x": (FLOAT, [None, 4])}),
        "axis 0 of the input x must have a size or a name",
    ),
    "a tensor without elements": (
        graph_of(
            node("Slice", "x a a one", "empty"),
            node("ReduceSum", "empty one"),
            constants={"a": np.array([1]), "one": np.array([1])},
        ),
        r"empty must have elements, found the shape \[-?\d+, 0\]",
    ),
    "a constant without elements": (
        graph_of(
            node("Concat", "x none", axis=1), constants={"none": np.zeros((1, 0), np.float32)}
        ),
        "none must have elements",
    ),
    "a rank that nobody knows": (
        graph_of(
            node("Reshape", "x s"),
            inputs={"x": (FLOAT, ["b", 4]), "s": (INT, ["b"])},
        ),
        "the rank of y must be known",
    ),
    "axes that are computed": (
        graph_of(
            node("ReduceSum", "x a"),
            inputs={"x": (FLOAT, ["b", 4]), "a": (INT, [1])},
        ),
        r"input 1 of ReduceSum \(y\) must be constant",
    ),
    "a number that is computed": (
        graph_of(node("TopK", "x k", "y i"), inputs={"x": (FLOAT, ["b", 4]), "k": (INT, [1])}),
        r"input 1 of TopK \(y\) must be constant",
    ),
    "too large a number": (
        graph_of(
            node("TopK", "x k", "y i"),
            inputs={"x": (FLOAT, ["b", 9000])},
            constants={"k": np.array([4000])},
        ),
        r"input 1 of TopK \(y\) must be below 3840",
    ),
    "an order that it lacks": (
        graph_of(node("TopK", "x k", "y i", sorted=0), constants={"k": np.array([2])}),
        r"sorted of TopK \(y\) must be 1",
    ),
    "more outputs than it has": (
        graph_of(
            node("LayerNormalization", "x w", "y mean"), constants={"w": np.ones(4, np.float32)}
        ),
        r"LayerNormalization \(y\) must have 1 output, found 2",
    ),
    "a zero point": (
        graph_of(
            node("DequantizeLinear", "q s z"),
            inputs={"q": (TensorProto.INT8, ["b", 4])},
            constants={"s": np.float32(1), "z": np.int8(3)},
        ),
        r"input 2 of DequantizeLinear \(y\) must be absent or zero",
    ),
    "arithmetic on bytes": (
        graph_of(node("Shape", "x"), inputs={"x": (BYTE, ["b", 4])}),
        r"Shape \(y\) must not read bytes, only Cast may",
    ),
    "a mask that overflowed": (
        graph_of(
            node("Add", "x mask"),
            inputs={"x": (HALF, ["b", 4])},
            constants={"mask": np.full(4, -np.inf, np.float16)},
        ),
        "mask must be finite in float16",
    ),
}


@pytest.mark.parametrize("target", [JETSON, NEW])
@pytest.mark.parametrize("name", SOUND)
def test_a_sound_graph_passes(name: str, target: str) -> None:
    assert examine(SOUND[name]).problems(targets()[target]) == []


@pytest.mark.parametrize("target", [JETSON, NEW])
@pytest.mark.parametrize("name", BROKEN)
def test_each_rule_names_what_breaks_it(name: str, target: str) -> None:
    model, words = BROKEN[name]
    found = examine(model).problems(targets()[target])
    assert [each for each in found if re.search(words, each)], found


@pytest.mark.parametrize("name", methods())
def test_tensorrt_takes_the_graphs_of_every_method(world: Any, name: str) -> None:
    assert check_bundle(world.bundle, programs=(name,)) == {JETSON: (), NEW: ()}


def test_the_command_fails_where_something_is_refused(bundle: Path) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(edgecl, ["export", "check", str(bundle), *arguments])
        return result.exit_code, result.stdout

    assert call() == (0, f"{JETSON}: nothing to refuse\n{NEW}: nothing to refuse\n")
    assert json.loads(call("--target", NEW, "--json")[1])["refused"] == {NEW: []}
    ref = read_bundle(bundle).bundle.program("l2p").staged.encode_fixed
    model = onnx.load(str(bundle / ref.file), load_external_data=False)
    model.opset_import[0].version = 30
    data = model.SerializeToString()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnx.load", lambda path, **_: onnx.load_from_string(data))
        code, out = call("--target", JETSON)
    assert code == 1
    assert f"  {ref.file}: its opset must be 9 to 20, found 30" in out


def test_an_unknown_target_is_named(world: Any) -> None:
    with pytest.raises(VerifyError, match=r"must be one of tensorrt-10\.3, .*got 'tensorrt-9'"):
        check_bundle(world.bundle, ["tensorrt-9"])

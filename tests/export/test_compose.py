"""`compose`: stages joined by name, and what they have in common computed once."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from edgecl_export.compose import Stage, compose
from edgecl_export.errors import GraphError
from edgecl_export.graphs import Input

ROW = Input(("b", "d"), {"d": 2})
HEAD = Input(("c", "d"), {"d": 2})
DOUBLE = (
    "(float[b, 2] x) => (float[b, 2] y) { two = Constant<value_float = 2.0>() y = Mul(x, two) }"
)
SCORE = (
    "(float[b, 2] y, float[c, 2] head) => (float[b, c] z) { h = Transpose(head) z = MatMul(y, h) }"
)


def stage(name: str, text: str, **names: dict[str, str]) -> Stage:
    header = '<ir_version: 10, opset_import: ["": 20]>'
    return Stage(name, ir.from_onnx_text(f"{header} {name} {text}"), **names)


def ran(model: ir.Model, path: Path, **feeds: Any) -> list[np.ndarray]:
    ir.save(model, path / "whole.onnx")
    session = onnxruntime.InferenceSession(path / "whole.onnx", providers=["CPUExecutionProvider"])
    rows = {name: np.asarray(rows, np.float32) for name, rows in feeds.items()}
    results: list[np.ndarray] = session.run(None, rows)
    return results


def test_a_stage_takes_what_those_before_it_return(tmp_path: Path) -> None:
    stages = [stage("double", DOUBLE), stage("score", SCORE)]
    model = compose(stages, {"x": ROW, "head": HEAD}, ("z",))
    (scores,) = ran(model, tmp_path, x=[[1, 2]], head=[[1, 0], [0, 1], [1, 1]])
    assert scores.tolist() == [[2, 4, 6]]
    assert [str(value.shape) for value in model.graph.outputs] == ["[b,c]"]


def test_a_stage_has_other_names_among_the_stages(tmp_path: Path) -> None:
    twice = stage("again", DOUBLE, takes={"x": "first"}, returns={"y": "second"})
    stages = [stage("double", DOUBLE, returns={"y": "first"}), twice]
    model = compose(stages, {"x": ROW}, ("second", "first"))
    second, first = ran(model, tmp_path, x=[[1, 2]])
    assert (second.tolist(), first.tolist()) == ([[4, 8]], [[2, 4]])


def test_the_last_stage_that_returns_a_name_counts(tmp_path: Path) -> None:
    again = stage("again", DOUBLE, takes={"x": "y"})
    (found,) = ran(
        compose([stage("double", DOUBLE), again], {"x": ROW}, ("y",)), tmp_path, x=[[1, 2]]
    )
    assert found.tolist() == [[4, 8]]


def test_what_two_stages_compute_is_computed_once() -> None:
    stages = [stage(name, DOUBLE, returns={"y": name}) for name in ("one", "other")]
    add = "(float[b, 2] one, float[b, 2] other) => (float[b, 2] sum) { sum = Add(one, other) }"
    model = compose([*stages, stage("add", add)], {"x": ROW}, ("sum",))
    assert Counter(node.op_type for node in model.graph) == {"Mul": 1, "Add": 1}


def test_all_stages_count_the_images_of_one_input() -> None:
    ones = """(float[b, 2] y) => (float[b, n] ones) {
        n = Shape<start = 0, end = 1>(y) one = Constant<value_ints = [1]>()
        shape = Concat<axis = 0>(n, one) ones = ConstantOfShape(shape)
    }"""
    model = compose([stage("double", DOUBLE), stage("ones", ones)], {"x": ROW}, ("y", "ones"))
    (shape,) = (node for node in model.graph if node.op_type == "Shape")
    assert shape.inputs[0] in model.graph.inputs


def test_the_same_value_under_two_names_is_two_outputs(tmp_path: Path) -> None:
    copy = stage("copy", "(float[b, 2] y) => (float[b, 2] z) { z = Identity(y) }")
    model = compose([stage("double", DOUBLE), copy], {"x": ROW}, ("y", "z"))
    first, second = ran(model, tmp_path, x=[[1, 2]])
    assert first.tolist() == second.tolist() == [[2, 4]]


def test_stages_stay_as_they_are() -> None:
    stages = [stage("double", DOUBLE), stage("score", SCORE)]
    before = [ir.serde.serialize_model(each.model) for each in stages]
    for _ in range(2):
        compose(stages, {"x": ROW, "head": HEAD}, ("z",))
    assert [ir.serde.serialize_model(each.model) for each in stages] == before


def test_inputs_that_no_stage_takes_are_left_out() -> None:
    model = compose([stage("double", DOUBLE)], {"head": HEAD, "x": ROW}, ("y",))
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_sizes_of_an_input_can_be_fixed() -> None:
    fixed = Input(("c", "d"), {"c": 3, "d": 2})
    model = compose([stage("score", SCORE)], {"y": ROW, "head": fixed}, ("z",))
    assert [str(value.shape) for value in model.graph.outputs] == ["[b,3]"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "found"),
    [({"x": ROW}, ("z",), "head"), ({"x": ROW, "head": HEAD}, ("z", "match"), "match")],
)
def test_what_no_stage_returns_is_refused(
    inputs: dict[str, Input], outputs: tuple[str, ...], found: str
) -> None:
    with pytest.raises(GraphError, match=found):
        compose([stage("double", DOUBLE), stage("score", SCORE)], inputs, outputs)

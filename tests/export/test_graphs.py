"""`trace`: names, dynamic axes, and what is cleaned out of a graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from edgecl_export.errors import GraphError
from edgecl_export.graphs import Input, Inputs, trace

WIDTH = 8
ROW = Input(("b", "d"), {"d": WIDTH})
ROWS = Input(("b", "n", "d"), {"d": WIDTH})
HEAD = Input(("c", "d"), {"d": WIDTH})


def run(model: ir.Model, path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    ir.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == list(feeds)
    result: list[np.ndarray] = session.run(None, feeds)
    return result


def test_a_function_becomes_a_graph_of_any_size(tmp_path: Path) -> None:
    layer = nn.Linear(WIDTH, WIDTH)

    def call(inputs: Inputs) -> Inputs:
        return {"scores": layer(inputs["x"]) @ inputs["head"].T}

    model = trace(layer, call, {"x": ROW, "head": HEAD}, ("scores",))
    rng = np.random.default_rng(0)
    for batch, classes in ((1, 1), (5, 1), (1, 9), (2, 3)):
        x = rng.standard_normal((batch, WIDTH)).astype(np.float32)
        head = rng.standard_normal((classes, WIDTH)).astype(np.float32)
        (got,) = run(model, tmp_path / "model.onnx", x=x, head=head)
        with torch.no_grad():
            want = call({"x": torch.from_numpy(x), "head": torch.from_numpy(head)})["scores"]
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


def with_a_written_size(inputs: Inputs) -> Inputs:
    return {"scores": inputs["x"] @ inputs["head"].reshape(3, WIDTH).T}


def with_a_loop(inputs: Inputs) -> Inputs:
    return {"scores": inputs["x"] @ torch.stack(list(inputs["head"])).T}


@pytest.mark.parametrize(
    "call",
    [with_a_written_size, with_a_loop],
    ids=["a written size", "a Python loop"],
)  # fmt: skip
def test_a_function_that_fixes_an_axis_is_refused(call: Callable[[Inputs], Inputs]) -> None:
    with pytest.raises(
        GraphError, match=r"The axis c of head .*without a Python value of that size"
    ):
        trace(nn.Identity(), call, {"x": ROW, "head": HEAD}, ("scores",))


def test_inputs_that_nothing_reads_are_dropped() -> None:
    model = trace(
        nn.Identity(),
        lambda inputs: {"scores": inputs["x"] * 2},
        {"x": ROW, "head": HEAD},
        ("scores",),
    )
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_an_input_that_is_an_output_stays(tmp_path: Path) -> None:
    model = trace(
        nn.Identity(),
        lambda inputs: {"scores": inputs["x"] + 1, "feature": inputs["x"]},
        {"x": ROW},
        ("scores", "feature"),
    )
    x = np.ones((2, WIDTH), np.float32)
    scores, feature = run(model, tmp_path / "model.onnx", x=x)
    np.testing.assert_array_equal(scores, x + 1)
    np.testing.assert_array_equal(feature, x)


def test_names_and_order_are_those_that_were_asked_for() -> None:
    model = trace(
        nn.Identity(),
        lambda inputs: {"one": inputs["x"] + 1, "two": inputs["x"] * 2},
        {"x": ROW},
        ("first", "second"),
    )
    assert [value.name for value in model.graph.outputs] == ["first", "second"]
    shape = model.graph.inputs[0].shape
    assert shape is not None
    assert isinstance(shape[0], ir.SymbolicDim)
    assert shape[1] == WIDTH


@pytest.mark.parametrize("passes", [1, 2])
def test_no_weight_is_transposed_at_run_time(tmp_path: Path, passes: int) -> None:
    """The exporter folds the transpose where one node uses it: used twice, it would stay."""
    layer = nn.Linear(WIDTH, WIDTH, bias=False)
    torch.manual_seed(0)

    def call(inputs: Inputs) -> Inputs:
        x = inputs["x"]
        for _ in range(passes):
            x = torch.relu(layer(x))
        return {"scores": x}

    model = trace(layer, call, {"x": ROWS}, ("scores",))
    for node in model.graph:
        held = node.inputs[0] is not None and node.inputs[0].name in model.graph.initializers
        assert not (node.op_type == "Transpose" and held)
    weights = [value.const_value for value in model.graph.initializers.values()]
    (weight,) = [tensor for tensor in weights if tensor is not None and tensor.size == WIDTH**2]
    np.testing.assert_array_equal(weight.numpy(), layer.weight.detach().numpy().T)
    x = np.random.default_rng(0).standard_normal((3, 2, WIDTH)).astype(np.float32)
    (got,) = run(model, tmp_path / "model.onnx", x=x)
    with torch.no_grad():
        want = call({"x": torch.from_numpy(x)})["scores"].numpy()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_source_is_forgotten() -> None:
    model = trace(
        nn.Linear(WIDTH, 2), lambda inputs: {"scores": inputs["x"] * 3}, {"x": ROW}, ("scores",)
    )
    assert model.doc_string is None
    assert not model.metadata_props
    for node in model.graph:
        assert not node.metadata_props
        assert node.doc_string is None


def test_bytes_come_in_as_bytes(tmp_path: Path) -> None:
    image = Input(("b", "h", "w", "rgb"), {"h": 4, "w": 4, "rgb": 3}, torch.uint8)
    model = trace(
        nn.Identity(),
        lambda inputs: {"scores": inputs["image"].float().mean(dim=(1, 2))},
        {"image": image},
        ("scores",),
    )
    pixels = np.full((3, 4, 4, 3), 200, np.uint8)
    (got,) = run(model, tmp_path / "model.onnx", image=pixels)
    np.testing.assert_array_equal(got, np.full((3, 3), 200, np.float32))


def test_an_axis_may_have_a_least_size(tmp_path: Path) -> None:
    """top-k of k needs an axis of at least k, in the example and in the bounds."""
    keys = Input(("m", "d"), {"d": WIDTH}, least={"m": 5})

    def call(inputs: Inputs) -> Inputs:
        score, index = (inputs["x"] @ inputs["keys"].T).topk(5, dim=-1)
        return {"index": index, "score": score}

    model = trace(nn.Identity(), call, {"x": ROW, "keys": keys}, ("index", "score"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, WIDTH)).astype(np.float32)
    for size in (5, 12):
        bank = rng.standard_normal((size, WIDTH)).astype(np.float32)
        index, _ = run(model, tmp_path / "model.onnx", x=x, keys=bank)
        np.testing.assert_array_equal(index, np.argsort(-(x @ bank.T), axis=1)[:, :5])


def test_examples_are_reproducible() -> None:
    def example(dtype: torch.dtype) -> Any:
        return Input(("b", "c"), {}, dtype).example(torch.Generator().manual_seed(3))

    assert torch.equal(example(torch.float32), example(torch.float32))
    assert example(torch.uint8).dtype == torch.uint8
    assert example(torch.float32).shape == (2, 3)

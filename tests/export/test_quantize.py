"""int8 weights: every method on the tiny backbone, what is written, and what is refused."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto
from tests.export.test_parity import in_batches
from tests.kinds import every_kind

from edgecl.backbones.rounding import nearest
from edgecl.methods import methods
from edgecl_deploy import Classifier
from edgecl_deploy.engines import make_engine
from edgecl_deploy.files import read_bundle, read_release
from edgecl_deploy.forms import Mode
from edgecl_export import export_bundle, quantize_bundle
from edgecl_export.errors import GraphError
from edgecl_export.licence import runs
from edgecl_export.parity import scale_of
from edgecl_export.quantize.reference import write_reference
from edgecl_export.quantize.rewriting import check_rounding, uses
from edgecl_export.quantize.variant import LEAST, WEIGHTS
from edgecl_export.weights import constant

IMAGES = 32
BACKBONE_WEIGHTS = 9  # qkv, output, fc1, fc2 of two blocks; q apart in the last one
every_method = pytest.mark.parametrize("name", methods())


def contents(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


@pytest.fixture(scope="module")
def quantised(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of all methods with the variant int8."""
    bundle = shutil.copytree(world.bundle, tmp_path_factory.mktemp("quantised") / "bundle")
    quantize_bundle(bundle, world.trained["ranpac"].learner, images=IMAGES)
    return bundle


@pytest.fixture(scope="module")
def exported(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of one program."""
    bundle = tmp_path_factory.mktemp("exported") / "one"
    export_bundle(world.trained["simplecil"].learner, bundle)
    return bundle


@pytest.fixture
def one(exported: Path, tmp_path: Path) -> Path:
    """Return a copy of that bundle."""
    return shutil.copytree(exported, tmp_path / "one")


def device(bundle: Path, release: Path, engine: str, precision: str, *form: str) -> Classifier:
    runner = make_engine(engine, 1)
    found = Classifier(read_bundle(bundle), runner, Mode(*form, precision=precision))
    found.serve(found.load(read_release(release)))
    return found


@every_method
def test_onnx_runtime_computes_with_the_rounded_weights(
    world: Any, quantised: Path, tmp_path: Path, name: str
) -> None:
    release = world.wild[name].release["float32"]
    reference = write_reference(read_bundle(quantised), name, tmp_path / "reference")
    want = device(reference, release, "onnxruntime", "float32").scores(world.images)
    plain = device(quantised, release, "onnxruntime", "float32").scores(world.images)
    assert not np.array_equal(want.scores, plain.scores)  # they are rounded
    for form in (("fused",), ("staged", "fixed")):
        own = device(quantised, release, "onnxruntime", "int8", *form)
        for batch in (1, 7):
            got = in_batches(own, world.images, batch)
            np.testing.assert_array_equal(got.match, want.match)
            np.testing.assert_allclose(
                got.scores, want.scores, rtol=0, atol=1e-4 * scale_of(want.scores)
            )


@every_method
def test_an_image_does_not_depend_on_its_batch(world: Any, quantised: Path, name: str) -> None:
    """Where the engine rounds activations, too."""
    alone_as_among_others(world, quantised, name, "int8", atol=1e-5)


@every_kind
def test_with_the_rest_in_bfloat16_neither(world: Any, quantised: Path, name: str) -> None:
    """Kernels of other sizes may round to another number of 8 bits; here they do not."""
    alone_as_among_others(world, quantised, name, "int8-bfloat16", atol=2.0**-7)


def alone_as_among_others(
    world: Any, quantised: Path, name: str, precision: str, atol: float
) -> None:
    if not runs("openvino", precision):
        pytest.skip(f"no openvino that runs {precision} here")
    release = world.wild[name].release["float32"]
    own = device(quantised, release, "openvino", precision)
    alone = in_batches(own, world.images, 1)
    for batch in (2, 7):
        got = in_batches(own, world.images, batch)
        np.testing.assert_array_equal(got.match, alone.match)
        np.testing.assert_allclose(
            got.scores, alone.scores, rtol=0, atol=atol * scale_of(alone.scores)
        )


# -- what is written -------------------------------------------------------------------------------


@every_method
def test_the_weights_of_blocks_are_int8_and_nothing_else_is(quantised: Path, name: str) -> None:
    program = read_bundle(quantised).bundle.programs[name]
    for ref, own in (
        (program.fused, program.variants["int8"].fused),
        (program.staged.encode_fixed, program.variants["int8"].encode_fixed),
    ):
        floats, model = ir.load(quantised / ref.file), ir.load(quantised / own.file)
        check_rounding(model)
        wanted = {use.node.name: use for use in uses(floats)}
        assert len({use.key for use in wanted.values()}) == BACKBONE_WEIGHTS
        for node in model.graph:
            if node.op_type != "MatMul" or node.inputs[1] is None:
                continue
            producer = node.inputs[1].producer()
            is_int8 = producer is not None and producer.op_type == "DequantizeLinear"
            assert is_int8 == (node.name in wanted), node.name
            if is_int8:
                assert producer.attributes["axis"].as_int() == 1
                values, scales = map(constant, producer.inputs)
                assert values.dtype == np.int8
                assert (values.shape, scales.shape) == (wanted[node.name].shape, values.shape[1:])
        left = [tuple(value.shape) for value in model.graph.initializers.values()]
        for use in wanted.values():
            held = [
                constant(value)
                for value in model.graph.initializers.values()
                if tuple(value.shape) == use.shape and value.dtype == ir.DataType.FLOAT
            ]
            assert use.shape in left
            assert not any(np.array_equal(each, constant(use.node.inputs[1])) for each in held)


def test_each_weight_is_in_the_file_once(quantised: Path) -> None:
    bundle = read_bundle(quantised).bundle
    places: dict[tuple[int, int], set[str]] = {}
    data = (quantised / WEIGHTS).read_bytes()
    for program in bundle.programs.values():
        for ref in program.variants["int8"].files():
            graph = onnx.load(quantised / ref.file, load_external_data=False).graph
            for tensor in graph.initializer:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                if entries:
                    assert entries["location"] == WEIGHTS
                    place = int(entries["offset"]), int(entries["length"])
                    assert place[0] % 4096 == 0
                    found = hashlib.sha256(data[place[0] : sum(place)]).hexdigest()
                    places.setdefault(place, set()).add(found)
                else:
                    assert tensor.data_type != TensorProto.INT8
    digests = [each for found in places.values() for each in found]
    assert len(digests) == len(set(digests)) == len(places)
    assert len(data) < 0.5 * bundle.weights.size  # of a tiny backbone, much of which stays float


def test_the_rest_of_a_bundle_is_as_before(world: Any, quantised: Path) -> None:
    before, after = contents(world.bundle), contents(quantised)
    assert {name: after[name] for name in before if name != "bundle.json"} == {
        name: digest for name, digest in before.items() if name != "bundle.json"
    }
    bundle = read_bundle(quantised)
    bundle.verify_files()
    variant = bundle.bundle.variants["int8"]
    assert (variant.scheme, variant.group, variant.calibration.images) == ("w8-column", 64, IMAGES)
    assert set(after) == {"bundle.json"} | {ref.file for ref in bundle.bundle.files()}


def test_the_same_images_give_the_same_bytes(world: Any, one: Path, tmp_path: Path) -> None:
    twin = shutil.copytree(one, tmp_path / "twin")
    learner = world.trained["simplecil"].learner
    first = quantize_bundle(one, learner, images=IMAGES)
    assert quantize_bundle(twin, learner, images=IMAGES) == first
    assert contents(one) == contents(twin)
    other = world.trained["l2p"].learner
    assert quantize_bundle(one, other, images=48) == first  # it has them
    assert contents(one) == contents(twin)


def test_a_program_that_comes_later_shares_the_weights(world: Any, one: Path) -> None:
    quantize_bundle(one, world.trained["simplecil"].learner, images=IMAGES, group=32)
    held = read_bundle(one).bundle
    export_bundle(world.trained["l2p"].learner, one)
    between = read_bundle(one).bundle
    assert "int8" in between.precisions("simplecil")
    assert "int8" not in between.precisions("l2p")
    with pytest.raises(GraphError, match=r"which is 32 in .* got 64"):
        quantize_bundle(one, world.trained["l2p"].learner, images=IMAGES)
    quantize_bundle(one, world.trained["l2p"].learner, images=IMAGES, group=32)
    after = read_bundle(one).bundle
    assert after.programs["simplecil"] == held.programs["simplecil"]
    assert "int8" in after.precisions("l2p")
    grown = after.variants["int8"].weights.size - held.variants["int8"].weights.size
    assert 0 <= grown < 0.05 * held.variants["int8"].weights.size


def test_rounding_on_images_errs_less_than_the_nearest_values(
    world: Any, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = world.trained["simplecil"].learner
    release = world.trained["simplecil"].release["float32"]
    plain = shutil.copytree(one, tmp_path / "plain")
    quantize_bundle(one, learner, images=60)
    monkeypatch.setattr("edgecl_export.quantize.variant.gptq", lambda weight, _: nearest(weight))
    quantize_bundle(plain, learner, images=60)
    real = world.images[:6]
    want = device(one, release, "onnxruntime", "float32").scores(real).feature
    errors = [
        device(bundle, release, "onnxruntime", "int8").scores(real).feature - want
        for bundle in (one, plain)
    ]
    rms = [float(np.sqrt(np.mean(error**2))) for error in errors]
    assert rms[0] <= 0.75 * rms[1]


# -- what is refused -------------------------------------------------------------------------------


def test_too_few_images_are_refused(world: Any, one: Path) -> None:
    before = contents(one)
    with pytest.raises(GraphError, match=rf"at least {LEAST} images, got 31\. Raise --images"):
        quantize_bundle(one, world.trained["simplecil"].learner, images=31)
    with pytest.raises(GraphError, match=r"got 0.*whose stream"):
        quantize_bundle(one, world.wild["simplecil"].learner)
    assert contents(one) == before


@pytest.mark.parametrize("group", [1, 65, 8192])
def test_groups_that_no_reader_takes_are_refused(world: Any, one: Path, group: int) -> None:
    before = contents(one)
    with pytest.raises(GraphError, match=f"group must be 0, or 16 to 4096 .* got {group}"):
        quantize_bundle(one, world.trained["simplecil"].learner, group=group)
    assert contents(one) == before


def test_a_run_of_another_backbone_is_refused(
    world: Any, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = world.trained["simplecil"].learner
    bundle = read_bundle(one).bundle
    text = bundle.to_bytes().replace(bundle.backbone.digest.encode(), b"0" * 64)
    (one / "bundle.json").write_bytes(text)
    with pytest.raises(GraphError, match="must be of the bundle's backbone 000000000000"):
        quantize_bundle(one, learner)


def graph_with(*nodes: onnx.NodeProto, learned: bool = False) -> ir.Model:
    values = [
        onnx.helper.make_tensor("weight", TensorProto.INT8, [2, 2], [1, 2, 3, 4]),
        onnx.helper.make_tensor("scale", TensorProto.FLOAT, [2], [1, 1]),
        onnx.helper.make_tensor("zero", TensorProto.INT8, [2], [0, 0]),
        onnx.helper.make_tensor("one", TensorProto.FLOAT, [], [1]),
    ]
    inputs = [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 2])]
    if learned:
        inputs.append(onnx.helper.make_tensor_value_info("l", TensorProto.INT8, [2, 2]))
    outputs = [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 2])]
    graph = onnx.helper.make_graph(list(nodes), "g", inputs, outputs, values)
    opset = [onnx.helper.make_opsetid("", 20)]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10))


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(op, inputs.split(), output.split(), **attributes)


WEIGHT = node("DequantizeLinear", "weight scale", "w", axis=1)


def test_a_graph_with_int8_weights_passes() -> None:
    check_rounding(graph_with(WEIGHT, node("MatMul", "x w", "y")))


@pytest.mark.parametrize(
    ("nodes", "wrong"),
    [
        ([node("DynamicQuantizeLinear", "x", "q s z"), node("Identity", "x", "y")], "batch"),
        ([node("QuantizeLinear", "x one", "q"), node("Identity", "x", "y")], "batch"),
        (
            [
                node("DequantizeLinear", "weight scale zero", "w", axis=1),
                node("MatMul", "x w", "y"),
            ],
            "zero point",
        ),
        ([node("DequantizeLinear", "l scale", "w", axis=1), node("MatMul", "x w", "y")], "weight"),
        ([WEIGHT, node("MatMul", "w x", "y")], "something else than a MatMul as its weight"),
        ([WEIGHT, node("Gemm", "x w", "y")], "something else than a MatMul as its weight"),
    ],
)
def test_a_graph_that_rounds_otherwise_is_refused(nodes: list[onnx.NodeProto], wrong: str) -> None:
    with pytest.raises(GraphError, match=f"{wrong}.*edgecl export quantize"):
        check_rounding(graph_with(*nodes, learned=True))

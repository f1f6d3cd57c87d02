"""A backbone with int8 weights: the bundle holds them, and a device computes with the same."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from edgecl.backbones import load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.learner import Learner
from edgecl.learning.training import Compute
from edgecl.methods import build_method
from edgecl.session import learn_stream, new_learner
from edgecl.streams import load_stream
from edgecl_deploy import Classifier, engines
from edgecl_deploy.engines import make_engine
from edgecl_deploy.files import BundleFiles, read_bundle, read_release
from edgecl_deploy.forms import Mode
from edgecl_export import export_bundle, quantize_bundle
from edgecl_export.bundle import export_program
from edgecl_export.errors import GraphError
from edgecl_export.licence import Licensing
from edgecl_export.pack import export_packs
from edgecl_export.parity import scale_of
from edgecl_export.quantize.keeping import keep_int8
from edgecl_export.quantize.rewriting import check_rounding
from edgecl_export.release import export_release
from edgecl_export.verification import verify


class Shipped(NamedTuple):
    learner: Learner
    bundle: Path
    release: Path
    images: np.ndarray


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """Return a run on int8 weights, its bundle, and a release with a licence for int8."""
    root = tmp_path_factory.mktemp("rounded")
    backbone = load_backbone("vit-tiny-16", image_size=32, depth=2, random_seed=0, weights="int8")
    stream = load_stream("digits", limit_train=60, limit_test=30, tasks=2)
    learner = new_learner(
        root / "run", "simplecil", backbone, stream, seed=0,
        compute=Compute(torch.device("cpu")), cache=FeatureCache(None, backbone.digest),
    )  # fmt: skip
    learn_stream(learner, stream)
    bundle = root / "bundle"
    export_bundle(learner, bundle)
    export_packs(learner.run, root / "packs", dtype="float32")
    export_release(
        root / "packs", root / "release", bundle, licensing=Licensing(("int8",), learner)
    )
    images = learner.load(stream.tasks[0].test, "").images[:7]
    return Shipped(learner, bundle, root / "release", images)


def answers(shipped: Shipped, engine: str, precision: str, *form: str) -> Any:
    runner = make_engine(engine, 1)
    found = Classifier(read_bundle(shipped.bundle), runner, Mode(*form, precision=precision))
    found.serve(found.load(read_release(shipped.release)))
    return found.scores(shipped.images)


def test_the_bundle_holds_int8_alone(shipped: Shipped) -> None:
    files = read_bundle(shipped.bundle)
    files.verify_files()
    program = files.bundle.programs["simplecil"]
    variant = files.bundle.variants["int8"]
    assert variant.weights == files.bundle.weights
    assert (variant.calibration, variant.group) == (None, 64)
    assert program.variants["int8"].files() == (
        program.fused, program.staged.encode_dynamic, program.staged.encode_fixed,
    )  # fmt: skip
    for ref in (program.fused, program.staged.encode_fixed):
        model = ir.load(shipped.bundle / ref.file)
        check_rounding(model)
        assert sum(node.op_type == "DequantizeLinear" for node in model.graph) == 9
    assert {path.name for path in shipped.bundle.iterdir()} == {
        "bundle.json", *(ref.file for ref in files.bundle.files()),
    }  # fmt: skip


@pytest.mark.parametrize("form", [("fused",), ("staged", "fixed"), ("staged", "dynamic")])
def test_the_device_answers_as_the_learner(shipped: Shipped, form: tuple[str, ...]) -> None:
    want = shipped.learner.predict(shipped.images).scores.numpy()
    for precision in ("float32", "int8"):
        got = answers(shipped, "onnxruntime", precision, *form)
        np.testing.assert_allclose(got.scores, want, rtol=0, atol=1e-5 * scale_of(want))


def test_openvino_rounds_activations_in_int8_alone(shipped: Shipped) -> None:
    if not engines.installed("openvino"):
        pytest.skip("openvino is not installed here")
    want = shipped.learner.predict(shipped.images).scores.numpy()
    floats = np.abs(answers(shipped, "openvino", "float32").scores - want).max()
    rounded = np.abs(answers(shipped, "openvino", "int8").scores - want).max()
    assert floats <= 1e-5 * scale_of(want)
    assert rounded <= 0.05 * scale_of(want)


def test_there_is_nothing_left_to_quantise(shipped: Shipped) -> None:
    digest = read_bundle(shipped.bundle).digest
    assert quantize_bundle(shipped.bundle, shipped.learner) == digest


def test_the_release_has_a_licence(shipped: Shipped) -> None:
    release = read_release(shipped.release).release
    licence = release.licence("int8")
    assert licence is not None
    assert licence.lost == 0


@pytest.mark.parametrize(
    ("engine", "precision"),
    [("onnxruntime", "float32"), ("onnxruntime", "int8"), ("openvino", "int8")],
)
def test_the_release_is_verified(shipped: Shipped, engine: str, precision: str) -> None:
    if not engines.installed(engine):
        pytest.skip(f"{engine} is not installed here")
    found = verify(
        shipped.learner, shipped.bundle, shipped.release, engine=engine, precision=precision
    )
    assert found.checks
    assert not found.mismatches
    assert not any(found.refused.values())


def test_another_program_shares_the_file(shipped: Shipped) -> None:
    backbone = shipped.learner.backbone
    before = read_bundle(shipped.bundle).bundle
    method = build_method("ranpac", BackboneSpec.of(backbone), {"first_session": "none"})
    export_program(method.program, backbone, shipped.bundle)
    after: BundleFiles = read_bundle(shipped.bundle)
    after.verify_files()
    assert after.bundle.variants["int8"].weights == after.bundle.weights
    assert after.bundle.weights.size < 1.2 * before.weights.size
    assert after.bundle.precisions("ranpac") == after.bundle.precisions("simplecil")


def test_weights_that_are_no_int8_are_refused() -> None:
    weight = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["b", 3, 128])],
        [value("y", onnx.TensorProto.FLOAT, ["b", 3, 128])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = ir.from_proto(onnx.helper.make_model(graph))
    with pytest.raises(GraphError, match="must have the values of int8 in w"):
        keep_int8(model)

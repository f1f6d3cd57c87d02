"""Matrix products in float16: every method on the tiny backbone, what is written and refused."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from tests.export.test_parity import in_batches, score_error

from edgecl.methods import methods
from edgecl_deploy import Classifier
from edgecl_deploy.engines import make_engine
from edgecl_deploy.files import read_bundle, read_release
from edgecl_deploy.forms import Mode
from edgecl_export import Licensing, export_float16, export_release, half
from edgecl_export.errors import GraphError
from edgecl_export.half import TOLERANCE, WEIGHTS, halve
from edgecl_export.quantize.rewriting import uses
from edgecl_export.targets import check_bundle

FLOAT16, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
LEAST = 0.9  # of the images match the same tasks or prompts
every_method = pytest.mark.parametrize("name", methods())


@pytest.fixture(scope="module")
def halved(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of all methods with the variant float16."""
    bundle = shutil.copytree(world.bundle, tmp_path_factory.mktemp("halved") / "bundle")
    export_float16(bundle)
    return bundle


def device(bundle: Path, release: Path, precision: str, *form: str) -> Classifier:
    found = Classifier(
        read_bundle(bundle), make_engine("onnxruntime", 1), Mode(*form, precision=precision)
    )
    found.serve(found.load(read_release(release)))
    return found


@every_method
def test_scores_are_near_those_of_float32_and_of_an_image_alone(
    world: Any, halved: Path, name: str
) -> None:
    release = world.wild[name].release["float32"]
    want = device(halved, release, "float32").scores(world.images)
    for form in (("fused",), ("staged", "fixed")):
        own = device(halved, release, "float16", *form)
        got = own.scores(world.images)
        same = (got.match == want.match).all(axis=1)
        assert same.mean() >= LEAST
        assert 0 < score_error(got.scores[same], want.scores[same]) < TOLERANCE
        alone = in_batches(own, world.images, 1)
        assert score_error(alone.scores, got.scores) < 1e-5


@every_method
def test_products_of_blocks_are_float16_and_nothing_else_is(halved: Path, name: str) -> None:
    program = read_bundle(halved).bundle.programs[name]
    for ref, own in (
        (program.fused, program.variants["float16"].fused),
        (program.staged.encode_fixed, program.variants["float16"].encode_fixed),
    ):
        floats, model = ir.load(halved / ref.file), ir.load(halved / own.file)
        onnx.checker.check_model(str(halved / own.file), full_check=True)  # types, too
        wanted = {use.node.name for use in uses(floats)}
        for before, after in (
            (floats.graph.inputs, model.graph.inputs),
            (floats.graph.outputs, model.graph.outputs),
        ):
            assert [(each.name, each.dtype) for each in before] == [
                (each.name, each.dtype) for each in after
            ]
        products = 0
        for node in model.graph:
            halves = [value is not None and value.dtype == FLOAT16 for value in node.inputs]
            if node.op_type == "Cast":
                continue
            if node.name in wanted:
                assert all(halves), node.name
            elif any(halves):
                assert node.op_type == "MatMul", node.name
                assert all(halves)
                assert all(value.const_value is None for value in node.inputs)  # of attention
                products += 1
        assert products >= 2  # of queries and keys, of weights and values


def test_each_weight_is_in_the_file_once(halved: Path) -> None:
    bundle = read_bundle(halved)
    bundle.verify_files()
    places: dict[tuple[int, int], str] = {}
    data = (halved / WEIGHTS).read_bytes()
    for program in bundle.bundle.programs.values():
        for ref in program.variants["float16"].files():
            for tensor in onnx.load(halved / ref.file, load_external_data=False).graph.initializer:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                if entries:
                    assert entries["location"] == WEIGHTS
                    offset, length = int(entries["offset"]), int(entries["length"])
                    found = hashlib.sha256(data[offset : offset + length]).hexdigest()
                    assert places.setdefault((offset, length), found) == found
    assert len(set(places.values())) == len(places)
    assert len(data) < 0.65 * bundle.bundle.weights.size  # of a tiny backbone


def test_engines_of_nvidia_take_the_graphs(halved: Path) -> None:
    assert not any(check_bundle(halved).values())


def test_it_is_made_once(halved: Path) -> None:
    before = (halved / "bundle.json").read_bytes()
    assert export_float16(halved) == hashlib.sha256(before).hexdigest()
    assert (halved / "bundle.json").read_bytes() == before


def test_a_licensed_release_runs(world: Any, halved: Path, tmp_path: Path) -> None:
    shipped = world.trained["simplecil"]
    wanted = Licensing(precisions=("float16",), run=shipped.learner, engine="onnxruntime")
    export_release(shipped.packs["float16"], tmp_path / "r", halved, licensing=wanted)
    with Classifier.open(halved, tmp_path / "r", precision="float16") as found:
        assert (found.precision, found.fallback) == ("float16", "")
        licence = found.loaded.files.release.licence("float16")
        assert found.self_test().max_error <= licence.atol


def test_what_cannot_be_halved_is_left_as_it_was(
    halved: Path, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = read_bundle(halved).bundle.programs["l2p"].staged.match.file
    with pytest.raises(GraphError, match=r"large weight in float32, got none in l2p\.match"):
        halve(ir.load(halved / match), match)
    own = shutil.copytree(world.bundle, tmp_path / "bundle")
    before = (own / "bundle.json").read_bytes()
    for name, value, says in (("LARGEST", 1e-6, "holds values"), ("TOLERANCE", 0.0, "must equal")):
        with monkeypatch.context() as patch:
            patch.setattr(half, name, value)
            with pytest.raises(GraphError, match=says):
                export_float16(own)
        assert (own / "bundle.json").read_bytes() == before
        assert not (own / WEIGHTS).exists()

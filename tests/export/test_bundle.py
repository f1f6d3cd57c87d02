"""The bundle on disk: one weights file, graphs that travel, exports that can be killed."""

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgecl.backbones import load_backbone
from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import build_method, methods
from edgecl.program import Outputs, Program
from edgecl_deploy import Classifier, Scores
from edgecl_deploy.files import BUNDLE_FILE, read_bundle
from edgecl_export import bundle as bundle_module
from edgecl_export.bundle import export_program, recover
from edgecl_export.errors import GraphError
from edgecl_export.graphs import OPSET
from edgecl_export.parity import relative_error
from edgecl_export.weights import (
    ALIGNMENT,
    SMALLEST,
    WEIGHTS_FILE,
    WeightsFile,
    content_key,
    external_places,
)

every_method = pytest.mark.parametrize("name", methods())
ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def graphs_of(bundle: Path) -> Iterator[tuple[str, onnx.ModelProto]]:
    for path in sorted(bundle.glob("*.onnx")):
        yield path.name, onnx.load(path, load_external_data=False)


# -- what may change a bundle --


def test_programs_share_the_weights(world: Any) -> None:
    """A method after the first adds graphs and not one byte of weights.

    But input-tuning: what it learns is added to normalised pixels, so nothing can be folded into
    the convolution that reads them, whose weights are there as they are.
    """
    assert [step.method for step in world.steps] == list(methods())
    more = [step.method for old, step in pairwise(world.steps) if step.weights != old.weights]
    assert more == ["input-tuning"]
    parameters = sum(4 * tensor.numel() for tensor in world.backbone.model.parameters())
    assert world.steps[-1].weights_bytes < 1.2 * parameters
    graphs = sum(path.stat().st_size for path in world.bundle.glob("*.onnx"))
    assert graphs < 120_000 * len(world.steps)


def test_only_a_new_program_changes_the_digest(world: Any) -> None:
    digests = [step.digest for step in world.steps]
    assert len(set(digests)) == len(digests)
    assert world.exports == (digests[-1],) * (4 * len(digests))
    assert read_bundle(world.bundle).digest == digests[-1]


@every_method
def test_exporting_again_does_nothing(world: Any, name: str) -> None:
    before = {path: path.stat() for path in sorted(world.bundle.iterdir())}
    program = world.trained[name].learner.program
    assert export_program(program, world.backbone, world.bundle) == world.steps[-1].digest
    after = {path: path.stat() for path in sorted(world.bundle.iterdir())}
    assert after.keys() == before.keys()
    for path in before:
        assert (after[path].st_mtime_ns, after[path].st_ino) == (
            before[path].st_mtime_ns, before[path].st_ino,
        )  # fmt: skip


def test_a_bundle_is_of_one_backbone(world: Any) -> None:
    other = load_backbone("vit-tiny-16", image_size=32, depth=2, random_seed=1)
    before = contents(world.bundle)
    program = build_method("simplecil", BackboneSpec.of(other)).program
    with pytest.raises(GraphError, match="Export to a new folder"):
        export_program(program, other, world.bundle)
    assert contents(world.bundle) == before


def test_another_interface_replaces_the_program(
    world: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs of other methods, the weights and a graph that is the same stay as they were."""
    before = contents(bundle)
    former = read_bundle(bundle).bundle
    program = build_method("simplecil", BackboneSpec.of(world.backbone)).program
    monkeypatch.setattr(Program, "interface", "2" * 64)
    scores = type(program.classifier).scores
    monkeypatch.setattr(type(program.classifier), "scores", lambda *given: scores(*given) * 2)
    digest = export_program(program, world.backbone, bundle)
    now = read_bundle(bundle)
    assert now.digest == digest
    assert now.bundle.programs["simplecil"].interface == "2" * 64
    changed = {name for name, found in contents(bundle).items() if before.get(name) != found}
    assert changed == {BUNDLE_FILE, "simplecil.fused.onnx", "simplecil.classify.onnx"}
    assert contents(bundle).keys() == before.keys()
    for name in set(former.programs) - {"simplecil"}:
        assert now.bundle.programs[name] == former.programs[name]
        Classifier.open(bundle, world.trained[name].release["float16"])


# -- the weights file --


def test_weights_are_aligned_and_stored_once(world: Any) -> None:
    data = (world.bundle / WEIGHTS_FILE).read_bytes()
    places = {place for path in world.bundle.glob("*.onnx") for place in external_places(path)}
    assert places
    of_content: dict[str, tuple[int, int]] = {}
    end = 0
    for offset, length in sorted(places):
        assert offset % ALIGNMENT == 0
        assert offset >= end, "two tensors overlap"
        assert length >= SMALLEST
        end = offset + length
        key = hashlib.sha256(data[offset:end]).hexdigest()
        assert of_content.setdefault(key, (offset, length)) == (offset, length), "stored twice"
    assert end == len(data), "bytes that nobody uses"


def test_every_graph_keeps_its_weights_in_the_folder(world: Any) -> None:
    size = (world.bundle / WEIGHTS_FILE).stat().st_size
    for name, model in graphs_of(world.bundle):
        for tensor in [*model.graph.initializer, *constants(model)]:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                assert entries["location"] == WEIGHTS_FILE
                assert int(entries["offset"]) + int(entries["length"]) <= size
            else:
                assert tensor.ByteSize() < SMALLEST + 200, f"{name} keeps {tensor.name} inside"


def constants(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def test_equal_bytes_have_one_key_whatever_their_order_in_memory() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert content_key(array) == content_key(np.asfortranarray(array))
    assert content_key(array) == content_key(array.reshape(4, 3))
    assert content_key(array) != content_key(array.T)


def test_a_weights_file_learns_what_its_graphs_use(bundle: Path) -> None:
    """A fresh `WeightsFile` on a folder appends nothing that is there."""
    import onnx_ir as ir

    before = contents(bundle)[WEIGHTS_FILE]
    model = ir.load(bundle / "simplecil.fused.onnx")
    assert WeightsFile(bundle).externalise(model) == 0
    assert contents(bundle)[WEIGHTS_FILE] == before


# -- a linter for the graphs --


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_graphs_are_what_older_runtimes_read(world: Any) -> None:
    for name, model in graphs_of(world.bundle):
        imported = {item.domain: item.version for item in model.opset_import}
        assert imported.get("") == OPSET == 20, name
        assert not set(imported) - {""}, f"{name} needs operators of {set(imported)}"
        assert not model.functions
        operators = {node.op_type for node in model.graph.node}
        assert "Attention" not in operators
        assert not operators & {"If", "Loop", "Scan", "SequenceAt"}, "engines want straight graphs"
        for tensor in [*model.graph.initializer, *constants(model)]:
            assert 0 not in tensor.dims, f"{name}: {tensor.name} is empty"
        for value in [*model.graph.input, *model.graph.output]:
            assert 0 not in dims(value), f"{name}: {value.name} is empty"
        used = {key for node in model.graph.node for key in node.input}
        assert {value.name for value in model.graph.input} <= used, f"{name} has an unused input"
        assert {tensor.name for tensor in model.graph.initializer} <= used


@every_method
def test_declared_axes_are_dynamic_and_sizes_fixed(world: Any, name: str) -> None:
    program = read_bundle(world.bundle).bundle.program(name)
    side, width = world.backbone.preprocess.size, world.backbone.width
    taps = ["b", program.taps, width]
    # Where an image has several injected passes, `classify` takes a row of each.
    count = {spec.sizes.get("t", "t") for spec in program.learned.values() if "t" in spec.axes}
    injected = ["b", *count, width] if program.branches else ["b", width]
    fixed = {
        "image": ["b", side, side, 3],
        "plain_taps": taps,
        "injected_taps": [*injected[:-1], program.taps, width],
        "plain_tokens": ["b", "n", width],
        "injected_tokens": [*injected[:-1], "n", width],
        **{f"plain_{part}": ["b", width] for part in ("cls", "prompt")},
        **{f"injected_{part}": injected for part in ("cls", "prompt")},
        "query": ["b", width],
        **{found: ["b", "k"] for found in ("match", "match_score")},
    }  # fmt: skip
    for ref in program.files():
        encodes = ref in (program.staged.encode_dynamic, program.staged.encode_fixed)
        declared = program.slots if encodes else program.learned
        padded = ref.file.endswith(".fixed.onnx")
        for value in onnx.load(world.bundle / ref.file, load_external_data=False).graph.input:
            if value.name in fixed:
                want: list[int | str] = fixed[value.name]
            elif value.name.endswith("_mask") and padded:
                want = [program.slots[value.name.removesuffix("_mask")].capacity]
            else:
                spec = declared[value.name]
                sizes: dict[str, int] = dict(spec.sizes)
                if padded and program.slots[value.name].pad_axis:
                    sizes[program.slots[value.name].pad_axis] = program.slots[value.name].capacity
                want = [sizes.get(axis, axis) for axis in spec.axes]
            found = dims(value)
            assert len(found) == len(want)
            for size, wanted in zip(found, want, strict=True):
                dynamic = isinstance(wanted, str)
                assert isinstance(size, str) == dynamic, f"{ref.file}: {value.name} {found}"
                assert dynamic or size == wanted


@every_method
def test_everything_learned_is_an_input_of_the_fused_graph(world: Any, name: str) -> None:
    program = read_bundle(world.bundle).bundle.program(name)
    model = onnx.load(world.bundle / program.fused.file, load_external_data=False)
    assert {value.name for value in model.graph.input} == {"image", *program.learned}
    outputs = [value.name for value in model.graph.output]
    assert outputs == ["scores", "feature", "match", "match_score"]


def test_graphs_tell_nothing_of_this_machine(world: Any) -> None:
    hints = [str(ROOT), str(Path.home()), str(world.bundle.parent), "site-packages", os.sep + "tmp"]
    for name, model in graphs_of(world.bundle):
        data = (world.bundle / name).read_bytes()
        for hint in hints:
            assert hint.encode() not in data, f"{name} tells {hint}"
        assert not re.search(rb"[\w/]+\.py\b", data), f"{name} names a source file"
        assert not model.metadata_props
        assert not model.doc_string
        for node in model.graph.node:
            assert not node.doc_string
            assert not node.metadata_props
    text = (world.bundle / BUNDLE_FILE).read_text()
    assert not any(hint in text for hint in hints)


# -- the same bytes, and kills --

AGAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import tests.shapes
from edgecl.backbones import load_backbone
from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import build_method
from edgecl_export.bundle import export_program
backbone = load_backbone("vit-tiny-16", image_size=32, depth=2, random_seed=0)
program = build_method(sys.argv[1], BackboneSpec.of(backbone)).program
export_program(program, backbone, Path("again"))
"""  # the hook, as in this process: with it the exporter numbers its values otherwise


def test_another_process_exports_the_same_bytes(world: Any, tmp_path: Path) -> None:
    first = world.steps[0]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AGAIN, first.method, str(Path(__file__).parents[2])],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    here = contents(world.bundle)
    there = contents(tmp_path / "again")
    assert there.pop(BUNDLE_FILE) == first.digest
    assert there.pop("weights.bin") == first.weights
    assert there == {name: here[name] for name in there}
    assert {name.split(".")[0] for name in there} == {first.method}


class Killed(BaseException):
    pass


def add_program(world: Any, out: Path) -> str:
    return export_program(world.trained["l2p"].learner.program, world.backbone, out)


@pytest.fixture
def older(world: Any, bundle: Path) -> tuple[Path, str]:
    """Return a bundle without l2p's program, and its digest."""
    old = read_bundle(bundle).bundle
    programs = {name: program for name, program in old.programs.items() if name != "l2p"}
    (bundle / BUNDLE_FILE).write_bytes(dataclasses.replace(old, programs=programs).to_bytes())
    for stale in bundle.glob("l2p.*"):
        stale.unlink()
    return bundle, read_bundle(bundle).digest


def write_by_copy(world: Any) -> Callable[..., Any]:
    """Return a `write_program` that copies the session's graphs: tracing takes seconds."""

    def write(program: Program, backbone: Any, folder: Path, reporter: Any) -> Any:
        entry = read_bundle(world.bundle).bundle.program(program.name)
        for ref in entry.files():
            shutil.copy2(world.bundle / ref.file, folder / ref.file)
        return entry

    return write


@pytest.mark.parametrize("moment", range(3))
def test_a_killed_export_is_mended_by_the_next(
    world: Any, older: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Killed before, between and after the two renames."""
    out, former = older
    renamed: list[Path] = []
    right_replace, right_rmtree = os.replace, shutil.rmtree

    def replace(source: Path, target: Path) -> None:
        if len(renamed) == moment:
            raise Killed
        renamed.append(target)
        right_replace(source, target)

    def rmtree(path: Path, **options: Any) -> None:
        if moment == 2 and path.name.endswith(".old") and path.exists():
            raise Killed
        right_rmtree(path, **options)

    monkeypatch.setattr(bundle_module, "write_program", write_by_copy(world))
    monkeypatch.setattr("edgecl_export.bundle.os.replace", replace)
    monkeypatch.setattr("edgecl_export.bundle.shutil.rmtree", rmtree)
    with pytest.raises(Killed):
        add_program(world, out)
    monkeypatch.undo()
    recover(out)
    digest = read_bundle(out).digest
    assert digest == (former if moment < 2 else world.steps[-1].digest)
    monkeypatch.setattr(bundle_module, "write_program", write_by_copy(world))
    assert add_program(world, out) == world.steps[-1].digest
    assert contents(out) == contents(world.bundle)
    assert sorted(path.name for path in out.parent.iterdir()) == ["bundle"], "nothing is left over"


def test_a_failed_export_leaves_the_bundle(
    world: Any, older: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, former = older
    before = contents(out)

    def fail(*_: Any) -> None:
        raise GraphError("the axis c must stay dynamic")

    monkeypatch.setattr(bundle_module, "write_program", fail)
    with pytest.raises(GraphError, match="must stay dynamic"):
        add_program(world, out)
    assert contents(out) == before
    assert read_bundle(out).digest == former


def test_a_graph_that_says_something_else_is_never_installed(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every export ends with the check against PyTorch, before the bundle is put in its place."""
    program = build_method("simplecil", BackboneSpec.of(world.backbone)).program
    classifier = type(program.classifier)
    right = classifier.scores

    def scores(*given: Any) -> torch.Tensor:
        return right(*given) * (1.01 if torch.compiler.is_exporting() else 1)

    monkeypatch.setattr(classifier, "scores", scores)
    with pytest.raises(GraphError, match="The bundle is left as it was"):
        export_program(program, world.backbone, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("field", ["scores", "feature"])
def test_the_check_sees_an_error_and_a_value_that_is_no_number(field: str) -> None:
    tensors = {"scores": torch.ones(2, 3), "feature": 4 * torch.ones(2, 5)}
    match = torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1)
    want = Outputs(*tensors.values(), *match)
    for value, error in ((float("nan"), None), (0.0, 1.0)):
        arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
        arrays[field][1, 2] = value
        found = relative_error(Scores(*arrays.values(), *(each.numpy() for each in match)), want)
        assert np.isnan(found) if error is None else found == error


def test_the_bundle_is_read_while_a_program_is_added(
    world: Any, older: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that has the bundle open keeps its files: they are never written in place."""
    out, _ = older
    monkeypatch.setattr(bundle_module, "write_program", write_by_copy(world))
    device = Classifier.open(out, world.wild["simplecil"].release["float32"])
    before = device.scores(world.images).scores
    add_program(world, out)
    np.testing.assert_array_equal(device.scores(world.images).scores, before)

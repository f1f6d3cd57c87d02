"""`verify` passes what is right and names what is wrong: a graph, a weight, a pack, a leak."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.kinds import every_kind

from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.learning.training import Compute
from edgecl.methods import methods
from edgecl.session import make_learner
from edgecl_deploy.errors import DigestError, WrongInterfaceError
from edgecl_deploy.files import BUNDLE_FILE, read_bundle
from edgecl_deploy.progress import Reporter
from edgecl_export.bundle import export_program, file_ref
from edgecl_export.errors import VerifyError
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release
from edgecl_export.verification import RANDOM, Check, Verification, differ, distance, ties, verify
from edgecl_export.weights import WEIGHTS_FILE, external_places

AGAIN = "Export the bundle again"
every_method = pytest.mark.parametrize("name", methods())


def learner_of(run: Run, world: Any) -> Learner:
    cache = FeatureCache(None, world.backbone.digest)
    return make_learner(run, world.backbone, Compute(torch.device("cpu")), Reporter(), cache)


@every_kind
def test_what_was_trained_passes(world: Any, name: str) -> None:
    check_passes(world, name, "trained", "float16")


@every_method
def test_what_was_exported_passes(world: Any, name: str) -> None:
    check_passes(world, name, "wild", "float32")


def check_passes(world: Any, name: str, kind: str, dtype: str) -> None:
    shipped = getattr(world, kind)[name]
    result = verify(shipped.learner, world.bundle, shipped.release[dtype])
    assert result.failures() == []
    assert (result.method, result.tasks) == (name, 3)
    assert [(check.form, check.slots) for check in result.checks] == [
        ("fused", "dynamic"), ("staged", "dynamic"), ("staged", "fixed"),
    ]  # fmt: skip
    for check in result.checks:
        assert check.score_error <= 1e-5
        assert check.images % 7 == 0, "three batch sizes at the ends, one between"
        assert check.images >= 7 * RANDOM
    if dtype == "float32":
        assert result.agreement == 1
    assert json.loads(json.dumps(result.to_json()))["failures"] == []


@every_kind
def test_a_release_of_the_first_tasks_passes(world: Any, name: str, tmp_path: Path) -> None:
    shipped = world.wild[name]
    export_release(shipped.packs["float32"], tmp_path / "release", world.bundle, tasks=2)
    result = verify(shipped.learner, world.bundle, tmp_path / "release")
    assert result.tasks == 2
    assert result.agreement == 1


@every_kind
def test_a_program_that_scores_otherwise_fails(
    world: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = world.trained[name]
    classifier = type(shipped.learner.method.program.classifier)
    right = classifier.scores

    def off(*given: Any) -> Any:
        scores = right(*given)
        return scores + 0.01 * scores.abs().max()  # a hundredth of the scale, as scales differ

    monkeypatch.setattr(classifier, "scores", off)
    with pytest.raises(VerifyError, match=rf"fused/dynamic: score error.*{AGAIN}") as caught:
        verify(shipped.learner, world.bundle, shipped.release["float32"])
    for form in ("staged/dynamic", "staged/fixed"):
        assert f"{form}: score error" in str(caught.value)


def test_a_program_that_matches_otherwise_fails(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts carry no position, so in another order the scores agree: only the match tells."""
    shipped = world.wild["l2p"]
    matcher = type(shipped.learner.method.program.matcher)
    right = matcher.__call__

    def reversed_match(*given: Any) -> Any:
        found = right(*given)
        return type(found)(found.index.flip(1), found.score.flip(1))

    monkeypatch.setattr(matcher, "__call__", reversed_match)
    with pytest.raises(VerifyError, match=rf"matches differ.*{AGAIN}"):
        verify(shipped.learner, world.bundle, shipped.release["float32"])


def test_a_program_whose_prediction_depends_on_the_batch_fails(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch statistics leak the task: the export of such a method must not pass."""
    shipped = world.trained["simplecil"]
    classifier = type(shipped.learner.method.program.classifier)
    right = classifier.scores

    def centred(*given: Any) -> torch.Tensor:
        scores = right(*given)
        return scores - scores.mean(dim=0)

    monkeypatch.setattr(classifier, "scores", centred)
    export_program(shipped.learner.program, world.backbone, tmp_path / "bundle")
    with pytest.raises(VerifyError, match=rf"a score depends on the batch.*{AGAIN}"):
        verify(shipped.learner, tmp_path / "bundle", shipped.release["float32"])


def rewrite_bundle(bundle: Path, change: Callable[[Any], Any]) -> None:
    (bundle / BUNDLE_FILE).write_bytes(change(read_bundle(bundle).bundle).to_bytes())


def damage_weights(bundle: Path) -> None:
    """Turn the sign of the largest tensors' first values, as a wrong fold would."""
    data = np.memmap(bundle / WEIGHTS_FILE, np.float32, mode="r+")
    for graph in bundle.glob("*.fused.onnx"):
        for offset, length in external_places(graph):
            data[offset // 4 : (offset + length // 2) // 4] *= -1
        break
    data.flush()


@every_kind
def test_wrong_weights_fail(world: Any, bundle: Path, name: str) -> None:
    shipped = world.wild[name]
    damage_weights(bundle)
    with pytest.raises(DigestError, match="Copy the whole directory again"):
        verify(shipped.learner, bundle, shipped.release["float32"])
    rewrite_bundle(
        bundle, lambda old: dataclasses.replace(old, weights=file_ref(bundle / WEIGHTS_FILE))
    )
    with pytest.raises(VerifyError, match=rf"score error.*{AGAIN}"):
        verify(shipped.learner, bundle, shipped.release["float32"])


def test_another_methods_graph_under_its_name_fails(world: Any, bundle: Path) -> None:
    """Both graphs have the inputs that the runtime feeds: only the numbers tell."""
    shipped = world.wild["aper-adapter"]

    def swap(old: Any) -> Any:
        program = old.programs["aper-adapter"]
        plain = old.programs["simplecil"].staged.encode_dynamic
        staged = dataclasses.replace(program.staged, encode_dynamic=plain)
        return dataclasses.replace(
            old,
            programs={**old.programs, program_name: dataclasses.replace(program, staged=staged)},
        )

    program_name = "aper-adapter"
    rewrite_bundle(bundle, swap)
    with pytest.raises(VerifyError, match=rf"staged/dynamic: score error.*{AGAIN}") as caught:
        verify(shipped.learner, bundle, shipped.release["float32"])
    assert "fused/dynamic" not in str(caught.value)
    assert "staged/fixed" not in str(caught.value)


def test_a_tolerance_that_nothing_meets_fails(world: Any, bundle: Path) -> None:
    name = "aper-adapter"
    shipped = world.wild[name]

    def lower(old: Any) -> Any:
        program = dataclasses.replace(old.programs[name], tolerance={"scores": 1e-12, "feature": 0})
        return dataclasses.replace(old, programs={**old.programs, name: program})

    rewrite_bundle(bundle, lower)
    with pytest.raises(VerifyError, match=rf"within 1e-12, found: .*score error.*{AGAIN}"):
        verify(shipped.learner, bundle, shipped.release["float32"])


@every_kind
def test_a_release_of_another_run_fails(
    world: Any, name: str, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    """Same method, classes and interface; other values."""
    other = make_run(name, seed=1)
    shipped = world.wild[name]
    assert other.header["interface"] == shipped.learner.method.program.interface
    export_packs(other, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", world.bundle)
    with pytest.raises(VerifyError, match=r"pack 0: its \w+ is not the run's") as caught:
        verify(shipped.learner, world.bundle, tmp_path / "release")
    assert "score error" not in str(caught.value)


@every_method
def test_a_release_that_generates_something_else_fails(
    world: Any, name: str, tmp_path: Path
) -> None:
    shipped = world.wild[name]
    config = shipped.learner.run.header["config"]
    if not any(item.generated for item in shipped.learner.declared.values()):
        pytest.skip(f"{name} generates nothing")
    header = {**shipped.learner.run.header, "config": {**config, "seed": 7}}
    export_packs(Run(shipped.learner.run.path, header), tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", world.bundle)
    with pytest.raises(VerifyError, match=r"found: pack 0: what it generates is not the run's"):
        verify(shipped.learner, world.bundle, tmp_path / "release")


def test_a_release_of_other_classes_or_more_tasks_fails(
    world: Any, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    shipped = world.wild["simplecil"]
    longer = make_run("simplecil", tasks=4)
    export_packs(longer, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", world.bundle)
    with pytest.raises(VerifyError, match=r"found: pack 3: no task of this run has its classes"):
        verify(shipped.learner, world.bundle, tmp_path / "release")
    with pytest.raises(VerifyError, match=r"pack 0: no task of this run has its classes"):
        verify(world.trained["simplecil"].learner, world.bundle, tmp_path / "release")


def test_a_release_of_another_configuration_is_refused(
    world: Any, bundle: Path, tmp_path: Path
) -> None:
    def rename(old: Any) -> Any:
        program = dataclasses.replace(old.programs["l2p"], interface="1" * 64)
        return dataclasses.replace(old, programs={**old.programs, "l2p": program})

    rewrite_bundle(bundle, rename)
    shipped = world.trained["l2p"]
    with pytest.raises(WrongInterfaceError, match="with the same method config"):
        verify(shipped.learner, bundle, shipped.release["float32"])


def test_images_that_are_gone_leave_the_canaries(world: Any, tmp_path: Path) -> None:
    shipped = world.wild["simplecil"]
    run = Run(shipped.learner.run.path, {**shipped.learner.run.header})
    run.header["stream"] = {"name": "folder", "root": str(tmp_path / "gone"), "increment": 1}
    result = verify(learner_of(run, world), world.bundle, shipped.release["float32"])
    assert result.checks[0].images == 7 * (3 + RANDOM)  # a canary per task, and the random ones


# -- the judgement --


def test_differ_forgives_ties_only() -> None:
    want = np.array([[0.5, 0.49999, 0.1], [0.5, 0.4, 0.1], [0.5, 0.4, 0.1]], np.float32)
    got = np.array([[0.5, 0.50001, 0.1], [0.4, 0.5, 0.1], [0.6, 0.4, 0.1]], np.float32)
    assert differ(got, want).tolist() == [False, True, False]


def test_ties_are_between_neighbours() -> None:
    score = np.array([[0.9, 0.5, 0.2], [0.9, 0.89999, 0.2]], np.float32)
    assert ties(score).tolist() == [False, True]
    assert ties(score[:, :1]).tolist() == [False, False]


def test_a_score_that_is_no_number_is_an_error() -> None:
    one = np.ones((2, 3), np.float32)
    broken = one.copy()
    broken[1, 1] = np.nan
    assert distance(broken, one) == np.inf
    check = Check("fused", "dynamic", score_error=distance(broken, one))
    result = Verification("m", "an engine", 1, 1e-4, (check,), 1.0, ())
    assert result.failures() == ["fused/dynamic: score error inf"]

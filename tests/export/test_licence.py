"""The licence of a release: what is measured, what is refused, and what a device does with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgecl.backbones.rounding import nearest
from edgecl_deploy import Classifier, Scores, engines
from edgecl_deploy.commands import edgecl
from edgecl_deploy.errors import OptionError
from edgecl_deploy.files import read_bundle, read_release
from edgecl_export import Licensing, export_bundle, export_release, quantize_bundle, verify
from edgecl_export.errors import LicenceError
from edgecl_export.inspection import inspect
from edgecl_export.licence import Answers, Baseline, Comparison
from edgecl_export.samples import TEST, TRAIN, samples_of, shares
from edgecl_export.weights import WeightsFile

ENGINES = [name for name in ("onnxruntime", "openvino") if engines.installed(name)]


@pytest.fixture(scope="module")
def shipped(world: Any) -> Any:
    return world.trained["simplecil"]


@pytest.fixture(scope="module")
def plain(shipped: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of one program."""
    folder = tmp_path_factory.mktemp("licence") / "plain"
    export_bundle(shipped.learner, folder)
    return folder


@pytest.fixture(scope="module")
def bundle(shipped: Any, plain: Path) -> Path:
    """Return the same with the variant int8."""
    folder = shutil.copytree(plain, plain.with_name("bundle"))
    quantize_bundle(folder, shipped.learner)
    return folder


def release(shipped: Any, bundle: Path, out: Path, **licensing: Any) -> Path:
    wanted = Licensing(**{"precisions": ("int8",), "run": shipped.learner, **licensing})
    export_release(shipped.packs["float16"], out, bundle, licensing=wanted)
    return out


def test_a_licensed_release_runs_on_every_engine(
    shipped: Any, bundle: Path, tmp_path: Path
) -> None:
    found = release(shipped, bundle, tmp_path / "release", force=True)
    licence = read_release(found).release.licence("int8")
    assert licence.images == 90  # 30 of test, 60 of training: the stream has no more
    assert licence.atol >= 1e-3
    assert 0 <= licence.agreement <= 1
    assert licence.rejected is not None  # its packs have the scores of their images
    for name in ENGINES:
        assert name in licence.engine
        with Classifier.open(bundle, found, engine=name, precision="int8") as device:
            assert (device.precision, device.fallback) == ("int8", "")
            assert device.self_test().max_error <= licence.atol
    assert read_release(found).release.canaries.atol == 1e-3  # of float32


def test_a_release_without_a_licence_is_refused(shipped: Any, bundle: Path) -> None:
    with pytest.raises(OptionError, match=r"must have a licence for int8.*--precision int8"):
        Classifier.open(bundle, shipped.release["float16"], precision="int8")


def test_a_release_that_decides_otherwise_gets_no_licence(
    shipped: Any, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of its bundle are those of another network."""
    wrong = shutil.copytree(plain, tmp_path / "wrong")
    monkeypatch.setattr(
        "edgecl_export.quantize.variant.gptq", lambda weight, _: nearest(np.roll(weight, 1, axis=0))
    )
    quantize_bundle(wrong, shipped.learner)
    with pytest.raises(LicenceError, match=r"images lost .* Release it without --precision int8"):
        release(shipped, wrong, tmp_path / "release")
    assert not (tmp_path / "release").exists()
    with pytest.raises(LicenceError, match="--force"):
        release(shipped, wrong, tmp_path / "release", run=None)  # the canaries change class
    forced = release(shipped, wrong, tmp_path / "forced", force=True)
    assert read_release(forced).release.licence("int8").lost > 1


def test_a_bundle_without_the_variant_gives_no_licence(
    shipped: Any, plain: Path, tmp_path: Path
) -> None:
    with pytest.raises(LicenceError, match=r"got one with float32, bfloat16. Run `edgecl export q"):
        release(shipped, plain, tmp_path / "release")


def test_a_precision_that_nothing_here_runs_gets_no_licence(
    shipped: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl_export.licence.names", lambda: ("onnxruntime",))
    with pytest.raises(LicenceError, match=r"got none on this machine.*where there is one"):
        release(shipped, bundle, tmp_path / "release", precisions=("bfloat16",))
    with pytest.raises(OptionError, match="must run precision='bfloat16'"):
        release(
            shipped, bundle, tmp_path / "release", precisions=("bfloat16",), engine="onnxruntime"
        )


def test_a_licence_needs_canaries(shipped: Any, bundle: Path, tmp_path: Path) -> None:
    wanted = Licensing(("int8",))
    with pytest.raises(LicenceError, match=r"needs canaries.*--canaries 0"):
        export_release(
            shipped.packs["float16"], tmp_path / "r", bundle, canaries=0, licensing=wanted
        )


def test_a_run_without_its_images_gives_no_licence(
    world: Any, shipped: Any, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(LicenceError, match=r"its stream cannot be read.*Leave out --run"):
        release(shipped, bundle, tmp_path / "release", run=world.wild["simplecil"].learner)


def comparison(**changes: Any) -> Comparison:
    own = {
        "engine": "e 1", "images": 200, "agreement": 1.0, "error": 0.01, "canary_error": 0.02,
        "right": 150, "lost": 0, "gained": 0,
    }  # fmt: skip
    return Comparison(**{**own, **changes})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"lost": 2, "gained": 1}, None),
        ({"lost": 1}, None),
        ({"lost": 2}, "the accuracy may fall by 0.5%"),
        ({"lost": 3, "gained": 9}, "3 of 200 images lost and 9 gained with e 1; 1% may be lost"),
        ({"error": float("nan")}, "no number"),
        ({"canary_error": 0.031}, "canaries that err by 3.1e-02"),
        ({"canary_error": float("nan")}, "canaries that err"),
    ],
)
def test_the_rule(changes: dict[str, Any], fault: str | None) -> None:
    found = comparison(**changes).fault()
    assert (found is None) if fault is None else (found is not None and fault in found)


def test_the_tolerance_has_a_floor() -> None:
    assert comparison(error=0.0).atol == 1e-3
    assert comparison(error=0.002).atol == pytest.approx(0.006)


def test_known_images_that_become_unknown_are_counted() -> None:
    names, wanted = ("a", "b"), np.array(["a", "b", "b", "a"])
    scores = Scores(*(np.zeros((4, 2), np.float32) for _ in range(4)))

    def rejected(before: Any, after: Any) -> int | None:
        first, then = (
            Answers(scores, scores, wanted, None if each is None else np.array(each, bool))
            for each in (before, after)
        )
        images = np.zeros((4, 2, 2, 3), np.uint8)
        return Baseline(images, images, wanted, first)._rejected(names, then)

    everything, other = [[1, 1]] * 4, [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert rejected(everything, other) == 2  # the second and the last
    assert rejected(other, everything) == 0
    assert rejected(None, other) is None
    assert rejected(other, None) is None


# -- verification and images -----------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_verify_takes_the_precision(
    shipped: Any, bundle: Path, tmp_path: Path, engine: str
) -> None:
    licensed = release(shipped, bundle, tmp_path / "release", force=True)
    found = verify(shipped.learner, bundle, licensed, engine=engine, precision="int8")
    assert found.failures() == []
    assert (found.precision, found.exact) == ("int8", engine == "onnxruntime")
    assert all(check.batch_error <= 1e-5 for check in found.checks)
    assert all(check.score_error > 0 for check in found.checks)


def test_verify_refuses_an_unlicensed_release(shipped: Any, bundle: Path) -> None:
    with pytest.raises(OptionError, match="must have a licence"):
        verify(shipped.learner, bundle, shipped.release["float16"], precision="int8")


def test_samples_are_spread_and_named_as_in_the_run(world: Any) -> None:
    learner = world.trained["simplecil"].learner
    few = samples_of(learner, 9, (TEST, TRAIN))
    assert len(few) == 9
    assert set(few.classes) == {name for task in world.stream.tasks for name in task.classes}
    first = samples_of(learner, 500, (TRAIN,), 1)
    assert set(first.classes) == set(world.stream.tasks[0].classes)
    assert len(samples_of(world.wild["simplecil"].learner, 9, (TEST,))) == 0


def test_shares_are_equal_as_far_as_sets_have_images() -> None:
    assert shares([5, 5, 5], 7) == [3, 2, 2]
    assert shares([1, 9], 6) == [1, 5]
    assert shares([1, 2], 100) == [1, 2]
    assert shares([], 4) == []
    assert shares([3], 0) == [0]


def test_weights_files_have_names(tmp_path: Path) -> None:
    assert WeightsFile(tmp_path, "weights.int8.bin").path == tmp_path / "weights.int8.bin"


# -- the commands ----------------------------------------------------------------------------------


def test_the_commands_quantise_license_and_verify(
    shipped: Any, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))

    def call(*arguments: object) -> Any:
        done = CliRunner().invoke(
            edgecl, ["export", *map(str, arguments), "--json"], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    run = shipped.learner.run.path
    own, out = shutil.copytree(plain, tmp_path / "own"), tmp_path / "release"
    made = call("quantize", own, "--run", run, "--images", 32)
    assert made["digest"] == inspect(own)["digest"] == read_bundle(own).digest
    assert inspect(own)["variants"]["int8"]["weights_bytes"] == made["int8"]["weights_bytes"]
    assert inspect(own)["programs"]["simplecil"]["precisions"] == [
        *("float32", "bfloat16", "int8", "int8-bfloat16")
    ]
    packs = shipped.packs["float16"]
    released = call(
        "release", packs, "--bundle", own, "-o", out,
        "--precision", "int8", "--run", run, "--engine", "onnxruntime", "--force",
    )  # fmt: skip
    assert released["licences"] == inspect(out)["licences"]
    assert released["licences"]["int8"]["engine"].startswith("onnxruntime")
    found = call("verify", run, own, out, "--precision", "int8")
    assert (found["precision"], found["failures"]) == ("int8", [])

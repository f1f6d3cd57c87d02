"""`edgecl export ...`: what it prints, for people and for machines, and how it fails."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgecl.program import Program
from edgecl_deploy.commands import edgecl, main
from edgecl_deploy.files import read_bundle, read_packs, read_release
from edgecl_export.errors import ExportError
from edgecl_export.inspection import inspect

Call = Callable[..., str]
Fail = Callable[..., tuple[int, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return a function that runs `edgecl export ARGUMENTS` and gives its output."""
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(
            edgecl, ["export", *map(str, arguments)], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return result.stdout

    return run


@pytest.fixture
def fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Fail:
    """Return a function that runs the script `edgecl export ...`: exit code and standard error."""
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["edgecl", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        assert captured.out == ""
        return caught.value.code, captured.err  # type: ignore[return-value]

    return run


def test_every_command_speaks_json(world: Any, call: Call, bundle: Path, tmp_path: Path) -> None:
    """The whole path: bundle (there already), pack task by task, release, verify, inspect."""
    run = world.trained["l2p"].learner.run.path
    packs, release = tmp_path / "packs", tmp_path / "release"
    made = json.loads(call("bundle", run, "-o", bundle, "--json"))
    assert made == {
        "bundle": str(bundle),
        "digest": read_bundle(bundle).digest,
        "programs": sorted(world.trained),
    }
    assert made["digest"] == world.steps[-1].digest
    first = json.loads(call("pack", run, "--task", 0, "-o", packs, "--json"))
    assert len(first["ids"]) == 1
    rest = json.loads(call("pack", run, "-o", packs, "--dtype", "float32", "--json"))
    assert rest["ids"][:1] == first["ids"]
    assert rest["ids"] == list(read_packs(packs)[0])
    shown = call("pack", run, "-o", packs)
    assert f"tasks: {len(rest['ids'])}" in shown
    assert f"bytes: {', '.join(map(str, rest['bytes']))}" in shown
    held = [*(packs / "packs").iterdir(), *(packs / "blobs").iterdir()]
    canaries = json.loads((packs / "index.json").read_text())["canaries"].values()
    blobs = sum(file.stat().st_size for file in held if file.stem not in canaries)
    assert sum(rest["bytes"]) == blobs
    released = json.loads(
        call(
            "release", packs, "--bundle", bundle, "--number", 5, "--tasks", 2, "--canaries", 1,
            "--unknown-below", 0.25, "-o", release, "--json",
        )
    )  # fmt: skip
    files = read_release(release)
    assert released == {"release": str(release), "digest": files.digest}
    assert (files.release.number, len(files.packs)) == (5, 2)
    assert files.release.calibration is not None
    assert files.release.calibration.unknown_below == 0.25
    assert [pack.tensors["prompts"].dtype for pack in files.packs] == ["float16", "float32"]
    verified = json.loads(call("verify", run, bundle, release, "--device", "cpu", "--json"))
    assert verified["failures"] == []
    assert verified["tasks"] == 2
    for path, kind in ((bundle, "bundle"), (packs, "packs"), (release, "release"), (run, "run")):
        assert json.loads(call("inspect", path, "--json"))["kind"] == kind


def test_more_room_exports_a_program_again_and_less_does_not(
    world: Any, call: Call, bundle: Path
) -> None:
    """Packs do not know the room: the interface stays."""
    former = read_bundle(bundle).bundle.program("c-ada")
    run = world.trained["c-ada"].learner.run.path
    made = json.loads(
        call("bundle", run, "-o", bundle, "--capacity", 2 * Program.capacity, "--json")
    )
    now = read_bundle(bundle).bundle.program("c-ada")
    assert now.slots["adapter_down"].capacity == 2 * former.slots["adapter_down"].capacity
    assert now.slots["ssf_norm1"] == former.slots["ssf_norm1"]
    assert now.interface == former.interface
    assert json.loads(call("bundle", run, "-o", bundle, "--json"))["digest"] == made["digest"]


def test_the_help_shows_the_capacity_of_a_program(call: Call) -> None:
    """It is written there too, as a program is imported with torch."""
    assert f"[default: {Program.capacity}]" in " ".join(call("bundle", "--help").split())


def test_people_get_trees_and_tables(world: Any, call: Call) -> None:
    shipped = world.trained["aper-adapter"]
    run, release = shipped.learner.run.path, shipped.release["float16"]
    table = call("verify", run, world.bundle, release, "--quiet", "--device", "cpu")
    for word in ("aper-adapter, 3 tasks", "staged", "fixed", "of real images"):
        assert word in table
    tree = call("inspect", release)
    assert tree.startswith("release\n")
    for word in (
        "number: 3",
        "prototypes: float16 [2, 2, 192]",
        "adapter_down: float16 [2, 192, 64]",
    ):
        assert word in tree
    assert "simplecil" in call("inspect", world.bundle)


# -- exit codes --


def assert_one_line(error: str, *words: str) -> None:
    assert error.count("\n") == 1
    assert error.startswith("edgecl: ")
    for word in words:
        assert word in error


def test_a_failure_is_one_line_and_status_one(world: Any, fail: Fail, tmp_path: Path) -> None:
    shipped = world.trained["simplecil"]
    run, packs = shipped.learner.run.path, shipped.packs["float16"]
    code, error = fail("inspect", tmp_path)
    assert code == 1
    assert_one_line(error, "Give the folder that `edgecl train` or `edgecl export` wrote.")
    code, error = fail("pack", run, "--task", 7, "-o", tmp_path / "packs")
    assert code == 1
    assert_one_line(error, "Learn the task first.")
    code, error = fail(
        "release", packs, "--bundle", world.bundle, "--tasks", 9, "-o", tmp_path / "r"
    )
    assert code == 1
    assert_one_line(error, "edgecl export pack RUN")
    code, error = fail("bundle", tmp_path / "no run", "-o", tmp_path / "b")
    assert code == 1
    assert_one_line(error, "Check the path.")
    code, error = fail("release", packs, "--bundle", tmp_path / "none", "-o", tmp_path / "r")
    assert code == 1
    assert_one_line(error, "Copy the whole directory again")


def test_a_failed_verification_is_status_one(world: Any, fail: Fail) -> None:
    run = world.trained["simplecil"].learner.run.path
    other = world.wild["simplecil"].release["float16"]
    code, error = fail("verify", run, world.bundle, other, "--json", "--device", "cpu")
    assert code == 1
    assert_one_line(error, "no task of this run has its classes", "Export the bundle again")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("pack", "RUN"), "--out"),
        (("pack", "RUN", "-o", "x", "--dtype", "int4"), "float16"),
        (("release", "PACKS", "-o", "x"), "--bundle"),
        (("release", "PACKS", "-o", "x", "--bundle", "b", "--tasks", "0"), "--tasks"),
        (("release", "PACKS", "-o", "x", "--bundle", "b", "--tasks", "-1"), "--tasks"),
        (("release", "PACKS", "-o", "x", "--bundle", "b", "--number", "0"), "--number"),
        (("release", "PACKS", "-o", "x", "--bundle", "b", "--canaries", "-1"), "--canaries"),
        (("verify", "RUN"), "BUNDLE"),
        (("nothing",), "nothing"),
    ],
)
def test_wrong_usage_is_status_two(fail: Fail, arguments: tuple[str, ...], word: str) -> None:
    code, error = fail(*arguments)
    assert code == 2
    assert word in error
    assert "Traceback" not in error


def test_verbose_shows_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["edgecl", "--verbose", "export", "inspect", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "Traceback" in capsys.readouterr().err


# -- inspect --


def test_inspect_shows_what_is_there(world: Any) -> None:
    shipped = world.trained["l2p"]
    bundle = inspect(world.bundle)
    assert bundle["digest"] == world.steps[-1].digest
    assert bundle["backbone"]["digest"] == world.backbone.digest
    assert bundle["weights_bytes"] == world.steps[-1].weights_bytes
    assert bundle["graph_bytes"] == sum(p.stat().st_size for p in world.bundle.glob("*.onnx"))
    assert bundle["programs"]["l2p"]["inputs"]["prompts"] == "m p d"
    assert bundle["programs"]["l2p"]["slots"] == ["tokens"]
    assert bundle["programs"].keys() == world.trained.keys()
    packs = inspect(shipped.packs["float16"])
    assert list(packs["packs"]) == list(read_packs(shipped.packs["float16"])[0])
    first = next(iter(packs["packs"].values()))
    assert first["classes"] == list(world.stream.tasks[0].classes)
    assert first["tensors"]["prompts"] == "float16 [10, 5, 192]"
    release = inspect(shipped.release["float16"])
    assert (release["number"], release["parent"], release["classes"]) == (3, 2, 6)
    assert release["digest"] == read_release(shipped.release["float16"]).digest
    assert release["packs"] == packs["packs"]
    run = inspect(shipped.learner.run.path)
    assert run["method"] == "l2p"
    rows = [tuple(task["classes"]) for task in run["tasks"].values()]
    assert rows == shipped.learner.run.class_rows()
    assert run["interface"] == bundle["programs"]["l2p"]["interface"]


def test_inspect_refuses_other_folders(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ExportError, match="Give the folder that"):
            inspect(path)

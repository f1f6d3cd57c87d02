"""`make dist` finds builds that differ, and runs README's parts with what is installed."""

import sys
from pathlib import Path

import dist
import pytest
from readme_parts import part, run


def test_two_builds_that_differ_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(tree: Path, out: Path, epoch: str, *forms: str) -> dict[str, str]:
        return {"same.whl": "0", "edgecl.whl": out.name, f"{out.name}.whl": "0"}

    monkeypatch.setattr(dist, "build", build)
    with pytest.raises(SystemExit, match=r"again.whl, dist.whl, edgecl.whl differ. Compare "):
        dist.build_twice(dist.git("rev-parse", "HEAD"), tmp_path)


def test_the_two_builds_are_of_trees_that_differ_in_what_must_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = []

    def build(tree: Path, out: Path, epoch: str, *forms: str) -> dict[str, str]:
        trees.append(tree)
        return {"epoch": epoch}

    monkeypatch.setattr(dist, "build", build)
    dist.build_twice(dist.git("rev-parse", "HEAD"), tmp_path)
    first, second = (tree / "VERSION" for tree in trees)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_mode & 0o044
    assert not second.stat().st_mode & 0o044
    assert first.stat().st_mtime < second.stat().st_mtime


def test_new_files_replace_those_of_another_version(tmp_path: Path) -> None:
    built, out = tmp_path / "built", tmp_path / "dist"
    for folder, names in ((built, ["edgecl-2.whl"]), (out, ["edgecl-1.whl", "edgecl-1.tar.gz"])):
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"")
    (out / "notes.txt").write_bytes(b"")
    assert dist.replace(built, out) == [out / "edgecl-2.whl"]
    assert sorted(file.name for file in out.iterdir()) == ["edgecl-2.whl", "notes.txt"]


def test_a_failing_tool_ends_it_with_its_output() -> None:
    with pytest.raises(SystemExit, match="must succeed, but:\nwhy"):
        dist.tool(sys.executable, "-c", "print('why'); raise SystemExit(3)")


def test_a_part_that_fails_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "part", lambda name: "echo before; false; echo after")
    with pytest.raises(SystemExit, match=r"exit status 1\nbefore\n\n$"):
        dist.try_part("tour", tmp_path, Path(sys.executable))


@pytest.mark.parametrize("name", [*dist.PARTS, *dist.EXTRAS])
def test_readme_has_the_parts(name: str) -> None:
    assert "edgecl " in part(name)


def test_a_part_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found 0\. Put the markers around it"):
        part("nothing")


def test_commands_run_with_the_programs_of_an_environment(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "edgecl-test"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho mine\n")
    program.chmod(0o755)
    assert run("edgecl-test", tmp_path, tmp_path / "bin" / "python") == "mine\n"
    with pytest.raises(RuntimeError, match="Traceback"):
        run("echo Traceback >&2", tmp_path)

"""The workflows do what the repository can, on the Python versions that it supports."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in FILES}
DISTRIBUTIONS = ["edgecl-deploy", "edgecl", "edgecl-export"]  # each needs those before it


def jobs() -> list[dict[str, Any]]:
    return [job for workflow in WORKFLOWS.values() for job in workflow["jobs"].values()]


def steps() -> list[dict[str, Any]]:
    return [step for job in jobs() for step in job["steps"]]


def script(workflow: str, job: str, ending: str) -> str:
    """Return the commands of a step, by the end of its name."""
    [found] = [
        step["run"]
        for step in WORKFLOWS[workflow]["jobs"][job]["steps"]
        if step.get("name", "").endswith(ending)
    ]
    return str(found)


def execute(commands: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub does."""
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", commands],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Return a folder that is ready for version 0.2.0."""
    (tmp_path / "VERSION").write_text("0.2.0\n")
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d" / "README.md").write_text("How.\n")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 0.2.0 (2026-03-04)\n\n### Added\n\n- New.\n\n"
        "## 0.1.0 (2026-01-02)\n\n- Old.\n"
    )
    return tmp_path


def test_what_is_made_can_be_made() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    made = {
        name for step in steps() for name in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))
    }
    assert made
    assert made <= targets


def test_an_action_has_one_pin_with_its_version() -> None:
    pins: dict[str, set[str]] = {}
    for file in FILES:
        for line in re.findall(r"uses: (.*)", file.read_text()):
            found = re.fullmatch(r"(\S+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", line)
            assert found, line
            pins.setdefault(found[1], set()).add(found[2])
    assert {action: len(pin) for action, pin in pins.items()} == dict.fromkeys(pins, 1)


def test_every_supported_python_is_tested() -> None:
    tests = WORKFLOWS["tests"]["jobs"]
    tested = set(tests["test"]["strategy"]["matrix"]["python"])
    tested |= {step["with"]["python-version"] for step in tests["check"]["steps"] if
               "python-version" in step.get("with", {})}  # fmt: skip
    for folder in ("deploy", "edgecl", "export"):
        core = ProjectMetadata(str(ROOT / folder), PluginManager()).core
        named = {re.fullmatch(r".* Python :: (3\.\d+)", each) for each in core.classifiers}
        assert {found[1] for found in named if found} == tested
        assert all(core.python_constraint.contains(version) for version in tested)


def test_only_what_publishes_may_sign() -> None:
    allowed = {
        name for workflow in WORKFLOWS.values() for name, job in workflow["jobs"].items()
        if "write" in job["permissions"].values()
    }  # fmt: skip
    assert all(workflow["permissions"] == {} for workflow in WORKFLOWS.values())
    assert allowed <= {"publish", "announce"}
    assert WORKFLOWS["release"]["jobs"]["publish"]["permissions"] == {"id-token": "write"}


def test_each_distribution_is_published_from_its_environment(tmp_path: Path) -> None:
    job = WORKFLOWS["release"]["jobs"]["publish"]
    assert job["strategy"]["matrix"]["distribution"] == DISTRIBUTIONS
    assert job["strategy"]["max-parallel"] == 1
    assert job["environment"] == "${{ matrix.distribution }}"
    files = {one["distribution"]: one["files"] for one in job["strategy"]["matrix"]["include"]}
    built = [
        f"{name.replace('-', '_')}-0.2.0{end}"
        for name in DISTRIBUTIONS
        for end in ("-py3-none-any.whl", ".tar.gz")
    ]
    for name in DISTRIBUTIONS:
        folder = tmp_path / name
        (folder / "dist").mkdir(parents=True)
        for file in built:
            (folder / "dist" / file).touch()
        done = execute(script("release", "publish", "one distribution"), folder, FILES=files[name])
        assert done.returncode == 0, done.stderr
        taken = {file.name for file in (folder / "upload").iterdir()}
        assert taken == {each for each in built if each.startswith(name.replace("-", "_") + "-")}


def test_a_tag_must_name_a_version_that_is_prepared(released: Path) -> None:
    check = script("release", "build", "is prepared")
    assert execute(check, released, GITHUB_REF_NAME="v0.2.0").returncode == 0
    assert execute(check, released, GITHUB_REF_NAME="v0.3.0").returncode != 0
    fragment = released / "changelog.d" / "late.fixed.md"
    fragment.write_text("Late.\n")
    assert execute(check, released, GITHUB_REF_NAME="v0.2.0").returncode != 0
    fragment.unlink()
    (released / "VERSION").write_text("0.3.0\n")
    assert execute(check, released, GITHUB_REF_NAME="v0.3.0").returncode != 0


def test_the_release_says_what_the_changelog_says(released: Path) -> None:
    gh = released / "bin" / "gh"
    gh.parent.mkdir()
    gh.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    gh.chmod(0o755)
    (released / "dist").mkdir()
    (released / "dist" / "edgecl-0.2.0.tar.gz").touch()
    done = execute(
        script("release", "announce", "of the changelog"),
        released,
        GITHUB_REF_NAME="v0.2.0",
        PATH=f"{gh.parent}:{os.environ['PATH']}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:3] == ["release", "create", "v0.2.0"]
    assert {"dist/edgecl-0.2.0.tar.gz", "SHA256SUMS"} <= set(done.stdout.split())
    assert (released / "notes.md").read_text().strip() == "### Added\n\n- New."

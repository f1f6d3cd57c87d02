"""What a release says of itself is compiled, and agrees with the version."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.version import Version
from prepare_release import cite, compile_changelog

ROOT = Path(__file__).parents[2]
VERSION = (ROOT / "VERSION").read_text().strip()
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
HEADING = "# Changelog\n\n<!-- towncrier release notes start -->\n"
EARLIER = "\n## 0.1.0 (2026-01-02)\n\nThe first.\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the repository's configuration and a changelog of one release."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "changelog.d", tmp_path / "changelog.d")
    for fragment in (tmp_path / "changelog.d").glob("*.*.md"):
        fragment.unlink()
    (tmp_path / "CHANGELOG.md").write_text(HEADING + EARLIER)
    return tmp_path


def add(project: Path, name: str, text: str) -> Path:
    file = project / "changelog.d" / name
    file.write_text(text + "\n")
    return file


def test_a_new_version_is_compiled_from_its_fragments(project: Path) -> None:
    fragment = add(project, "faster.changed.md", "It is faster.")
    compile_changelog(project, "0.2.0", "2026-03-04")
    assert (project / "CHANGELOG.md").read_text() == (
        HEADING + "\n## 0.2.0 (2026-03-04)\n\n### Changed\n\n- It is faster.\n" + EARLIER
    )
    assert not fragment.exists()


def test_fragments_that_come_before_the_tag_come_below(project: Path) -> None:
    add(project, "faster.changed.md", "It is faster.")
    compile_changelog(project, "0.1.0", "2026-01-02")
    compile_changelog(project, "0.1.0", "2026-03-04")
    assert (project / "CHANGELOG.md").read_text() == (
        HEADING + "\n## 0.1.0 (2026-03-04)\n\nThe first.\n\n### Changed\n\n- It is faster.\n"
    )


def test_a_release_has_something_to_say(project: Path) -> None:
    with pytest.raises(SystemExit, match="write another version into VERSION"):
        compile_changelog(project, "0.2.0", "2026-03-04")


def test_a_changelog_without_its_marker_is_refused(project: Path) -> None:
    (project / "CHANGELOG.md").write_text("# Changelog\n")
    with pytest.raises(SystemExit, match="Put it back"):
        compile_changelog(project, "0.2.0", "2026-03-04")


def test_fragments_that_wait_can_be_compiled() -> None:
    draft = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "next"]
    done = subprocess.run(draft, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for fragment in (ROOT / "changelog.d").glob("*.*.md"):
        assert fragment.name.split(".")[1] in {"added", "changed", "fixed", "removed"}
        assert fragment.read_text().split()[0] in done.stdout


def test_a_change_without_a_fragment_is_found(project: Path) -> None:
    def git(*command: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", *author, *command], cwd=project, check=True, capture_output=True)

    def check() -> int:
        command = [sys.executable, "-m", "towncrier", "check", "--compare-with", "main"]
        return subprocess.run(command, cwd=project, capture_output=True, check=False).returncode

    git("init", "--initial-branch=main")
    git("add", ".")
    git("commit", "-m", "one")
    git("checkout", "-b", "change")
    (project / "code.py").write_text("")
    git("add", ".")
    git("commit", "-m", "two")
    assert check() == 1
    add(project, "faster.changed.md", "It is faster.")
    git("add", ".")
    git("commit", "-m", "three")
    assert check() == 0


def test_the_citation_is_of_the_newest_release() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = [line for line in changelog.splitlines() if line.startswith("## ")]
    assert headings[0] == f"## {CITATION['version']} ({CITATION['date-released']})"


def test_the_version_is_the_newest_release_or_comes_after_it() -> None:
    assert Version(VERSION) >= Version(str(CITATION["version"]))


def test_a_citation_gets_version_and_date(tmp_path: Path) -> None:
    file = tmp_path / "CITATION.cff"
    file.write_text("cff-version: 1.2.0\nversion: 0.1.0\ndate-released: 2026-01-02\n")
    cite(file, "0.2.0", "2026-03-04")
    assert file.read_text() == "cff-version: 1.2.0\nversion: 0.2.0\ndate-released: 2026-03-04\n"
    file.write_text("cff-version: 1.2.0\n")
    with pytest.raises(SystemExit, match="Put it back"):
        cite(file, "0.2.0", "2026-03-04")

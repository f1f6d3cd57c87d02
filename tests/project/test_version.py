"""One file says the version, and the three distributions agree on it, built or installed."""

import importlib
import importlib.metadata
import subprocess
import sys
import tarfile
from email import message_from_bytes
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
VERSION = (ROOT / "VERSION").read_text().strip()
DISTRIBUTIONS = {"edgecl-deploy": "deploy", "edgecl": "edgecl", "edgecl-export": "export"}


def metadata(folder: Path) -> ProjectMetadata:
    """Return what a build of the folder would say of itself."""
    return ProjectMetadata(str(folder), PluginManager())


def ours(requirements: list[str]) -> dict[str, str]:
    """Return how the repository's own distributions are required."""
    parsed = map(Requirement, requirements)
    return {one.name: str(one.specifier) for one in parsed if one.name in DISTRIBUTIONS}


def test_the_version_is_one_that_an_index_takes() -> None:
    assert str(Version(VERSION)) == VERSION


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_distribution_has_the_version(name: str) -> None:
    module = importlib.import_module(name.replace("-", "_"))
    assert metadata(ROOT / DISTRIBUTIONS[name]).version == VERSION
    assert importlib.metadata.version(name) == VERSION, "make dev installs the new version"
    assert module.__version__ == VERSION


@pytest.mark.parametrize(
    ("name", "needs"),
    [("edgecl-deploy", set()), ("edgecl", {"edgecl-deploy"}),
     ("edgecl-export", {"edgecl-deploy"})],
)  # fmt: skip
def test_distributions_need_each_other_in_the_same_version(name: str, needs: set[str]) -> None:
    pins = ours(metadata(ROOT / DISTRIBUTIONS[name]).core.dependencies)
    assert pins == dict.fromkeys(needs, f"=={VERSION}")


def test_an_extra_needs_no_pin_of_its_own() -> None:
    """Each distribution pins edgecl-deploy, so none can be installed next to another version."""
    extras = metadata(ROOT / "export").core.optional_dependencies
    assert ours(extras["torch"]) == {"edgecl": "", "edgecl-deploy": ""}
    for name in ("edgecl", "edgecl-export"):
        pins = ours(metadata(ROOT / DISTRIBUTIONS[name]).core.dependencies)
        assert pins["edgecl-deploy"] == f"=={VERSION}"


def test_another_version_is_written_in_one_file_only(tmp_path: Path) -> None:
    for folder in ("edgecl", "export"):
        (tmp_path / folder).mkdir()
        for file in ("pyproject.toml", "hatch_build.py"):
            (tmp_path / folder / file).write_bytes((ROOT / folder / file).read_bytes())
    (tmp_path / "VERSION").write_text("7.8.9\n")
    made = metadata(tmp_path / "export")
    assert made.version == "7.8.9"
    assert ours(made.core.dependencies) == {"edgecl-deploy": "==7.8.9"}
    assert metadata(tmp_path / "edgecl").version == "7.8.9"


@pytest.mark.parametrize(
    "copies",
    [("edgecl/hatch_build.py", "export/hatch_build.py"),
     ("LICENSE", "deploy/LICENSE", "edgecl/LICENSE", "export/LICENSE")],
)  # fmt: skip
def test_copies_are_the_same(copies: tuple[str, ...]) -> None:
    """Links would be left in an sdist, pointing to nothing."""
    assert not any((ROOT / name).is_symlink() for name in copies)
    assert len({(ROOT / name).read_bytes() for name in copies}) == 1


def test_an_sdist_builds_on_its_own(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "-o", str(tmp_path)]
    subprocess.run([*build, str(ROOT / "export")], check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path / "alone", filter="data")
    [folder] = (tmp_path / "alone").iterdir()
    alone = metadata(folder)
    assert alone.version == VERSION
    assert ours(alone.core.dependencies) == {"edgecl-deploy": f"=={VERSION}"}
    said = message_from_bytes((folder / "PKG-INFO").read_bytes())
    assert set(alone.core.dependencies) == {
        each for each in said.get_all("Requires-Dist", []) if "extra ==" not in each
    }

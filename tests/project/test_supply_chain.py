"""What a device installs is pinned by digest, and is what was tested."""

import importlib.metadata
import re
import sys
from pathlib import Path

import dist
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LISTS = {"requirements.txt": ("cpu",), "requirements-server.txt": ("cpu", "server")}  # extras


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """Return the packages of a device, and the digests of their files."""
    joined = (ROOT / "deploy" / name).read_text().replace("\\\n", " ")
    return [
        (Requirement(line.partition("--hash")[0].strip()), re.findall(r"--hash=(\S+)", line))
        for line in joined.splitlines()
        if line.strip()
    ]


def closure(name: str, extras: tuple[str, ...] = ()) -> set[str]:
    """Return the names of all packages that an installed one needs here."""
    found: set[str] = set()
    for text in importlib.metadata.requires(name) or ():
        need = Requirement(text)
        if need.marker is None or any(
            need.marker.evaluate({"extra": extra}) for extra in (*extras, "")
        ):
            own = need.name.lower().replace("_", "-")
            found |= {own, *closure(need.name, tuple(need.extras))}
    return found


@pytest.mark.parametrize("name", LISTS)
def test_every_package_has_one_version_and_digests(name: str):
    for requirement, digests in entries(name):
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement
        assert digests
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in digests)
    assert "http" not in (ROOT / "deploy" / name).read_text()


@pytest.mark.parametrize("name", LISTS)
def test_the_versions_are_those_that_are_tested(name: str):
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pinned[pin.name.lower().replace("_", "-")] = pin.specifier
    here = {
        need.name: need.specifier
        for need, _ in entries(name)
        if need.marker is None or need.marker.evaluate({"python_full_version": "3.11.7"})
    }
    assert {name: each for name, each in here.items() if pinned.get(name, each) != each} == {}
    assert len(pinned.keys() & here.keys()) >= 12


@pytest.mark.skipif(sys.version_info < (3, 11), reason="constraints.txt holds from 3.11 on")
@pytest.mark.parametrize(("name", "extras"), LISTS.items())
def test_nothing_that_a_device_needs_is_missing(name: str, extras: tuple[str, ...]):
    listed = {need.name.lower().replace("_", "-") for need, _ in entries(name)}
    assert closure("edgecl-deploy", extras) <= listed


def test_the_server_s_list_is_the_device_s_and_more():
    plain, more = (
        {(need.name, str(need.specifier)): digests for need, digests in entries(name)}
        for name in LISTS
    )
    assert {each: more.get(each) for each in plain} == plain
    assert {name for name, _ in more.keys() - plain.keys()} >= {
        *("anyio", "h11", "prometheus-client", "starlette", "uvicorn")
    }


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a later Python needs fewer packages")
@pytest.mark.parametrize(
    ("page", "install", "extra"),
    [("README.md", "edgecl-deploy", "cpu"), ("docs/operate.md", "edgecl-export", "channel")],
)
def test_the_documents_count_what_is_installed(page: str, install: str, extra: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    said = re.search(rf"{install}\[{extra}\].*?\b([0-9]+) packages", text)
    assert said is not None
    assert int(said[1]) == len({install} | closure(install, (extra,)))


def test_builds_have_one_version_of_their_tool():
    pin = re.search(r"^hatchling(==[\d.]+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert pin is not None
    for room in ("deploy", "edgecl", "export"):
        text = (ROOT / room / "pyproject.toml").read_text()
        assert f'requires = ["hatchling{pin[1]}"]' in text


@pytest.mark.parametrize(
    ("image", "name"),
    [("cpu.Dockerfile", "requirements.txt"), ("serve.Dockerfile", "requirements-server.txt")],
)
def test_the_image_installs_by_digests(image: str, name: str):
    text = (ROOT / "deploy" / "docker" / image).read_text()
    assert f"--require-hashes -r deploy/{name}" in text
    assert text.count("FROM ${BASE}") == 2


def test_a_bill_of_materials_lists_what_is_installed(tmp_path: Path):
    import json

    file = dist.describe(Path(sys.executable), tmp_path / "sbom.json")
    found = json.loads(file.read_text())
    assert found["bomFormat"] == "CycloneDX"
    assert found["metadata"]["component"]["name"] == "edgecl-deploy"
    names = {each["name"]: each["version"] for each in found["components"]}
    assert names["tuf"] == importlib.metadata.version("tuf")

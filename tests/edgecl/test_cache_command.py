"""`edgecl cache`: what is stored, and how it is removed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cli.cache import cache
from edgecl.errors import EdgeclError

DIGEST = "ab" * 32


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from tests.edgecl.backbones.test_feature_cache import put

    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path))
    put(FeatureCache(tmp_path, DIGEST), "abc")
    return tmp_path


def invoke(*arguments: str) -> str:
    return CliRunner().invoke(cache, list(arguments), catch_exceptions=False).stdout


def test_show(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECL_CACHE_LIMIT", "3G")
    found = json.loads(invoke("show", "--json"))
    size = sum(path.stat().st_size for path in root.rglob("*.safetensors"))
    assert (found["bytes"], found["limit"]) == (size, 3 * 10**9)
    (one,) = found["backbones"]
    assert (one["backbone"], one["images"], one["bytes"]) == (DIGEST, 3, size)
    text = invoke("show")
    assert DIGEST[:12] in text
    assert f"{size} B of at most 3.0 GB" in text


def test_clear(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "weights").mkdir()
    found = json.loads(invoke("clear", "--json"))
    assert found["files"] == 1
    assert found["bytes"] > 0
    assert json.loads(invoke("show", "--json"))["backbones"] == []
    assert (root / "weights").is_dir()
    assert invoke("clear").startswith("removed 0 B from ")


def test_a_cache_of_another(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", fail)
    with pytest.raises(EdgeclError, match="Change the rights of the folder"):
        invoke("clear")

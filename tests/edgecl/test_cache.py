import pytest

from edgecl.cache import FEATURE_BYTES, cache_dir, feature_bytes
from edgecl.errors import EdgeclError


def test_the_environment_overrides_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("EDGECL_CACHE")
    assert cache_dir().name == "edgecl"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", FEATURE_BYTES),
        ("0", 0),
        ("123", 123),
        ("2K", 2000),
        ("3 gb", 3 * 10**9),
        ("1T", 10**12),
    ],
)
def test_the_limit_of_the_features(monkeypatch, text, want):
    monkeypatch.setenv("EDGECL_CACHE_LIMIT", text)
    assert feature_bytes() == want


@pytest.mark.parametrize("text", ["much", "-1", "1.5G", "1X", "1GiB"])
def test_a_limit_that_is_none(monkeypatch, text):
    monkeypatch.setenv("EDGECL_CACHE_LIMIT", text)
    with pytest.raises(EdgeclError, match=r"EDGECL_CACHE_LIMIT must be .* Write for example 20G"):
        feature_bytes()

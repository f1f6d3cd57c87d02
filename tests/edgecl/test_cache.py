from edgecl.cache import cache_dir


def test_the_environment_overrides_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("EDGECL_CACHE")
    assert cache_dir().name == "edgecl"

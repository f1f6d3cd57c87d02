"""Public names that load their modules when they are first used."""

import importlib

import pytest

import edgecl_deploy
from edgecl_deploy.lazy import lazily


def test_every_public_name_is_what_its_module_holds():
    for name in edgecl_deploy.__all__:
        assert getattr(edgecl_deploy, name) is not None
    assert edgecl_deploy.Classifier is importlib.import_module("edgecl_deploy.runtime").Classifier
    assert set(edgecl_deploy.__all__) <= set(dir(edgecl_deploy))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'edgecl_deploy' has no attribute 'Clasifier'"):
        edgecl_deploy.Clasifier  # noqa: B018


def test_a_name_may_differ_in_its_module():
    get, names = lazily("edgecl_deploy", {"read": "files:read_bundle"})
    assert get("read") is edgecl_deploy.read_bundle
    assert "read" in names()

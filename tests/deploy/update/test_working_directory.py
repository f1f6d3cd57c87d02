"""A process that we start takes no code from the folder that it is started in."""

import os
import sys

import pytest
from tests.deploy.support.sources import make_store
from tests.deploy.support.updating import serves

from edgecl_deploy import children
from edgecl_deploy.update.hook import report
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome, Result

TRAPS = ("numpy", "random", "json", "runpy", "onnxruntime", "edgecl_deploy", "sitecustomize")


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Go to a folder whose modules and programs leave a mark when they run."""
    folder, mark = tmp_path / "here", tmp_path / "mark"
    folder.mkdir()
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r})\n")
    program = folder / "report-me"
    program.write_text(f"#!/bin/sh\necho ran >>{mark}\n")
    program.chmod(0o755)
    monkeypatch.chdir(folder)
    return mark


@pytest.mark.parametrize("variable", [None, "", ":", ".", "{here}"])
def test_the_test_before_the_switch(store, source, trap, monkeypatch, variable):
    if variable is not None:
        monkeypatch.setenv("PYTHONPATH", variable.format(here=os.getcwd()))
    monkeypatch.setattr(sys, "path", ["", os.getcwd(), *sys.path])
    result = update(store, source)
    assert result.outcome is Outcome.UPDATED, result.reason
    assert serves(store) == 2
    assert not trap.exists()


@pytest.mark.parametrize("hook", ["report-me", "./report-me"])
@pytest.mark.parametrize("path", ["", ".", ":/usr/bin"])
def test_the_hook(world, tmp_path, trap, monkeypatch, hook, path):
    monkeypatch.setenv("PATH", path)
    store = make_store(world, tmp_path / "store", hook=(hook,))
    report(store, Result(Outcome.UPDATED, "why"))
    assert not trap.exists()
    assert "absolute path" in list(store.log.read())[-1]["reason"]


def test_the_test_before_the_switch_gets_no_secret(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://fleet:word@proxy")
    monkeypatch.setenv("HTTP_PROXY", "http://fleet:word@proxy")
    monkeypatch.setenv("EDGECL_NETRC", "/etc/edgecl/netrc")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cuda")
    given = children.environment()
    assert "word" not in str(given)
    assert "EDGECL_NETRC" not in given
    assert given["LD_LIBRARY_PATH"] == "/opt/cuda"


def test_a_program_by_its_name_is_found_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f".:{tmp_path}")
    found = tmp_path / "tool"
    found.touch(0o755)
    found.chmod(0o755)
    assert children.program("tool") == str(found)
    assert children.program("/no/such") == "/no/such"


def test_code_that_was_installed_in_the_working_directory_is_found_there(monkeypatch):
    home = os.path.realpath(os.path.join(os.path.dirname(children.__file__), ".."))
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [home, "/elsewhere"])
    assert children._import_folders() == [home, "/elsewhere"]
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", [home, "/", "relative", ""])
    assert children._import_folders() == [home]

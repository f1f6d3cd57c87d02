"""What is collected from a store, and what stays."""

import errno
import json
import os
import time

import pytest
from click.testing import CliRunner
from tests.deploy.support.sources import (
    objects_of,
)
from tests.deploy.support.store_checks import broken
from tests.deploy.support.store_damage import NAME

from edgecl_deploy.cli import device
from edgecl_deploy.manifest.canonical import canonical
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.gc import Collected, collect, needed
from edgecl_deploy.store.health import Report, Reporter, read_reports
from edgecl_deploy.store.layout import (
    OBJECTS,
    STATE,
)
from edgecl_deploy.store.records import (
    FACTORY,
    Config,
    generation_name,
)
from edgecl_deploy.store.recover import activate


def test_what_is_needed_stays(store, take, made):
    take(2, 3, 4)
    with store.lock():
        collect(store)
    assert {each.release for each in store.generations().values()} == {1, 3, 4}
    assert needed(store, store.known()) == store.generations().keys()
    objects = {name for n in (1, 3, 4) for name in objects_of(made[n])}
    assert set(os.listdir(store.path / OBJECTS)) == objects


def test_a_pinned_release_stays(store, take, made):
    take(2)
    with store.lock():
        store.configure(Config(**{**vars(store.config), "pinned": 2}))
        old = store.serving()
        activate(store, store.generation(FACTORY), "a test")
        collect(store)
    assert old.number in store.generations()
    with store.lock():
        store.configure(Config(**{**vars(store.config), "pinned": None}))
        assert collect(store) == Collected(1, 3, sum(old.objects[n] for n in objects_of(made[2])))
    assert store.generations().keys() == {FACTORY}


def test_what_an_update_wants_stays(store):
    (store.path / OBJECTS / NAME).write_bytes(b"12345")
    with store.lock():
        assert collect(store, {NAME}) == Collected(0, 0, 0)
        assert collect(store) == Collected(0, 1, 5)


def test_what_serves_stays_even_if_the_state_is_lost(store, take):
    take(2, 3)
    (store.path / STATE).unlink()
    with store.lock():
        collect(store)
    assert {each.release for each in store.generations().values()} == {1, 3}
    assert broken(store.path) is None


def test_old_reports_go(store):
    reporter = Reporter(store.path)
    reporter.write(Report(FACTORY))
    with store.lock():
        collect(store)
        assert len(read_reports(store.path, FACTORY)) == 1
        store.now = lambda: time.time() + 2 * 86400
        collect(store)
    assert read_reports(store.path, FACTORY) == []


def test_nothing_goes_while_what_serves_cannot_be_read(store, take):
    take(2)
    (store.path / generation_name(store.current())).write_bytes(b"moth")
    (store.path / STATE).unlink()
    before = set(os.listdir(store.path / OBJECTS))
    with store.lock():
        assert collect(store) == Collected(0, 0, 0)
    assert set(os.listdir(store.path / OBJECTS)) == before


def test_a_damaged_generation_goes_before_its_objects(store, take):
    take(2, 3)
    number = store.state.previous
    (store.path / generation_name(number)).write_bytes(b"moth")
    with store.lock():
        assert collect(store).generations == 1
    assert not (store.path / generation_name(number)).exists()
    assert broken(store.path) is None


def unreadable(data):
    return data[:-1]


def without_a_blob(data):
    held = json.loads(data)
    held["objects"].pop(next(name for name in held["objects"] if name != held["digest"]))
    return canonical(held)


def rot(store, number, how):
    path = store.path / generation_name(number)
    data = how(path.read_bytes())
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("how", [unreadable, without_a_blob])
@pytest.mark.parametrize("which", ["current", "previous", "factory"])
def test_what_a_damaged_manifest_named_stays_without_a_recovery(store, take, which, how):
    take(2, 3)
    number = {"current": store.current(), "previous": store.state.previous, "factory": FACTORY}
    wanted, before = store.generations(), set(os.listdir(store.path / OBJECTS))
    rot(store, number[which], how)
    assert store.generations() != wanted
    with store.lock():
        assert collect(store) == Collected(0, 0, 0)
        assert set(os.listdir(store.path / OBJECTS)) == before
        store.mend_generations()
    assert store.generations() == wanted
    assert broken(store.path) is None


def test_gc_on_a_full_disk_erases_nothing_that_can_be_mended(store, take, monkeypatch):
    take(2, 3)
    wanted = store.generations()
    rot(store, store.state.previous, unreadable)

    def full(self, path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "put", full)
        result = CliRunner().invoke(device, ["gc", str(store.path)])
    assert result.exit_code == 0, result.output
    with store.lock():
        store.mend_generations()
    assert store.generations() == wanted
    assert broken(store.path) is None

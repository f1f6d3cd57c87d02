"""A store after damage or an interruption: a whole release serves."""

from dataclasses import replace

from tests.deploy.support.sources import (
    passes,
)
from tests.deploy.support.store_checks import broken, release_of
from tests.deploy.support.store_damage import NAME, damage

from edgecl_deploy.store import fsck
from edgecl_deploy.store.layout import (
    CURRENT,
    OBJECTS,
    STATE,
)
from edgecl_deploy.store.records import (
    FACTORY,
    Phase,
    generation_name,
)
from edgecl_deploy.store.recover import activate, fallback, recover
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.operate import rollback
from edgecl_deploy.update.outcome import Outcome


def test_fsck_finds_everything(store, take):
    take(2)
    assert fsck.check(store) == []
    one, two = sorted(store.serving().objects)[:2]
    damage(store, one)
    (store.path / OBJECTS / two).unlink()
    (store.path / generation_name(FACTORY)).write_bytes(b"{}")
    (store.path / CURRENT).unlink()
    found = {each.what: each.found for each in fsck.check(store)}
    assert found.pop(f"{OBJECTS}/{one}") == "other bytes"
    assert found.pop(f"{OBJECTS}/{two}") == "missing"
    assert found.pop("current") == "no release"
    assert "format" in found.pop(generation_name(FACTORY))
    assert found == {}


def test_current_without_its_generation_is_found_and_mended(store, take):
    """The state names the release, and everything follows from the release."""
    take(2)
    before = store.serving()
    (store.path / generation_name(1)).unlink()
    assert [each.found for each in fsck.check(store)] == ["no such generation"]
    with store.lock():
        fsck.repair(store)
    assert replace(store.serving(), created=before.created) == before
    assert fsck.check(store) == []


def test_current_without_its_generation_is_left_if_the_state_is_lost_too(store, take):
    take(2)
    (store.path / generation_name(1)).unlink()
    (store.path / STATE).unlink()
    with store.lock():
        fsck.repair(store)
    assert store.current() == FACTORY
    assert fsck.check(store) == []


def test_repair_falls_back_and_the_next_update_fetches_again(store, take, source, made):
    take(2)
    name = next(iter(made[2].blobs))
    damage(store, name)
    with store.lock():
        assert [each.what for each in fsck.repair(store)] == [f"{OBJECTS}/{name}"]
    assert release_of(store) == 1
    source.fetched.clear()
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert source.fetched == [name]  # nothing else was missing
    assert release_of(store) == 2
    assert broken(store.path) is None


def test_a_denied_release_serves_no_longer_than_the_next_start(store, take):
    take(2)
    with store.lock():
        store.deny(store.serving().digest, "no good")
        assert recover(store).last_good == FACTORY
    assert release_of(store) == 1


def test_the_factory_release_serves_even_if_it_was_denied(store):
    with store.lock():
        store.deny(store.serving().digest, "no good")
        recover(store)
    assert store.current() == FACTORY


def test_no_rollback_below_the_floor_but_to_the_factory(store, take):
    take(2, 3, 4)
    with store.lock():
        assert fallback(store, store.current()).release == 3
        store.raise_floor(4)
        store.raise_floor(2)  # it never falls
        assert store.denied.min_release == 4
        assert fallback(store, store.current()).number == FACTORY


def test_no_rollback_to_a_denied_release(store, take):
    take(2, 3)
    with store.lock():
        store.deny(store.serving().digest, "no good")
        activate(store, fallback(store, store.current()), "a test")
        assert release_of(store) == 2
        assert fallback(store, store.current()).number == FACTORY


def test_a_denied_release_may_be_allowed_again(store):
    with store.lock():
        store.deny(NAME, "")
        store.deny("1" * 64, "ümlaut\n" + "x" * 5000)
        store.raise_floor(7)
        store.allow(NAME)
    assert store.denied.min_release == 7
    assert list(store.denied.releases) == ["1" * 64]
    assert store.denied.releases["1" * 64].startswith("\\xfcmlaut\\nxxx")


def test_a_rollback_that_was_interrupted_goes_where_it_was_going(store, take):
    take(2, 3)
    with store.lock():
        state = store.state
        store.write_state(state.in_phase(Phase.ROLLBACK, generation=1))
        assert recover(store).phase is Phase.COMMITTED
    assert store.current() == 1


def test_without_a_state_what_serves_is_good(store, take):
    take(2)
    (store.path / STATE).unlink()
    with store.lock():
        state = recover(store)
    assert (state.phase, state.last_good, state.newest) == (Phase.COMMITTED, 1, 1)
    assert [event["event"] for event in store.log.read()][-1] == "state rebuilt"


def test_a_trial_of_the_factorys_own_release_ends_at_the_factory(store):
    """A damaged factory release is fetched again, as a trial of itself."""
    with store.lock():
        store.write_state(store.state.in_phase(Phase.TRIAL, generation=FACTORY))
    rollback(store, "by hand")
    assert (release_of(store), store.current(), store.state.phase) == (1, FACTORY, Phase.COMMITTED)
    assert fallback(store, None).number == FACTORY

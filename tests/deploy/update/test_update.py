"""An update: every outcome, who may have a release, what is fetched."""

import errno
import json
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from tests.deploy.support.sources import (
    Fresh,
    MemorySource,
    fails,
    make_release,
    make_store,
    objects_of,
    passes,
    refuse,
)
from tests.deploy.support.updating import configure, limit, serves

from edgecl_deploy.errors import NoSpaceError, OfflineError, StaleError, UntrustedError
from edgecl_deploy.format import (
    Rollout,
    digest,
)
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.layout import HEALTH, INHIBIT
from edgecl_deploy.store.records import Phase
from edgecl_deploy.update import incoming
from edgecl_deploy.update.machine import MOST_WRITES, update
from edgecl_deploy.update.outcome import Outcome

# -- every outcome ------------------------------------------------------------------------------


def offers(**fields):
    def arrange(world, store, source):
        source.publish(make_release(world, 2), **fields)

    return arrange


def raises(error, *more):
    def arrange(world, store, source):
        for after, each in enumerate([error, *more]):
            source.fail(after=2 + after, fault=each)

    return arrange


def pinned(world, store, source):
    configure(store, pinned=9)


def denied(world, store, source):
    with store.lock():
        store.deny(source.channels["stable"].release, "it failed")


def inhibited(world, store, source):
    (store.path / INHIBIT / "calibrating").touch()


def up_to_date(world, store, source):
    source.publish(make_release(world, 1))


def malformed(world, store, source):
    bad = b"{}"
    source.objects[digest(bad)] = bad
    source.publish(make_release(world, 2), release=digest(bad), size=len(bad))


def other_number(world, store, source):
    source.publish(make_release(world, 3), number=2)


def wrong_canaries(world, store, source):
    source.publish(make_release(world, 2, wrong=1.0))


def blind(world, store, source):
    refuse(store)


def no_images(world, store, source):
    limit(store, trial_requests=1)


def other_bundle(world, store, source):
    made = make_release(world, 2)
    source.publish(replace(made, release=replace(made.release, interface=digest(b"other"))))


FULL = OSError(errno.ENOSPC, "full")
CASES = [
    (Outcome.UPDATED, lambda *_: None, "release 2 serves"),
    (Outcome.UP_TO_DATE, up_to_date, "release 1 serves"),
    (Outcome.WAITING, offers(rollout=Rollout("r", 0, 0, 0)), "rolled out to 0%"),
    (Outcome.HALTED, offers(halted=True), "was halted by its publisher"),
    (Outcome.PINNED, pinned, "pinned to release 9; release 2 is offered"),
    (Outcome.DENIED, denied, "release 2 failed here before: it failed"),
    (Outcome.INHIBITED, inhibited, "release 2 is ready; `inhibit` holds a file"),
    (Outcome.INCOMPATIBLE, offers(backbone=digest(b"other")), "release 2 needs the backbone"),
    (Outcome.INCOMPATIBLE, other_bundle, "the release must have the interface"),
    (Outcome.OFFLINE, raises(OfflineError("a", "b", "c")), "a; found b. c"),
    (Outcome.STALE, raises(StaleError("a", "b", "c")), "a; found b. c"),
    (Outcome.UNTRUSTED, raises(UntrustedError("a", "b", "c")), "a; found b. c"),
    (Outcome.UNTRUSTED, raises(b"other bytes"), "must be"),
    (Outcome.NO_SPACE, raises(NoSpaceError("a", "b", "c"), NoSpaceError("d", "e", "f")), "d; "),
    (Outcome.NO_SPACE, raises(FULL, FULL), "full"),
    (Outcome.REFUSED, malformed, "must have the field 'format'"),
    (Outcome.UNTRUSTED, other_number, "which is release 3; found its number 2"),
    (Outcome.PRETEST_FAILED, wrong_canaries, "release 2 failed its test: SelfTestError"),
    (Outcome.ROLLED_BACK, blind, "release 2 was undone, release 1 serves: it sees nothing"),
    (Outcome.FAILED, no_images, "release 2 was undone, release 1 serves: 0 images"),
    (Outcome.FAILED, raises(OSError(errno.EIO, "rotten")), "rotten"),
]
ELSEWHERE = {Outcome.BUSY, Outcome.STOPPED}  # these have tests of their own
DENYING = {Outcome.DENIED, Outcome.REFUSED, Outcome.PRETEST_FAILED, Outcome.ROLLED_BACK}


def test_every_outcome_has_a_test_and_a_status_of_its_own():
    assert {outcome for outcome, *_ in CASES} | ELSEWHERE == set(Outcome)
    assert len({outcome.value for outcome in Outcome}) == len(Outcome)
    assert all(outcome.value not in {1, 2} and outcome.value < 126 for outcome in Outcome)


@pytest.mark.parametrize(("outcome", "arrange", "reason"), CASES)
def test_every_outcome_has_its_reason(world, store, source, outcome, arrange, reason):
    arrange(world, store, source)
    result = update(store, source)
    assert (result.outcome, reason in result.reason) == (outcome, True), result.reason
    now = 2 if outcome is Outcome.UPDATED else 1
    assert serves(store) == result.release == now
    assert (source.channels["stable"].release in store.denied.releases) == (outcome in DENYING)
    assert store.state.phase in {Phase.IDLE, Phase.COMMITTED}
    events = [each for each in store.log.read() if each["event"] == "update"]
    assert [each["outcome"] for each in events] == (
        [] if outcome is Outcome.UP_TO_DATE else [outcome.word]
    )
    with store.lock():  # nothing but the objects of kept generations is left after this
        collect(store)
    names = {name for each in store.generations().values() for name in each.objects}
    assert {path.name for path in (store.path / "objects").iterdir()} == names


def test_the_result_holds_times_and_bytes(world, store, source):
    source.fresh = Fresh("behind", True)
    result = update(store, source)
    assert (result.clock, result.development, result.offered) == ("behind", True, 2)
    assert result.fetched == source.received > 0
    phases = ["check", "fetch", "verify", "pretest", "switch", "trial", "commit"]
    assert list(result.seconds) == phases
    assert json.loads(json.dumps(result.to_json()))["outcome"] == "updated"


def test_a_busy_store_is_left_alone(store, source):
    with store.lock():
        result = update(type(store).open(store.path), source)
    assert (result.outcome, result.release) == (Outcome.BUSY, 1)
    assert source.operations == 0


def test_an_update_needs_few_writes_of_its_state(store, source):
    update(store, source, test=passes)
    assert store.state.writes <= 10 < MOST_WRITES


# -- who may have it, and when ------------------------------------------------------------------


def draws(rollout_id, devices):
    """The place of every device in a roll-out, from what the devices do."""
    rollout = Rollout(rollout_id, 0, 2**20, 100)
    places = []
    for device in devices:
        low, high = 0, 2**20
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if rollout.admits(device, middle) else (middle + 1, high)
        places.append(low / 2**20)
    return np.array(places)


def test_a_roll_out_reaches_its_share_and_only_grows():
    devices = [f"device-{number}" for number in range(10_000)]
    first, second = draws("release 7", devices), draws("release 8", devices)
    for percent in (10, 50, 90):
        at_once = Rollout("release 7", 1000, 0, percent)
        halfway = Rollout("release 7", 1000, 800, percent)
        for rollout, now, target in (
            (at_once, 999, 0),
            (at_once, 1000, percent),
            (halfway, 1400, percent / 2),
            (halfway, 1800, percent),
            (halfway, 10**9, percent),
        ):
            share = 100 * np.mean([rollout.admits(device, now) for device in devices])
            assert abs(share - target) <= (1.5 if target else 0)
        admitted = [
            {device for device in devices[:500] if halfway.admits(device, now)}
            for now in range(1000, 1900, 100)
        ]
        assert all(before <= after for before, after in pairwise(admitted))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_a_device_waits_for_its_place_and_then_takes_it(world, tmp_path):
    now = [0.0]
    store = make_store(world, tmp_path / "store", make_release(world, 1), now=lambda: now[0])
    place = draws("r", ["device-1"])[0]
    source = MemorySource()
    source.publish(make_release(world, 2), rollout=Rollout("r", 1000, 1000, 100))
    for moment in (0.0, 1000.0, 1000 + 999 * place):
        now[0] = moment
        assert update(store, source, test=passes).outcome is Outcome.WAITING
    assert source.fetched == []
    now[0] = 1001 + 1000 * place
    assert update(store, source, test=passes).outcome is Outcome.UPDATED


def test_a_halt_holds_from_the_next_poll(world, store, source):
    source.publish(make_release(world, 2), halted=True)
    assert update(store, source, test=passes).outcome is Outcome.HALTED
    source.publish(make_release(world, 2))
    assert update(store, source, test=passes).outcome is Outcome.UPDATED


def test_a_halt_stops_what_is_fetched_and_tested_already(world, store, source):
    inhibited(world, store, source)
    assert update(store, source, test=passes).outcome is Outcome.INHIBITED
    next((store.path / INHIBIT).iterdir()).unlink()
    source.publish(make_release(world, 2), halted=True)
    assert update(store, source, test=passes).outcome is Outcome.HALTED
    assert serves(store) == 1


def test_a_pin_lets_one_release_through(world, store, source):
    configure(store, pinned=3)
    assert update(store, source, test=passes).outcome is Outcome.PINNED
    source.publish(make_release(world, 3))
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    source.publish(make_release(world, 4))
    assert update(store, source, test=passes).outcome is Outcome.PINNED
    assert serves(store) == 3


def test_no_rollback_goes_below_what_the_publisher_demands(world, tmp_path):
    store = make_store(world, tmp_path / "store")
    source = MemorySource()
    for number in (1, 2):
        source.publish(make_release(world, number))
        assert update(store, source, test=passes).outcome is Outcome.UPDATED
    source.publish(make_release(world, 3), min_release=2)
    refuse(store)
    assert update(store, source, test=passes).outcome is Outcome.ROLLED_BACK
    assert (serves(store), store.denied.min_release) == (2, 2)
    source.publish(make_release(world, 4), min_release=4)
    result = update(store, source, test=passes)
    assert (result.outcome, result.release) == (Outcome.ROLLED_BACK, None)
    assert store.current() is None  # neither of the old ones may serve any more
    source.publish(make_release(world, 5), min_release=1)
    for report in (store.path / HEALTH).iterdir():
        report.unlink()
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert store.denied.min_release == 4  # it never falls


def test_two_releases_under_one_number_are_refused(world, store, source):
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    source.publish(make_release(world, 2, tasks=3))
    result = update(store, source, test=passes)
    assert result.outcome is Outcome.UNTRUSTED
    assert "is not the release 2 that serves here" in result.reason
    assert serves(store) == 2


def test_an_older_release_is_no_update(world, store, source):
    update(store, source, test=passes)
    source.publish(make_release(world, 1))
    assert update(store, source, test=passes).outcome is Outcome.UP_TO_DATE
    assert serves(store) == 2


def test_a_release_that_failed_is_taken_again_only_if_the_operator_says_so(store, source):
    assert update(store, source, test=fails).outcome is Outcome.PRETEST_FAILED
    assert update(store, source, test=passes).outcome is Outcome.DENIED
    assert update(store, source, test=passes, retry=True).outcome is Outcome.UPDATED
    assert store.denied.releases == {}


# -- what travels -------------------------------------------------------------------------------


def test_after_an_inhibition_nothing_is_fetched_again(world, store, source):
    inhibited(world, store, source)
    assert update(store, source, test=passes).outcome is Outcome.INHIBITED
    fetched = list(source.fetched)
    assert update(store, source, test=passes).outcome is Outcome.INHIBITED
    next((store.path / INHIBIT).iterdir()).unlink()
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert source.fetched == fetched
    assert len(store.generations()) == 2


def test_a_task_pack_travels_once(world, store):
    source, held = MemorySource(), set(objects_of(make_release(world, 1)))
    for number, tasks in ((2, 3), (3, 4), (4, 4)):
        made = make_release(world, number, tasks=tasks)
        source.publish(made)
        source.fetched.clear()
        assert update(store, source, test=passes).outcome is Outcome.UPDATED
        assert set(source.fetched) == set(objects_of(made)) - held
        assert len(set(source.fetched)) == len(source.fetched)
        held = {name for each in store.generations().values() for name in each.objects}
    packs = [blob for pack, blob in (world.pack(0, ("red",)), world.pack(1, ("green",)))]
    assert all(set(blob) <= held for blob in packs)


def test_every_manifest_is_parsed_once(world, store, source, monkeypatch):
    parsed = []
    for name in ("parse_release", "parse_pack"):
        parse = getattr(incoming, name)
        counted = partial(lambda parse, data: parsed.append(digest(data)) or parse(data), parse)
        monkeypatch.setattr(incoming, name, counted)
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert len(parsed) == 1 + len(store.read_current()[1].packs)
    assert len(set(parsed)) == len(parsed)


def test_a_damaged_object_is_fetched_again(world, store, source):
    shared = next(name for name in objects_of(make_release(world, 2)) if store.has(name, 0) or
                  (store.path / "objects" / name).exists())  # fmt: skip
    path = store.path / "objects" / shared
    size = path.stat().st_size
    path.chmod(0o644)
    path.write_bytes(bytes(size))
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert shared in source.fetched
    assert serves(store) == 2


def test_a_full_disk_is_cleaned_once_and_then_has_room(world, store, source):
    rubbish = store.path / "objects" / digest(b"rubbish")
    rubbish.write_bytes(b"rubbish")
    source.fail(after=4, fault=OSError(errno.ENOSPC, "full"))
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert not rubbish.exists()
    assert len(source.fetched) == len(set(source.fetched))  # what had come stayed


@pytest.mark.parametrize("after", range(6))
def test_a_fetch_that_was_cut_goes_on_with_what_is_missing(store, source, after):
    source.fail(after, OfflineError("a", "b", "c"))
    results = [update(store, source, test=passes) for _ in range(2)]
    assert [each.outcome for each in results] == [Outcome.OFFLINE, Outcome.UPDATED]
    assert len(source.fetched) == len(set(source.fetched))

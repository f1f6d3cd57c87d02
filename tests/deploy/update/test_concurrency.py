"""Many processes poll for one store: the kernel's lock lets one of them work at a time."""

import os
import signal
import sys
import time
from collections import Counter

import pytest
from tests.deploy.support.sources import make_release, make_store, passes
from tests.deploy.support.tuf_repository import PACKS, TufRepository
from tests.deploy.support.updaters import hold, poll, start

from edgecl_deploy.errors import BusyError
from edgecl_deploy.format import digest
from edgecl_deploy.store.fsck import check
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.trust import Trust

UPDATERS = 8
FREE = 1.0  # seconds after the death of its holder until the lock can be had
LIVELY = {"updated", "busy", "up-to-date"}


class Site(TufRepository):
    """Its timestamp appears in one step, as a real publisher's does."""

    def file(self, role):
        return self.folder / "metadata" / "new" if role == "timestamp" else super().file(role)

    def write(self, role, signers=None):
        super().write(role, signers)
        if role == "timestamp":
            os.replace(self.file(role), self.folder / "metadata" / "timestamp.json")


def publish(repository, made):
    data = made.release.to_bytes()
    for manifest in (data, *made.manifests.values()):
        repository.add_object(manifest, "json")
    for blob in made.blobs.values():
        repository.add_object(blob)
    repository.add_channel(
        number=made.release.number,
        release=digest(data),
        size=len(data),
        backbone=made.release.backbone,
    )
    repository.publish(PACKS, "releases")


def race(world, folder, polls, releases, pause):
    """Let 8 processes poll a signed channel in which releases appear one by one."""
    repository = Site(folder / "site")
    publish(repository, make_release(world, 2))
    store = make_store(world, folder / "store", make_release(world, 1))
    children = [
        start(poll, store.path, repository.root, str(repository.folder), polls, pause)
        for _ in range(UPDATERS)
    ]
    try:
        for child in children:
            assert child.pipe.recv() == "ready"
        for child in children:
            child.pipe.send("go")
        for number in range(3, releases + 2):
            time.sleep(polls * pause / 2 / releases)
            publish(repository, make_release(world, number))
        return store, repository, [child.pipe.recv() for child in children]
    finally:
        for child in children:
            child.__exit__()


def check_race(store, repository, results, polls, releases):
    last = releases + 1
    ends = [end for each, _ in results for end in each]
    assert len(ends) == UPDATERS * polls
    strange = [end for end in ends if end[0] not in LIVELY]
    assert strange == []
    winners = Counter(release for word, release, _ in ends if word == "updated")
    assert set(winners.values()) == {1}, winners  # nobody installs what somebody else installed
    final = update(store, Trust(store.path, repository.root, str(repository.folder)), test=passes)
    assert final.outcome in {Outcome.UPDATED, Outcome.UP_TO_DATE}
    assert final.release == last
    installed = [e["release"] for e in store.log.read() if e["event"] == "trial"]
    assert installed == sorted(set(installed))
    assert set(winners) <= set(installed)
    assert check(store) == []
    assert [path.name for path in (store.path / "staging").iterdir() if path.is_file()] == []
    return Counter(word for word, _, _ in ends)


def test_eight_updaters_and_one_winner(world, tmp_path):
    polls, releases = 10, 3
    found = race(world, tmp_path, polls, releases, 0.2)
    assert check_race(*found, polls, releases)["updated"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_eight_updaters_and_a_thousand_polls(world, tmp_path, capsys):
    polls, releases = 125, 20
    found = race(world, tmp_path, polls, releases, 0.2)
    words = check_race(*found, polls, releases)
    with capsys.disabled():
        sys.stdout.write(f"\nconcurrency: {dict(words)}, {max(s for _, s in found[2]):.1f} s\n")
    assert min(words[word] for word in LIVELY) > 5, words


def test_the_lock_is_free_when_its_holder_is_killed(world, tmp_path):
    store = make_store(world, tmp_path / "store", make_release(world, 1))
    with start(hold, store.path) as child:
        pid = child.pipe.recv()
        with pytest.raises(BusyError, match="Wait for it to end"), store.lock():
            pass
        os.kill(pid, signal.SIGKILL)
        begin = time.monotonic()
        while True:
            try:
                with Store.open(store.path).lock():
                    break
            except BusyError:
                assert time.monotonic() - begin < FREE
                time.sleep(0.001)
        assert time.monotonic() - begin < FREE

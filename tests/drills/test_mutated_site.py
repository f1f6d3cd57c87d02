"""Every file of a channel's site, damaged in many ways, between two polls of a device."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy.support.rot import Rot
from tests.deploy.support.sources import Quick, fast_folder, passes
from tests.deploy.support.store_checks import tell

from edgecl_deploy.store import fsck
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.metadata import check_metadata, remove_metadata
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.trust import Trust

FLIPS, CUTS, INSERTS = 36, 10, 10  # with an empty file, a long one, another file and none: 60
LONG = 1 << 20


def mutations(path: Path, others: list[Path], rng: random.Random) -> Iterator[bytes | None]:
    """Yield other contents of a file; None: it is gone."""
    data = path.read_bytes()
    for _ in range(FLIPS):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield bytes(changed)
    for _ in range(CUTS):
        yield data[: rng.randrange(len(data))]
    for _ in range(INSERTS):
        place = rng.randrange(len(data) + 1)
        yield data[:place] + rng.randbytes(rng.randint(1, 40)) + data[place:]
    yield b""
    yield data + bytes(LONG)
    yield rng.choice([other for other in others if other != path]).read_bytes()
    yield None


def polled(path: Path) -> Outcome:
    store = Store(path, Quick())
    source = Trust(path, store.root, store.config.url, disk=Quick())
    return update(store, source, test=passes).outcome


def whole(path: Path, rot: Rot, where: str) -> Store:
    """Check that a store is sound and that nothing more is denied.

    Metadata that is signed and written otherwise (another case of a signature's digits) counts for
    the update; `fsck` names it and removes it.
    """
    store = Store(path, Quick())
    assert fsck.check(store) == [], where
    otherwise = check_metadata(store)
    assert all("other bytes than were written" in each.found for each in otherwise), where
    with store.lock():
        remove_metadata(store, otherwise)
    assert store.denied.releases.keys() == rot.denied.releases.keys(), where
    return store


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_damaged_site_changes_nothing_but_the_moment_of_the_update(world):
    rng, outcomes = random.Random(5), Counter()  # noqa: S311  not a secret
    with fast_folder() as folder:
        rot = Rot(world, folder / "rot")
        rot.offer(world, 6)
        site = sorted(path for path in rot.repo.folder.rglob("*") if path.is_file())
        served = {4: rot.digest, 6: None}
        needed = set()
        for file in site:
            name, right = file.relative_to(rot.repo.folder), file.read_bytes()
            device = rot.fresh()
            for number, content in enumerate(mutations(file, site, rng)):
                where = f"mutation {number} of {name}"
                file.unlink()
                if content is not None:
                    file.write_bytes(content)
                outcome = polled(device)
                outcomes[outcome.name] += 1
                store = whole(device, rot, where)
                serving = store.serving()
                assert serving.release in served, where
                file.unlink(missing_ok=True)
                file.write_bytes(right)
                if serving.release == 6:  # it was a file that this update did not need
                    assert outcome is Outcome.UPDATED, where
                    served[6] = served[6] or serving.digest
                    assert serving.digest == served[6], where
                    device = rot.fresh()
                else:
                    assert outcome is not Outcome.UPDATED, where
                    needed.add(name)
            assert polled(device) is Outcome.UPDATED, f"after the mutations of {name}"
            assert whole(device, rot, str(name)).serving().release == 6
    count = sum(outcomes.values())
    assert len(needed) >= 8  # root, timestamp, snapshot, targets, two roles, release, manifests
    tell(f"{len(site)} files, {len(needed)} needed, {count} mutations: {dict(outcomes)}")

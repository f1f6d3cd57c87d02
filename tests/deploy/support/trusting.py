"""A publisher, a server and a device that trusts it."""

import pytest
from tests.deploy.support.tuf_repository import PACKS, TufRepository, version

from edgecl_deploy.format import digest
from edgecl_deploy.update.floor import parse_floor
from edgecl_deploy.update.trust import Trust

BLOB = b"a blob of a pack"
DAY = 86400
OLDER = r"{}\.json must have version {} or a later one"
TRUSTED = ("root", "timestamp", "snapshot", "targets", "releases", PACKS)
UNSIGNED = "signed, whole and not older"


class World:
    """A publisher, a server and a device that took the first release."""

    def __init__(self, folder, server, development=False):
        self.repo = TufRepository(folder / "site", development)
        self.server = server
        server.folder = self.repo.folder
        self.first = self.repo.add_channel(number=1)
        self.target = self.repo.add_object(BLOB)
        self.repo.publish("targets", "releases", PACKS)
        self.store = folder / "store"
        self.store.mkdir()

    def trust(self, **options):
        return Trust(self.store, self.repo.root, options.pop("url", self.server.url), **options)

    def poll(self, **options):
        """Do what a poll does; give the channel."""
        trust = self.trust(**options)
        trust.refresh()
        channel = trust.channel("stable")
        self.fetch(trust)
        return channel

    def fetch(self, trust, data=BLOB, target=None, size=None):
        path = self.store / "staging" / "new"
        trust.fetch(target or self.target, digest(data), size or len(data), path)
        return path

    def release(self, number=2):
        """Publish another release."""
        self.repo.add_channel(number=number)
        self.repo.publish("releases")

    def versions(self):
        return {role: version(self.store / "tuf" / f"{role}.json") for role in TRUSTED}

    def floor(self):
        return parse_floor((self.store / "floor.json").read_bytes())

    def refuses(self, error, match, moved=(), **options):
        """See that a poll is refused, and that what was trusted stays, but for what `moved`."""
        versions, floor = self.versions(), self.floor()
        (self.store / "staging" / "new").unlink(missing_ok=True)
        with pytest.raises(error, match=match) as caught:
            self.poll(**options)
        assert "\n" not in str(caught.value)
        after = self.versions()
        assert {role for role in TRUSTED if after[role] != versions[role]} == set(moved)
        assert all(after[role] >= versions[role] for role in TRUSTED)
        assert self.floor().timestamp >= floor.timestamp
        assert not (self.store / "staging" / "new").exists()

"""A store that took releases from a signed channel, and one flipped bit of it at a time."""

import json
import random
import shutil
from pathlib import Path

from tests.deploy.support.sources import Quick, make_release, make_store, passes
from tests.deploy.support.tuf_repository import PACKS, TufRepository

from edgecl_deploy.errors import DeployError
from edgecl_deploy.format import digest
from edgecl_deploy.store import fsck
from edgecl_deploy.store.layout import OBJECTS, RESERVE
from edgecl_deploy.store.log import LOG
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.metadata import check_metadata, remove_metadata
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.trust import Trust

_NO_DOCUMENTS = {LOG, RESERVE, "lock", "queue"}


class Rot:
    """A store at release 4, with a denied release 5, and copies of it to damage."""

    def __init__(self, world, folder: Path) -> None:
        self.folder = folder
        self.repo = TufRepository(folder / "site")
        store = make_store(
            world,
            folder / "seed",
            make_release(world, 1),
            disk=Quick(),
            root=self.repo.root,
            url=str(folder / "site"),
        )
        for number in (2, 3, 4):
            assert self._take(world, store, number, passes) is Outcome.UPDATED
        assert self._take(world, store, 5, lambda *_: "it sees ghosts") is Outcome.PRETEST_FAILED
        self.digest = store.serving().digest
        self.denied = store.denied
        self.floor = json.loads((store.path / "floor.json").read_bytes())
        self._rng = random.Random(16)  # noqa: S311  not a secret

    def _take(self, world, store, number, test):
        self.offer(world, number)
        source = Trust(store.path, self.repo.root, str(self.repo.folder), disk=Quick())
        return update(store, source, test=test).outcome

    def offer(self, world, number: int) -> None:
        """Publish a release."""
        made = make_release(world, number)
        data = made.release.to_bytes()
        for manifest in (data, *made.manifests.values()):
            self.repo.add_object(manifest, "json")
        for blob in made.blobs.values():
            self.repo.add_object(blob)
        self.repo.add_channel(
            number=number, release=digest(data), size=len(data), backbone=made.release.backbone,
            min_release=1,
        )  # fmt: skip
        self.repo.publish("targets", "releases", PACKS)

    def fresh(self) -> Path:
        path = self.folder / "store"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.folder / "seed", path, symlinks=True)
        return path

    def _files(self) -> list[str]:
        seed = self.folder / "seed"
        return sorted(
            str(path.relative_to(seed))
            for path in seed.rglob("*")
            if path.is_file() and not path.is_symlink() and path.name not in _NO_DOCUMENTS
        )

    def documents(self) -> list[str]:
        return [name for name in self._files() if not name.startswith(f"{OBJECTS}/")]

    def objects(self) -> list[str]:
        return [name for name in self._files() if name.startswith(f"{OBJECTS}/")]

    def bits(self, name: str, most: int | None = None) -> list[int]:
        count = 8 * (self.folder / "seed" / name).stat().st_size
        if most is None or most >= count:
            return list(range(count))
        return sorted(self._rng.sample(range(count), most))

    def damages(self) -> list[str]:
        store = Store.open(self.fresh())
        return [each.what for each in [*fsck.check(store), *check_metadata(store)]]

    def judge(self, name: str, bit: int) -> None:
        """Flip one bit; see that it is found, serves nothing else, allows no more, is mended."""
        path = self.fresh()
        target = path / name
        data = bytearray(target.read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        target.unlink()
        target.write_bytes(data)
        store, where = Store(path, Quick()), f"bit {bit} of {name}"
        self._allows_no_more(store, where)
        about = check_metadata(store)
        found = [each.what for each in [*fsck.check(store), *about]]
        assert name in found, f"{where}: {found}"
        with store.lock():
            fsck.repair(store)
            remove_metadata(store, about)
        self._allows_no_more(store, where)
        left = [each.found for each in fsck.check(store) if each.what == name]
        assert left in ([], ["missing"]), where  # an object comes again if a release needs it
        assert not check_metadata(store), (where, check_metadata(store), about)
        source = Trust(path, store.root, store.config.url, disk=Quick())
        result = update(store, source, test=passes)
        assert result.outcome in {Outcome.DENIED, Outcome.UPDATED}, (where, result.reason)
        assert self.denied.releases.keys() <= store.denied.releases.keys(), where

    def look(self, path: Path, name: str, bit: int) -> None:
        """As `judge`, in a copy that is used again: nothing is mended."""
        target = path / name
        before = target.read_bytes()
        data = bytearray(before)
        data[bit // 8] ^= 1 << bit % 8
        target.chmod(0o644)
        target.write_bytes(data)
        store, where = Store(path, Quick()), f"bit {bit} of {name}"
        if name.startswith("tuf/"):  # nothing is served or allowed by it without a refresh
            assert name in [each.what for each in check_metadata(store)], where
        else:
            generation = name.startswith("generations/")
            found = {each.what for each in fsck.check(store)} if generation else None
            assert name in (found or store.damaged_documents()), where  # a part of `fsck.check`
            self._allows_no_more(store, where)
        target.write_bytes(before)

    def _allows_no_more(self, store: Store, where: str) -> None:
        assert store.denied.releases.keys() >= self.denied.releases.keys(), where
        assert store.denied.min_release >= self.denied.min_release, where
        try:
            number, files = store.read_current()
        except DeployError:
            pass  # an object of it is damaged: the follower falls back
        else:
            assert files.digest == self.digest or files.release.number < 4, (where, number)
        trust = Trust(store.path, store.root, store.config.url, disk=Quick())
        floor, memory = trust._floor()
        assert memory == "kept", where
        assert floor is not None, where
        assert floor.timestamp >= self.floor["timestamp"], where

"""A channel's repository: plain static files in SITE, private keys in KEYS.

```python
repository = Repository.create("site", "keys", development=True)
repository.publish("release", "bundle", channel="stable")
```
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edgecl_deploy.format import Channel
from edgecl_deploy.progress import Reporter
from edgecl_deploy.store.disk import Disk
from edgecl_export.channel import clocks, manifests, mirror, prune, publish, rotate
from edgecl_export.channel.draft import Draft
from edgecl_export.channel.keyfiles import KEYS_FILE, check_passphrase
from edgecl_export.channel.keys import Ask, Keys
from edgecl_export.channel.lock import locked
from edgecl_export.channel.metadata import Site, State, read_development, read_state
from edgecl_export.channel.renew import Refreshed, empty_state, fill, refresh
from edgecl_export.channel.roles import ROOT, SNAPSHOT, packs_role
from edgecl_export.channel.sitedisk import EVERYONE, SiteDisk
from edgecl_export.channel.status import Status, status
from edgecl_export.errors import ChannelError

ROOT_FILE = "root.json"
Clock = Callable[[], int | float]


class Repository:
    """The publishing side of channels. Every change appears at once or not at all."""

    def __init__(self, site: Site, keys: Keys, clock: Clock, disk: Disk | None = None) -> None:
        self.site, self.keys = site, keys
        self.wait = 30.0  # seconds for another publisher to finish
        self.reporter = Reporter()  # shows the progress of long work
        self.trust_clock = False  # sign even if the clock is before what has been signed
        self.warn: Callable[[str], None] = lambda _: None  # is told what may be wrong
        self._clock = clock
        self._disk = disk or SiteDisk(site.path)

    @property
    def root_file(self) -> Path:
        """The first root: devices are provisioned with it, and this workstation trusts it."""
        return self.keys.folder / ROOT_FILE

    @classmethod
    def create(
        cls,
        site: str | os.PathLike[str],
        keys: str | os.PathLike[str],
        *,
        publisher: str = "lab",
        development: bool = False,
        passphrase: str | Ask | None = None,
        unencrypted: bool = False,
        clock: Clock = time.time,
        disk: Disk | None = None,
    ) -> "Repository":
        """Make the keys and an empty repository.

        Args:
            site: A new or empty folder, for a web server.
            keys: A new or empty folder outside of it.
            publisher: The first publisher of packs.
            development: One root key instead of two of three; the root is marked.
            passphrase: Encrypts the private keys.
            unencrypted: Use no passphrase, as development does.

        Raises:
            ChannelError: if a folder is in use, or neither passphrase nor `unencrypted` is given.
        """
        packs = packs_role(publisher)
        place, folder = Path(site), Path(keys)
        check_apart(place, folder)
        for path in (place, folder):
            if path.exists() and not (path.is_dir() and not any(path.iterdir())):
                raise ChannelError(
                    f"{path} must be a new or empty folder, found something in it. "
                    "Choose another one; a repository is made once."
                )
        passphrase = passphrase or None  # an empty one protects nothing
        if passphrase is None and not (unencrypted or development):
            raise ChannelError(
                "The private keys must be encrypted, found no passphrase. Set "
                "EDGECL_KEY_PASSPHRASE, or use --unencrypted if KEYS is protected otherwise."
            )
        if isinstance(passphrase, str):
            check_passphrase(passphrase)
        ring = Keys(folder, passphrase)
        repository = cls(Site(place), ring, clock, disk)
        draft = repository._draft(empty_state(repository.now()))
        fill(draft, packs, development=development)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if not place.exists():
            place.mkdir(parents=True)
            place.chmod(EVERYONE)
        with locked(place, repository.wait):
            draft.commit()
        first = repository.site.role_file(ROOT, 1).read_bytes()
        repository._disk.replace(repository.root_file, first)
        return repository

    @classmethod
    def open(
        cls,
        site: str | os.PathLike[str],
        keys: str | os.PathLike[str],
        *,
        extra_keys: Sequence[str] = (),
        passphrase: str | Ask | None = None,
        clock: Clock = time.time,
        disk: Disk | None = None,
    ) -> "Repository":
        """Open a repository; each command reads and verifies it.

        Args:
            site: The folder of the published files.
            keys: The folder of the private keys, with `root.json`.
            extra_keys: `file2:PATH` or `KEYID=URI` of keys that are not in `keys`.
            passphrase: Opens the private keys: the text, or a function that asks for it.
            clock: Seconds since 1970.

        Raises:
            ChannelError: if a folder is not what it should be.
        """
        place, folder = Path(site), Path(keys)
        check_apart(place, folder)
        if not (folder / ROOT_FILE).is_file():
            raise ChannelError(
                f"{folder} must hold {ROOT_FILE}, the trusted root, found none. Check --keys; a "
                "new repository is made by `edgecl channel init`."
            )
        if not (place / "metadata").is_dir():
            raise ChannelError(
                f"{place} must hold a repository, found none. Check --site; a new one is made by "
                "`edgecl channel init`."
            )
        if folder.stat().st_mode & 0o022:
            raise ChannelError(
                f"{folder} must be writable by its owner alone, found the mode "
                f"{folder.stat().st_mode & 0o7777:04o}. Run `chmod 700` on it."
            )
        ring = Keys.open(folder, passphrase, extra_keys)
        return cls(Site(place), ring, clock, disk)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), timezone.utc)

    def _draft(self, state: State) -> Draft:
        return Draft(self.site, state, self.keys, self.now(), self._disk)

    def state(self, *, repairing: bool = False) -> State:
        """Read and verify the site."""
        return read_state(self.site, self.root_file.read_bytes(), repairing=repairing)

    @property
    def development(self) -> bool:
        """Whether the trusted root is marked as one for development."""
        return read_development(self.root_file.read_bytes())

    @contextmanager
    def change(self, *, repairing: bool = False) -> Iterator[Draft]:
        """Change the site: what the block puts into the draft appears at its end or not at all."""
        with locked(self.site.path, self.wait):
            self.keys.forget_new()
            state, now = self.state(repairing=repairing), self.now()
            if not self.trust_clock:
                clocks.check(self.site, state, self.keys.folder, now)
            warning = clocks.ahead(state, now)
            if warning is not None:
                self.warn(warning)
            draft = self._draft(state)
            draft.reporter = self.reporter
            yield draft
            draft.commit()

    # -- releases ---------------------------------------------------------------------------

    def publish(
        self,
        release: str | os.PathLike[str],
        bundle: str | os.PathLike[str],
        *,
        channel: str,
        publisher: str | None = None,
        rollout: manifests.Rollout | None = None,
        min_release: int = 0,
        purge: bool = False,
        notes: str = "",
        sign_bundle: bool = False,
        force_rollout: bool = False,
    ) -> publish.Published:
        """Test a release on a bundle, and put it into a channel.

        Args:
            publisher: Whose role signs its objects; None for the only one.
            rollout: How it reaches the devices; None for all at once.
            min_release: Devices must not go back to an older number; it never falls.
            purge: Devices erase older ones; that stays so in later releases.
            notes: For people, up to 4000 characters.
            sign_bundle: Sign the bundle, too: devices can check theirs on their first day.
            force_rollout: Do not wait for the roll-out of the release before.
        """
        tested = publish.try_release(Path(release), Path(bundle), sign_bundle=sign_bundle)
        with self.change() as draft:
            return publish.publish(
                draft,
                tested,
                channel,
                publisher=publisher,
                rollout=rollout,
                min_release=min_release,
                purge=purge,
                notes=notes,
                force=force_rollout,
            )

    def promote(
        self,
        source: str,
        to: str,
        *,
        rollout: manifests.Rollout | None = None,
        force_rollout: bool = False,
    ) -> Channel:
        """Put the release of one channel into another, or give it another roll-out in its own."""
        with self.change() as draft:
            return manifests.promote(draft, source, to, rollout, force=force_rollout)

    def halt(self, channel: str) -> Channel:
        """Stop the roll-out of a channel: no further device takes its release."""
        with self.change() as draft:
            return manifests.halt(draft, channel)

    def resume(self, channel: str) -> Channel:
        """Continue a halted roll-out from the share at which it stopped."""
        with self.change() as draft:
            return manifests.resume(draft, channel)

    # -- upkeep -----------------------------------------------------------------------------

    def refresh(self, *, everything: bool = False) -> Refreshed:
        """Sign snapshot and timestamp again, and other roles that expire soon.

        It also finishes a key command that was interrupted.

        Args:
            everything: Renew all roles whose keys are available, whenever they expire.
        """
        with self.change(repairing=True) as draft:
            return refresh(draft, everything=everything)

    def status(self) -> Status:
        """Describe expiries and roll-outs; nothing is locked or changed."""
        return status(self.site, self.state(), self.keys, self.now())

    def mirror(
        self, out: str | os.PathLike[str], *, channel: str, days: int | float = 90
    ) -> mirror.Mirror:
        """Write a copy for devices without a network: one channel's release, valid for `days`.

        Raises:
            ChannelError: if `out` exists.
        """
        target = Path(out)
        if os.path.lexists(target):
            raise ChannelError(
                f"{target} must not exist yet, found something there. Choose a new folder."
            )
        with self.change() as draft:
            copy = mirror.prepare(draft, channel, timedelta(days=days))
        mirror.write(copy, self.site.path, target)  # only now: the site has skipped its versions
        return copy

    def prune(self, before: int = 0) -> prune.Pruned:
        """Remove what no channel names any more; devices of any age can still follow.

        Entries leave the signed roles now, and files a week after the metadata that names them was
        replaced, by another call.

        Args:
            before: Objects that only releases of a lower number need go now: a device that is
                fetching one fails, and takes the channel's release the next time.
        """
        with self.change() as draft:
            prune.check_past(draft, before)
            dropped = prune.drop_entries(draft)
        with locked(self.site.path, self.wait):
            state = self.state()
            versions = {role: each.signed.version for role, each in state.roles.items()}
            versions[SNAPSHOT] = state.snapshot.signed.version
            files, later = prune.unused_files(self.site, versions, self.now().timestamp(), before)
            size = sum(path.stat().st_size for path in files)
            for path in files:
                self._disk.remove(path)
        return prune.Pruned(dropped, len(files), size, later)

    # -- keys -------------------------------------------------------------------------------

    def add_key(self, role: str, *, public: bytes | None = None, uri: str | None = None) -> str:
        """Add a key to a role, or a publisher `packs-NEW`; return the keyid."""
        with self.change(repairing=True) as draft:
            return rotate.add_key(draft, role, public, uri)

    def rotate(self, role: str, keyid: str | None = None) -> dict[str, str]:
        """Replace one key of a role, or all; return the new keyid of each old one."""
        with self.change(repairing=True) as draft:
            return rotate.rotate_key(draft, role, keyid)

    def protect(self, passphrase: str) -> list[Path]:
        """Encrypt the key files that are at hand anew; return them.

        An interrupted call is repeated with the same passphrases.
        """
        with locked(self.site.path, self.wait):
            return self.keys.protect(check_passphrase(passphrase), self._disk)

    def revoke(self, role: str, keyid: str) -> list[str]:
        """Take a key away; return the roles that had it."""
        with self.change(repairing=True) as draft:
            return rotate.revoke_key(draft, role, keyid)


def check_apart(site: Path, keys: Path) -> None:
    """Check that the private keys are not among the published files.

    Raises:
        ChannelError: if they are.
    """
    place, folder = site.resolve(), keys.resolve()
    if folder == place or place in folder.parents:
        raise ChannelError(
            f"The private keys must be outside the published files, found {keys} in {site}. "
            "Choose another --keys."
        )
    if (site / KEYS_FILE).exists():
        raise ChannelError(
            f"{site} must hold published files only, found {KEYS_FILE} in it. "
            "Move the keys away, and rotate them if the site was online."
        )

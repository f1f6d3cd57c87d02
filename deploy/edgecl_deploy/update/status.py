"""Reports the status of a device, from its disk alone: no network, no lock."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from edgecl_deploy.errors import DeployError, NoSpaceError
from edgecl_deploy.files import read_file
from edgecl_deploy.manifest.canonical import load_object
from edgecl_deploy.store.documents import first_whole
from edgecl_deploy.store.layout import FLOOR, INHIBIT, LOCAL, SPARE, TUF, has_local
from edgecl_deploy.store.records import Generation, State
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.access import plain_url
from edgecl_deploy.update.bounds import LARGEST_METADATA
from edgecl_deploy.update.floor import (
    BUILT,
    DEVELOPMENT,
    ROLES,
    Floor,
    parse_floor,
)
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.purge import Forgetting, forgetting

_ATTENTION = {
    Outcome.DENIED,
    Outcome.INCOMPATIBLE,
    Outcome.STALE,
    Outcome.UNTRUSTED,
    Outcome.NO_SPACE,
    Outcome.REFUSED,
    Outcome.PRETEST_FAILED,
    Outcome.ROLLED_BACK,
    Outcome.FAILED,
}  # outcomes that somebody should look at


@dataclass(frozen=True)
class Last:
    """The last poll that is in the log; one that finds nothing new is there after a failure."""

    time: float  # seconds since 1970
    outcome: str
    reason: str
    offered: int | None


@dataclass(frozen=True)
class Status:
    """The status of a device.

    Attributes:
        device: Its id.
        channel: The channel that it follows.
        url: Of the channel.
        release: Number of the release that serves, None if there is none.
        digest: Of its release.json.
        generation: Its number in the store.
        phase: The phase of the update.
        attempts: Starts of the release that is being tried.
        last_good: The generation that was committed last.
        previous: The one before it.
        pinned: The only release that may be installed.
        min_release: The publisher allows no rollback below it.
        denied: Releases that must not be installed here: digest -> reason.
        inhibited: Names of the files in `inhibit/`.
        free: Bytes free on the disk.
        last: The last poll that is in the log.
        refreshed: When the channel's metadata was last refreshed: seconds since 1970.
        expires: When the metadata of each role expires: seconds since 1970.
        clock: `ok`; `behind` if it is before a time that a channel has signed: expiry proves
            nothing then.
        development: Whether the channel is for development only.
        attention: What somebody should look at, one line each; empty if all is well.
        local: The classes of this device: name -> `active`, `superseded` or `suspended`.
        forgotten: What the channel wants erased here, and what is left of it; None if nothing.
    """

    device: str
    channel: str
    url: str
    release: int | None
    digest: str | None
    generation: int | None
    phase: str
    attempts: int
    last_good: int | None
    previous: int | None
    pinned: int | None
    min_release: int
    denied: Mapping[str, str]
    inhibited: list[str]
    free: int
    last: Last | None
    refreshed: int | None
    expires: Mapping[str, int]
    clock: str
    development: bool
    attention: list[str]
    local: Mapping[str, str]
    forgotten: Forgetting | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        return asdict(self)


def status(store: Store) -> Status:
    """Report the status of a device."""
    config, state, serving = store.config, store.state or State(), store.serving()
    denied = store.denied
    signed = {role: each for role in ROLES if (each := _signed(store, role)) is not None}
    expires = {role: _seconds(each["expires"]) for role, each in signed.items()}
    floor, damaged = _floor(store)
    local, resting = _local(store, serving)
    latest = max(BUILT, 0 if floor is None else floor.signed)
    last, left = _last(store), forgetting(store)
    clock = "ok" if store.now() >= latest else "behind"
    return Status(
        device=config.device,
        channel=config.channel,
        url=plain_url(config.url),
        release=None if serving is None else serving.release,
        digest=None if serving is None else serving.digest,
        generation=None if serving is None else serving.number,
        phase=state.phase.value,
        attempts=state.attempts,
        last_good=state.last_good,
        previous=state.previous,
        pinned=config.pinned,
        min_release=denied.min_release,
        denied=dict(denied.releases),
        inhibited=sorted(os.listdir(store.path / INHIBIT)),
        free=_free(store),
        last=last,
        refreshed=None if floor is None else floor.refreshed,
        expires=expires,
        clock=clock,
        development=bool(signed.get("root", {}).get(DEVELOPMENT)),
        attention=[
            *_about_documents(store),
            *_about_serving(store, serving, state),
            *_about_channel(store, last, expires),
            *([f"{FLOOR} cannot be read; the next update writes it anew"] if damaged else []),
            *(["the clock is before a time that was signed: set it"] if clock == "behind" else []),
            *_about_disk(store),
            *resting,
            *_about_drift(store, serving),
            *_about_forgotten(left),
        ],
        local=local,
        forgotten=left,
    )


def _about_forgotten(left: Forgetting | None) -> Iterator[str]:
    if left is None:
        return
    if left.pending:
        yield f"releases before {left.below} are to be erased: run `edgecl-device update`"
    if left.factory is not None:
        yield (
            f"release {left.factory} of the factory should be erased and cannot be: set the device "
            f"up anew with release {left.below} or a later one"
        )


def _about_documents(store: Store) -> Iterator[str]:
    for name in store.damaged_documents():
        yield f"{name} is damaged: the next update mends it, or `edgecl-device fsck --repair`"


def _about_serving(store: Store, serving: Generation | None, state: State) -> Iterator[str]:
    try:
        store.bundle()
    except DeployError as error:
        yield f"the bundle: {error}"
    if serving is None:
        yield "no release serves: run `edgecl-device update`"
    elif not store.complete(serving):
        yield f"release {serving.release} is damaged: run `edgecl-device fsck --repair`"
    if state.phase.on_trial and not _busy(store):
        yield f"the trial of release {state.release} was interrupted: run `edgecl-device update`"


def _about_channel(store: Store, last: Last | None, expires: Mapping[str, int]) -> Iterator[str]:
    if last is not None and last.outcome in {each.word for each in _ATTENTION}:
        yield f"the last update: {last.outcome}: {last.reason}"
    for role, end in expires.items():
        if end <= store.now():
            yield f"{role}.json has expired on {day(end)}: no update until it is signed again"


def _about_disk(store: Store) -> Iterator[str]:
    try:
        store.disk.reserve(store.path, 0)
    except NoSpaceError as error:
        yield str(error)


def _local(store: Store, serving: Generation | None) -> tuple[dict[str, str], list[str]]:
    """Return the state of each class of this device, and which of them do not answer."""
    if serving is None or not has_local(store.path / LOCAL):
        return {}, []
    from edgecl_deploy.enrol.listing import overview

    try:
        found = overview(store.path / LOCAL, store.bundle(), store.read(serving.number))
    except (DeployError, OSError) as error:
        return {}, [f"the classes of this device: {error}"]
    wrong = [f"local: {found.content.wrong}"] if found.content.wrong else []
    resting = [
        f"the class {each.name} is {each.state}: {each.reason}"
        for each in found.enrolled
        if each.reason
    ]
    return {each.name: each.state for each in found.enrolled}, [*wrong, *resting]


def _about_drift(store: Store, serving: Generation | None) -> Iterator[str]:
    from edgecl_deploy.drift.keeping import read_drift
    from edgecl_deploy.drift.verdict import verdict

    state = read_drift(store.path / LOCAL)
    if state is not None and serving is not None and state.mark.digest == serving.digest:
        cause = verdict(state).cause
        if cause:
            yield f"the {cause} seems to have changed: see `edgecl-device drift`"


def _busy(store: Store) -> bool:
    try:
        with store.lock():
            return False
    except DeployError:
        return True
    except OSError:  # this user may not write, and so cannot know
        return True


def _signed(store: Store, role: str) -> dict[str, Any] | None:
    """Read what a role signed; it was verified when it was written."""
    with suppress(DeployError, OSError):
        path = (store.path / TUF / f"{role}.json").resolve()
        data = read_file(path, LARGEST_METADATA)
        signed = load_object(data, path.name, LARGEST_METADATA).get("signed")
        if isinstance(signed, dict) and isinstance(signed.get("expires"), str):
            return signed
    return None


def _seconds(text: str) -> int:
    when = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    return int(when.replace(tzinfo=timezone.utc).timestamp())


def _floor(store: Store) -> tuple[Floor | None, bool]:
    if not any((folder / FLOOR).exists() for folder in (store.path, store.path / SPARE)):
        return None, False
    try:
        return first_whole(store.path, FLOOR, parse_floor), False
    except DeployError:
        return None, True


def _last(store: Store) -> Last | None:
    last = None
    for event in store.log.read():
        if event["event"] == "update":
            with suppress(KeyError, TypeError, ValueError):  # a line that we did not write
                last = Last(
                    float(event["time"]),
                    str(event["outcome"]),
                    str(event["reason"]),
                    event["offered"],
                )
    return last


def _free(store: Store) -> int:
    found = os.statvfs(store.path)
    return found.f_bavail * found.f_frsize


def day(seconds: float) -> str:
    """Return a time for people, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")

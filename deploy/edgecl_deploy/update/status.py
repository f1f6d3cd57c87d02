"""How a device stands, from its disk alone: no network, no lock."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from edgecl_deploy.errors import DeployError, NoSpaceError
from edgecl_deploy.files import read_bundle, read_file
from edgecl_deploy.manifest.canonical import load_object
from edgecl_deploy.store.layout import INHIBIT, TUF
from edgecl_deploy.store.records import Generation, State
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.floor import BUILT, DEVELOPMENT, FLOOR, Floor, parse_floor
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.trust import LIMITS

ROLES = ("root", "timestamp", "snapshot", "targets")
_FLOOR_LARGEST = 4096  # bytes
_CALL = {
    Outcome.DENIED,
    Outcome.INCOMPATIBLE,
    Outcome.STALE,
    Outcome.UNTRUSTED,
    Outcome.NO_SPACE,
    Outcome.REFUSED,
    Outcome.PRETEST_FAILED,
    Outcome.ROLLED_BACK,
    Outcome.FAILED,
}  # what somebody should look at


@dataclass(frozen=True)
class Last:
    """The last poll that came to something; those that found nothing new leave no line."""

    time: float  # seconds since 1970
    outcome: str
    reason: str
    offered: int | None


@dataclass(frozen=True)
class Status:
    """How a device stands.

    Attributes:
        device: Its id.
        channel: The channel that it follows.
        url: Where that lies.
        release: Number of the release that serves, None if there is none.
        digest: Of its release.json.
        generation: Where it lies in the store.
        phase: Where the update stands.
        attempts: Starts of the release that is being tried.
        last_good: The generation that was committed last.
        previous: The one before it.
        pinned: The only release that may be installed.
        min_release: No rollback goes below it, as the publisher demands.
        denied: Releases that must not be installed here: digest -> reason.
        inhibited: Names of the files in `inhibit/`.
        free: Bytes free on the disk.
        last: The last poll that came to something.
        refreshed: When the channel's metadata was last refreshed: seconds since 1970.
        expires: When the metadata of each role ends: seconds since 1970.
        clock: `ok`; `behind` if it is earlier than it has been, so that expiry proves nothing.
        development: Whether the channel is for development only.
        attention: What somebody should look at, one line each; empty if all is well.
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

    def to_json(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        return asdict(self)


def status(store: Store) -> Status:
    """Say how a device stands."""
    config, state, serving = store.config, store.state or State(), store.serving()
    denied = store.denied
    signed = {role: each for role in ROLES if (each := _signed(store, role)) is not None}
    expires = {role: _seconds(each["expires"]) for role, each in signed.items()}
    floor, damaged = _floor(store)
    latest = max(BUILT, 0 if floor is None else floor.refreshed)
    last = _last(store)
    clock = "ok" if store.now() >= latest else "behind"
    return Status(
        device=config.device,
        channel=config.channel,
        url=config.url,
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
            *_about_serving(store, serving, state),
            *_about_channel(store, last, floor, expires),
            *([f"{FLOOR} cannot be read; the next update writes it anew"] if damaged else []),
            *(["the clock is behind what it has been: set it"] if clock == "behind" else []),
            *_about_disk(store),
        ],
    )


def _about_serving(store: Store, serving: Generation | None, state: State) -> Iterator[str]:
    try:
        read_bundle(store.config.bundle)
    except DeployError as error:
        yield f"the bundle: {error}"
    if serving is None:
        yield "no release serves: run `edgecl-device update`"
    elif not store.complete(serving):
        yield f"release {serving.release} is damaged: run `edgecl-device fsck --repair`"
    if state.phase.on_trial and not _busy(store):
        yield f"the trial of release {state.release} was interrupted: run `edgecl-device update`"


def _about_channel(
    store: Store, last: Last | None, floor: Floor | None, expires: Mapping[str, int]
) -> Iterator[str]:
    if last is not None and last.outcome in {each.word for each in _CALL}:
        settled = floor is not None and floor.refreshed > last.time  # a poll found nothing new
        if not settled:
            yield f"the last update: {last.outcome}: {last.reason}"
    for role, end in expires.items():
        if end <= store.now():
            yield f"{role}.json has expired on {day(end)}: no update until it is signed again"


def _about_disk(store: Store) -> Iterator[str]:
    try:
        store.disk.reserve(store.path, 0)
    except NoSpaceError as error:
        yield str(error)


def _busy(store: Store) -> bool:
    try:
        with store.lock():
            return False
    except DeployError:
        return True
    except OSError:  # somebody who may not write: nothing can be said
        return True


def _signed(store: Store, role: str) -> dict[str, Any] | None:
    """Read what a role signed; it was verified when it was written."""
    largest = LIMITS.targets_max_length
    with suppress(DeployError, OSError):
        path = (store.path / TUF / f"{role}.json").resolve()
        signed = load_object(read_file(path, largest), path.name, largest).get("signed")
        if isinstance(signed, dict) and isinstance(signed.get("expires"), str):
            return signed
    return None


def _seconds(text: str) -> int:
    when = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    return int(when.replace(tzinfo=timezone.utc).timestamp())


def _floor(store: Store) -> tuple[Floor | None, bool]:
    path = store.path / FLOOR
    if not path.exists():
        return None, False
    try:
        return parse_floor(read_file(path, _FLOOR_LARGEST)), False
    except DeployError:
        return None, True


def _last(store: Store) -> Last | None:
    last = None
    for event in store.log.read():
        if event["event"] == "update":
            with suppress(KeyError, TypeError, ValueError):  # a line that nobody of us wrote
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
    """Write a moment for people, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")

"""The small documents of a store: their fields, how they are read and written; no I/O.

Each carries its own checksum (`sealed`), so a reader takes it as it was written or not at all.
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from edgecl_deploy.format._channel import CHANNEL_NAME
from edgecl_deploy.format._unknown import ALPHAS
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.fields import Fields
from edgecl_deploy.store.sealed import LARGEST as LARGEST
from edgecl_deploy.store.sealed import seal, unseal

STORE_FORMAT = "edgecl-store/2"
STATE_FORMAT = "edgecl-state/2"
DENIED_FORMAT = "edgecl-denied/2"
GENERATION_FORMAT = "edgecl-generation/2"
MOST_DENIED = 8192  # releases; a device with more installs nothing new before some are allowed
_LONG = LARGEST // 2  # bytes of denied.json from which on old reasons are left out
_NO_REASON = "its reason was left out"
FACTORY = 0  # the generation that came with the device
_TEXT = 4096  # characters of a path, a URL or a reason
_KEPT = 8  # documents of a kind: an update reads the same bytes again and again
_NAME = re.compile(r"generations/(\d{6,10})\.json")


class Phase(enum.Enum):
    """The phase of an update; it is written to disk before it is acted on."""

    IDLE = "idle"
    FETCH = "fetch"
    VERIFY = "verify"
    STAGED = "staged"
    PRETEST = "pretest"
    ACTIVATE = "activate"
    TRIAL = "trial"
    ROLLBACK = "rollback"
    COMMITTED = "committed"

    @property
    def on_trial(self) -> bool:
        """Whether `current` may point to a release that has not passed its trial."""
        return self in {Phase.ACTIVATE, Phase.TRIAL, Phase.ROLLBACK}


@dataclass(frozen=True)
class Limits:
    """What an update may cost this device, and what a release must do to pass its trial on it."""

    pretest_seconds: float = 120.0  # wall clock
    pretest_memory: int = 8 * 1024**3  # bytes of address space
    canary_ms: float | None = None  # per image; None for no limit
    trial_seconds: float = 10.0  # how long a new release is watched
    trial_requests: int = 0  # images that it must have answered by then
    trial_failures: float = 0.0  # largest share of them without an answer
    attempts: int = 3  # starts of one release before it is given up
    rate_kbps: int | None = None  # kilobytes per second of a download
    untested: bool = False  # whether a release without canaries may be installed

    @classmethod
    def read(cls, fields: Fields) -> "Limits":
        """Read them from the fields of a document."""
        return cls(
            fields.number("pretest_seconds", 0.1, 86400),
            fields.integer("pretest_memory", 1024**2, limits.MAX_INTEGER),
            fields.optional("canary_ms", lambda key: fields.number(key, 0.0, 1e9)),
            fields.number("trial_seconds", 0, 30 * 86400),
            fields.integer("trial_requests", 0, limits.MAX_INTEGER),
            fields.number("trial_failures", 0, 1),
            fields.integer("attempts", 1, 100),
            fields.optional("rate_kbps", lambda key: fields.integer(key, 1, limits.MAX_INTEGER)),
            fields.flag("untested") if fields.has("untested") else False,
        )


@dataclass(frozen=True)
class Config:
    """`config.json`: the settings of the operator. Its presence makes a folder a store."""

    bundle: str  # path of the bundle directory
    url: str  # of the channel's repository
    channel: str  # its name
    device: str  # id of this device: decides its place in roll-outs
    pinned: int | None = None  # the only release that may be installed
    limits: Limits = field(default_factory=Limits)
    hook: tuple[str, ...] = ()  # a command that gets every outcome as JSON on its input
    bundle_digest: str | None = None  # of the bundle.json that this device was set up with
    root_digest: str | None = None  # of the root.json that this device was set up with
    enrol: bool = False  # fetch what a ridge head needs to take classes on the device
    unknown_alpha: float | None = None  # share of known images that may be called unknown
    drift_run_length: float = 1e6  # images that count between two false alarms of drift
    drift_every: float = 10.0  # seconds in which images with the same answer are one observation
    drift_pictures: int = 0  # of the least typical images that are kept on the device

    def to_bytes(self) -> bytes:
        """Write the document."""
        return seal(STORE_FORMAT, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return {**asdict(self), "limits": asdict(self.limits), "hook": list(self.hook)}


@lru_cache(_KEPT)
def parse_config(data: bytes) -> Config:
    """Read `config.json`."""
    return read_config(unseal(data, "config.json", STORE_FORMAT))


def read_config(fields: Fields) -> Config:
    """Read the settings from the fields of a document."""
    return Config(
        fields.text("bundle", _TEXT),
        fields.text("url", _TEXT),
        fields.matching("channel", CHANNEL_NAME, "lower-case words such as stable or line-7"),
        fields.text("device"),
        fields.optional("pinned", lambda key: fields.integer(key, 1, limits.MAX_AXIS)),
        Limits.read(fields.child("limits")),
        tuple(fields.items("hook", 64)),
        _digest(fields, "bundle_digest"),
        _digest(fields, "root_digest"),
        fields.flag("enrol") if fields.has("enrol") else False,
        _alpha(fields) if fields.has("unknown_alpha") else None,
        _number(fields, "drift_run_length", 10, 1e15, 1e6),
        _number(fields, "drift_every", 0, 86400, 10.0),
        fields.integer("drift_pictures", 0, 20) if fields.has("drift_pictures") else 0,
    )


def _alpha(fields: Fields) -> float | None:
    return fields.optional("unknown_alpha", lambda key: fields.number(key, *ALPHAS))


def _number(fields: Fields, key: str, low: float, high: float, default: float) -> float:
    """Take a number that an older document does not have."""
    return fields.number(key, low, high) if fields.has(key) else default


def _digest(fields: Fields, key: str) -> str | None:
    """Take a digest that a document of version 1 does not have."""
    return fields.optional(key, fields.sha256) if fields.has(key) else None


@dataclass(frozen=True)
class State:
    """`state.json`: the state of the update. Advice only: `current` is the truth."""

    phase: Phase = Phase.IDLE
    generation: int | None = None  # that the phase is about
    release: int | None = None  # its number
    digest: str | None = None  # of release.json
    attempts: int = 0  # starts of this release so far
    writes: int = 0  # of this file for this release: a limit against loops
    last_good: int | None = None  # the generation that was committed last
    previous: int | None = None  # the one committed before it
    newest: int = 0  # the highest number that a generation has had: none is used twice
    held: int = 0  # bytes of objects and partial files at the last start: more is progress
    denying: str | None = None  # in a rollback: why `digest` is denied at its end; None: it is not

    def to_bytes(self) -> bytes:
        """Write the document."""
        return seal(STATE_FORMAT, {**asdict(self), "phase": self.phase.value})

    def for_another_release(self) -> "State":
        """Return the state from which an update to another release begins."""
        return State(last_good=self.last_good, previous=self.previous, newest=self.newest)

    def in_phase(self, phase: Phase, **changes: Any) -> "State":
        """Return the state after a step to a phase, with other fields changed too."""
        state = replace(self, **{"phase": phase, "writes": self.writes + 1, **changes})
        return replace(state, newest=max(state.newest, state.generation or 0))


@lru_cache(_KEPT)
def parse_state(data: bytes) -> State:
    """Read `state.json`."""
    fields = unseal(data, "state.json", STATE_FORMAT)

    def number(key: str) -> int:
        return fields.integer(key, 0, limits.MAX_AXIS)

    return State(
        Phase(fields.choice("phase", tuple(phase.value for phase in Phase))),
        fields.optional("generation", number),
        fields.optional("release", number),
        fields.optional("digest", fields.sha256),
        number("attempts"),
        number("writes"),
        fields.optional("last_good", number),
        fields.optional("previous", number),
        number("newest"),
        fields.integer("held", 0, limits.MAX_INTEGER) if fields.has("held") else 0,
        fields.optional("denying", lambda key: fields.text(key, _TEXT))
        if fields.has("denying")
        else None,
    )


@dataclass(frozen=True)
class Generation:
    """`generations/000017.json`: one release in the store. It never changes."""

    number: int
    release: int
    digest: str  # of release.json
    objects: Mapping[str, int]  # digest -> bytes, of everything that the release needs
    created: int  # seconds since 1970

    @property
    def name(self) -> str:
        """Its file, relative to the store."""
        return generation_name(self.number)

    def to_bytes(self) -> bytes:
        """Write the document."""
        return seal(GENERATION_FORMAT, {**asdict(self), "objects": dict(self.objects)})


@lru_cache(_KEPT)
def parse_generation(data: bytes) -> Generation:
    """Read the manifest of a generation."""
    fields = unseal(data, "generation", GENERATION_FORMAT)
    return Generation(
        fields.integer("number", 0, limits.MAX_AXIS),
        fields.integer("release", 1, limits.MAX_AXIS),
        fields.sha256("digest"),
        fields.blob_sizes("objects", 4 * limits.MAX_PACKS),
        fields.integer("created", 0, limits.MAX_INTEGER),
    )


def generation_name(number: int) -> str:
    """Return the file of a generation, relative to the store."""
    return f"generations/{number:06d}.json"


def generation_number(name: str) -> int | None:
    """Return the generation of such a file name; None if it is no such name."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])


@dataclass(frozen=True)
class Denied:
    """`denied.json`: the releases that must not be installed here."""

    min_release: int = 0  # no rollback goes below it
    releases: Mapping[str, str] = field(default_factory=dict)  # digest of release.json -> reason
    purge_below: int = 0  # releases before it are erased once a later one is committed

    def to_bytes(self) -> bytes:
        """Write the document."""
        value = {**asdict(self), "releases": dict(self.releases)}
        if not self.purge_below:
            del value["purge_below"]
        return seal(DENIED_FORMAT, value)

    @property
    def full(self) -> bool:
        """Whether it holds as many releases as a device keeps."""
        return len(self.releases) >= MOST_DENIED

    def having(self, release: str, reason: str) -> "Denied":
        """Return the list with one more release; old reasons go when it is long, releases never."""
        longer = replace(self, releases={**self.releases, release: reason})
        if len(longer.to_bytes()) <= _LONG:
            return longer
        return replace(self, releases={**dict.fromkeys(self.releases, _NO_REASON), release: reason})


def parse_denied(data: bytes) -> Denied:
    """Read `denied.json`."""
    fields = unseal(data, "denied.json", DENIED_FORMAT)
    least = fields.integer("min_release", 0, limits.MAX_AXIS)
    releases = fields.child("releases")
    names = list(releases.unknown())
    below = fields.integer("purge_below", 0, limits.MAX_AXIS) if fields.has("purge_below") else 0
    return Denied(least, {name: releases.text(name, _TEXT) for name in names}, below)

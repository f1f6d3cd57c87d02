"""Runs an update as a state machine; every caller uses the one function `update`.

IDLE -> CHECK -> FETCH -> VERIFY -> STAGED -> PRETEST -> ACTIVATE -> TRIAL -> COMMITTED, and from
ACTIVATE or TRIAL to ROLLBACK. Laws: a phase is on disk before it is acted on; the service is not
touched before ACTIVATE; a report cannot change what serves; expired or unreachable metadata stops
an installation, never inference.
"""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgecl_deploy.errors import (
    BusyError,
    DeployError,
    LimitError,
    MismatchError,
    MissingFileError,
    NoSpaceError,
    OfflineError,
    StaleError,
    StoppedError,
    UntrustedError,
    one_line,
)
from edgecl_deploy.files import blob_sizes, check_blob, read_bundle, read_file
from edgecl_deploy.format import (
    Channel,
    Kind,
    Pack,
    Release,
    check_release,
    check_transfer,
    object_target,
    parse_pack,
    parse_release,
)
from edgecl_deploy.manifest import limits
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.health import judge, read_reports
from edgecl_deploy.store.layout import INHIBIT, OBJECTS, STAGING
from edgecl_deploy.store.records import Generation, Limits, Phase, State
from edgecl_deploy.store.recover import activate, fallback, recover
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.outcome import Outcome, Result
from edgecl_deploy.update.pretest import pretest

MOST_WRITES = 28  # of state.json for one release: more is a loop (Mender's number)
_STOPPABLE = {Phase.FETCH, Phase.VERIFY, Phase.PRETEST, Phase.ACTIVATE}  # before they begin
_LOOK = 0.05  # seconds between two reads of the reports on a release on trial
_OUTCOMES: tuple[tuple[type[Exception], Outcome], ...] = (
    (BusyError, Outcome.BUSY),
    (OfflineError, Outcome.OFFLINE),
    (StoppedError, Outcome.STOPPED),
    (StaleError, Outcome.STALE),
    (UntrustedError, Outcome.UNTRUSTED),
    (NoSpaceError, Outcome.NO_SPACE),
    (MismatchError, Outcome.INCOMPATIBLE),
)


class Freshness(Protocol):
    """The outcome of a refresh of the channel's metadata."""

    @property
    def clock(self) -> str:
        """`ok`, or `behind`: this device's clock is before a time that it has shown."""

    @property
    def development(self) -> bool:
        """Whether the channel is for development only."""


class Source(Protocol):
    """The channel that releases come from: `edgecl_deploy.update.trust.Trust`."""

    def refresh(self) -> Freshness:
        """Fetch the newest metadata."""

    def channel(self, name: str) -> Channel:
        """Return the manifest of a channel."""

    def fetch(self, target: str, sha256: str, size: int | None, to: Path) -> None:
        """Fetch an object into a new file, verified."""

    @property
    def received(self) -> int:
        """Bytes that came so far."""


Test = Callable[[Store, Generation], str | None]


def never() -> bool:
    """Return False: no stop is requested."""
    return False


class Stop(Exception):  # noqa: N818  not an error: a decision not to update
    """Ends an update before it changes what serves."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def update(
    store: Store,
    source: Source,
    *,
    test: Test = pretest,
    retry: bool = False,
    stop_requested: Callable[[], bool] = never,
) -> Result:
    """Install the channel's release, if there is one for this device; never raises a DeployError.

    Args:
        source: The channel.
        test: The test before the switch.
        retry: Whether to try a release again that failed here.
        stop_requested: Whether the process is asked to stop: then the update stops between two
            phases, or in the trial, and the next one goes on.
    """
    run, before = Update(store, source, test, retry, stop_requested), source.received
    try:
        with store.lock():
            outcome, reason = run.run()
    except BusyError as error:
        return Result(Outcome.BUSY, str(error), _serving(store))
    except OSError as error:  # the lock itself: a read-only disk, for example
        return Result(Outcome.FAILED, one_line(error), _serving(store))
    run.result.outcome, run.result.reason = outcome, reason
    run.result.release = _serving(store)
    run.result.fetched = source.received - before
    if outcome is not Outcome.UP_TO_DATE:
        store.log.write("update", store.now(), **run.result.to_json())
    return run.result


def _serving(store: Store) -> int | None:
    generation = store.serving()
    return None if generation is None else generation.release


@dataclass
class Update:
    """One run of the machine, under the lock of the store."""

    store: Store
    source: Source
    test: Test
    retry: bool = False
    stop_requested: Callable[[], bool] = never
    objects: dict[str, int] = field(default_factory=dict)  # of the release: digest -> bytes
    result: Result = field(default_factory=lambda: Result(Outcome.FAILED, "nothing was done"))

    def run(self) -> tuple[Outcome, str]:
        """Go through the phases."""
        try:
            ended = self._resume()
            if ended is not None:
                return ended
            channel = self._check()
            release, packs = self._fetch(channel)
            self._verify(channel, release, packs)
            generation = self._stage(channel)
            self._pretest(generation)
            return self._go_live(generation)
        except Stop as stop:
            return self._idle(stop.outcome, str(stop))
        except DeployError as error:
            kinds = [outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)]
            return self._idle(kinds[0] if kinds else Outcome.FAILED, str(error))
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            return self._idle(Outcome.NO_SPACE if full else Outcome.FAILED, one_line(error))

    # -- phases -------------------------------------------------------------------------------

    def _resume(self) -> tuple[Outcome, str] | None:
        """Go on from the phase in which a process was killed or the power was cut."""
        before = self.store.state
        state = recover(self.store)
        if before is not None and before.phase is Phase.ROLLBACK:
            return self._undone(before, "it was interrupted")
        if state.phase is Phase.PRETEST and state.attempts >= self._limits.attempts:
            self._deny(state, f"its self-test never ended in {state.attempts} starts")
        if not state.phase.on_trial:
            return None
        generation = self._generation_of(state)
        if generation is None:
            return self._roll_back("the release on trial is not whole")
        if generation.digest in self.store.denied.releases:
            return self._roll_back("a rollback was interrupted")
        if state.attempts >= self._limits.attempts:
            return self._roll_back(f"it did not pass its trial in {state.attempts} starts")
        return self._go_live(generation)

    def _generation_of(self, state: State) -> Generation | None:
        """Return the generation that a state is about, if it is complete."""
        try:
            generation = self.store.generation(-1 if state.generation is None else state.generation)
        except DeployError:
            return None
        return generation if self.store.complete(generation) else None

    def _check(self) -> Channel:
        with self._timed("check"):
            fresh = self.source.refresh()
            self.result.clock, self.result.development = fresh.clock, fresh.development
            channel = self.source.channel(self.store.config.channel)
        self.result.offered = channel.number
        self.store.raise_floor(channel.min_release)
        self._decide(channel)
        return channel

    def _decide(self, channel: Channel) -> None:
        config, serving = self.store.config, self.store.serving()
        name = f"release {channel.number}"
        backbone = read_bundle(config.bundle).bundle.backbone.digest
        if channel.backbone != backbone:
            raise Stop(
                Outcome.INCOMPATIBLE, f"{name} needs the backbone {channel.backbone[:12]}, "
                f"the bundle has {backbone[:12]}",
            )  # fmt: skip
        if serving is not None and serving.release >= channel.number:
            if serving.release == channel.number and serving.digest != channel.release:
                raise Stop(Outcome.UNTRUSTED, f"{name} is not the {name} that serves here")
            raise Stop(Outcome.UP_TO_DATE, f"release {serving.release} serves")
        reason = self.store.denied.releases.get(channel.release)
        if reason is not None and self.retry:
            self.store.allow(channel.release)
        elif reason is not None:
            raise Stop(Outcome.DENIED, f"{name} failed here before: {reason}")
        if config.pinned is not None and config.pinned != channel.number:
            raise Stop(Outcome.PINNED, f"pinned to release {config.pinned}; {name} is offered")
        if channel.halted:
            raise Stop(Outcome.HALTED, f"{name} was halted by its publisher")
        if channel.rollout and not channel.rollout.admits(config.device, self.store.now()):
            share = channel.rollout.share(self.store.now())
            raise Stop(Outcome.WAITING, f"{name} is rolled out to {share:.0%}, not to this device")

    def _fetch(self, channel: Channel) -> tuple[Release, list[Pack]]:
        before = self._state
        same = before.digest == channel.release and not self.retry
        was_idle = before.phase in {Phase.IDLE, Phase.COMMITTED}
        self._move(
            before if same else before.for_another_release(),
            Phase.FETCH,
            writes=1 if was_idle or not same else before.writes + 1,
            generation=None,
            release=channel.number,
            digest=channel.release,
        )
        with self._timed("fetch"):
            try:
                return self._fetch_objects(channel)
            except (NoSpaceError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                collect(self.store, wanted=self.objects)
                return self._fetch_objects(channel)

    def _fetch_objects(self, channel: Channel) -> tuple[Release, list[Pack]]:
        """Fetch every object of the release that is not stored; return its manifests."""
        self.objects = {}
        folder = self.store.path / OBJECTS
        self._ensure_object(channel, channel.release, channel.size, "json")
        with self._judging():
            release = parse_release(read_file(folder / channel.release, limits.MAX_MANIFEST))
        for name in release.packs:
            self._ensure_object(channel, name, None, "json")
            with self._judging():
                check_transfer(manifests=sum(self.objects.values()))
        with self._judging():
            largest = limits.MAX_PACK_MANIFEST
            packs = [parse_pack(read_file(folder / name, largest)) for name in release.packs]
            blobs = blob_sizes(release, packs)
            check_transfer(blobs=sum(blobs.values()))
        missing = [size for name, size in blobs.items() if not self.store.has(name, size)]
        self.store.disk.reserve(self.store.path, sum(missing) + 2 * max(missing, default=0))
        for name, size in blobs.items():
            self._ensure_object(channel, name, size, "safetensors")
        return release, packs

    def _ensure_object(self, channel: Channel, name: str, size: int | None, kind: Kind) -> None:
        """Fetch an object if it is missing or damaged."""
        path = self.store.path / OBJECTS / name
        if path.exists():
            found = path.stat().st_size
            if self.store.intact(name, found):  # the release that serves may need it as it is
                if size not in {None, found}:
                    raise self._refused(f"object {name} has {found} bytes, not {size}")
                self.objects[name] = found
                return
            self.store.drop(name)
        self._check_stop()
        staged = self.store.path / STAGING / name
        self.store.disk.remove(staged)
        try:
            self.source.fetch(object_target(channel.publisher, name, kind), name, size, staged)
        except LimitError as error:
            raise self._refused(error) from error
        self.objects[name] = staged.stat().st_size
        self.store.add(staged, name)

    def _verify(self, channel: Channel, release: Release, packs: Sequence[Pack]) -> None:
        self._move(self._state, Phase.VERIFY)
        with self._timed("verify"):
            bundle = read_bundle(self.store.config.bundle).bundle
            with self._judging():
                check_release(bundle, release, packs)
                for name in blob_sizes(release, packs):
                    check_blob(self.store.path / OBJECTS / name)
            if release.number != channel.number:
                raise self._refused(
                    f"the channel calls release {release.number} release {channel.number}"
                )

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Refuse and deny a release that breaks a rule of the formats.

        Raises:
            MismatchError: It is for another device, and not bad for that.
            MissingFileError: The disk failed: an object was there a moment ago.
        """
        try:
            yield
        except (MismatchError, MissingFileError):
            raise
        except DeployError as error:
            raise self._refused(error) from error

    def _refused(self, reason: object) -> Stop:
        self._deny(self._state, str(reason))
        return Stop(Outcome.REFUSED, str(reason))

    def _stage(self, channel: Channel) -> Generation:
        objects = dict(self.objects)
        generation = self.store.stage(channel.number, channel.release, objects, anew=self.retry)
        self._move(self._state, Phase.STAGED, generation=generation.number)
        return generation

    def _pretest(self, generation: Generation) -> None:
        self._move(self._state, Phase.PRETEST, attempts=self._state.attempts + 1)
        with self._timed("pretest"):
            wrong = self.test(self.store, generation)
        if wrong is not None:
            self._deny(self._state, wrong)
            raise Stop(
                Outcome.PRETEST_FAILED, f"release {generation.release} failed its test: {wrong}"
            )
        self._move(self._state, Phase.STAGED, attempts=0)
        if any((self.store.path / INHIBIT).iterdir()):
            raise Stop(
                Outcome.INHIBITED,
                f"release {generation.release} is ready; `{INHIBIT}` holds a file",
            )

    def _go_live(self, generation: Generation) -> tuple[Outcome, str]:
        """Switch to a generation, watch it, and keep or undo it."""
        self._move(self._state, Phase.ACTIVATE, attempts=self._state.attempts + 1)
        with self._timed("switch"):
            self.store.switch(generation.number)
        self._move(self._state, Phase.TRIAL)
        self.store.log.write(
            "trial", self.store.now(), generation=generation.number, release=generation.release
        )
        with self._timed("trial"):
            wrong = self._watch(generation)
        if wrong is not None:
            return self._roll_back(wrong)
        with self._timed("commit"):
            self._commit(generation)
        return Outcome.UPDATED, f"release {generation.release} serves"

    def _watch(self, generation: Generation) -> str | None:
        end = time.monotonic() + self._limits.trial_seconds
        while True:
            over = time.monotonic() >= end
            reports = read_reports(self.store.path, generation.number)
            wrong = judge(reports, self._limits, over)
            if wrong is not None or over:
                return wrong
            if self.stop_requested():  # this start did not fail, so it is not counted
                state = self._state
                self._move(state, Phase.TRIAL, attempts=max(0, state.attempts - 1))
                self._check_stop()
            time.sleep(_LOOK)

    def _commit(self, generation: Generation) -> None:
        state = self._state
        older = state.previous if state.last_good == generation.number else state.last_good
        self._move(state, Phase.COMMITTED, attempts=0, last_good=generation.number, previous=older)
        with suppress(OSError):
            collect(self.store)

    def _roll_back(self, reason: str) -> tuple[Outcome, str]:
        state = self._state
        self._deny(state, reason)
        activate(self.store, fallback(self.store, state.generation), reason)
        return self._undone(state, reason)

    def _undone(self, state: State, reason: str) -> tuple[Outcome, str]:
        release = _serving(self.store)
        to = "no release" if release is None else f"release {release}"
        return Outcome.ROLLED_BACK, f"release {state.release} was undone, {to} serves: {reason}"

    # -- helpers ------------------------------------------------------------------------------

    @property
    def _limits(self) -> Limits:
        return self.store.config.limits

    @property
    def _state(self) -> State:
        return self.store.state or State()

    def _move(self, state: State, phase: Phase, **changes: object) -> None:
        if phase in _STOPPABLE and not state.phase.on_trial:
            self._check_stop()
        moved = state.in_phase(phase, **changes)
        if moved.writes > MOST_WRITES and phase not in {Phase.COMMITTED, Phase.ROLLBACK}:
            self._deny(state, f"it needed more than {MOST_WRITES} steps")
            raise Stop(Outcome.FAILED, f"release {state.release} went in circles")
        self.store.write_state(moved)

    def _check_stop(self) -> None:
        if self.stop_requested():
            raise Stop(Outcome.STOPPED, "asked to stop; the next update goes on")

    def _deny(self, state: State, reason: str) -> None:
        if state.digest is not None:
            self.store.deny(state.digest, reason)
            self.store.log.write(
                "denied", self.store.now(), release=state.release, digest=state.digest,
                reason=reason,
            )  # fmt: skip

    def _idle(self, outcome: Outcome, reason: str) -> tuple[Outcome, str]:
        """End in phase IDLE; the release that served before serves."""
        state = self.store.state
        if state is not None and state.phase not in {Phase.IDLE, Phase.COMMITTED}:
            if state.phase.on_trial:
                return outcome, reason  # the next run goes on with the trial
            self.store.write_state(state.in_phase(Phase.IDLE))
        return outcome, reason

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - begin
            self.result.seconds[phase] = self.result.seconds.get(phase, 0.0) + taken

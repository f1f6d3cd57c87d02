"""Runs an update as a state machine; every caller uses the one function `update`.

IDLE -> CHECK -> FETCH -> VERIFY -> STAGED -> PRETEST -> ACTIVATE -> TRIAL -> COMMITTED, and from
ACTIVATE or TRIAL to ROLLBACK. Laws: a phase is on disk before it is acted on; the service is not
touched before ACTIVATE; a report cannot change what serves; expired or unreachable metadata stops
an installation, never inference.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgecl_deploy.errors import (
    BusyError,
    DeployError,
    DeviceError,
    FormatVersionError,
    LimitError,
    ManifestError,
    MismatchError,
    NoSpaceError,
    OfflineError,
    StaleError,
    StoppedError,
    UntrustedError,
    one_line,
)
from edgecl_deploy.format import Channel
from edgecl_deploy.stopping import never
from edgecl_deploy.store.disk import is_full
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.health import DEVICE, RELEASE, Fault, judge, read_reports
from edgecl_deploy.store.layout import INHIBIT, OBJECTS, PART, STAGING
from edgecl_deploy.store.records import FACTORY, MOST_DENIED, Generation, Limits, Phase, State
from edgecl_deploy.store.recover import Undone, activate, fallback, recover
from edgecl_deploy.store.store import Store, check_tested
from edgecl_deploy.update.floor import TELL
from edgecl_deploy.update.incoming import Bad, Incoming
from edgecl_deploy.update.outcome import Outcome, Result
from edgecl_deploy.update.pretest import pretest
from edgecl_deploy.update.purge import purge

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
    (FormatVersionError, Outcome.INCOMPATIBLE),  # of a later edgecl-deploy
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


class Stop(Exception):  # noqa: N818  not an error: a decision not to update
    """Ends an update before it changes what serves."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def update(
    store: Store,
    source: Source,
    *,
    test: Test | None = None,
    retry: bool = False,
    stop_requested: Callable[[], bool] = never,
) -> Result:
    """Install the channel's release, if there is one for this device; never raises a DeployError.

    Args:
        source: The channel.
        test: The test before the switch; None for the self-test in a process of its own.
        retry: Whether to try a release again that failed here.
        stop_requested: Whether the process is asked to stop: then the update stops between two
            phases, or in the trial, and the next one goes on.
    """
    run, before = Update(store, source, test, retry, stop_requested), source.received
    try:
        with store.lock():
            outcome, reason = run.run()
            if _purged(store) and outcome is Outcome.UPDATED:
                run.result.factory_kept = store.generation(FACTORY).release
    except BusyError as error:
        return Result(Outcome.BUSY, str(error), _serving(store))
    except OSError as error:  # the lock itself: a read-only disk, for example
        outcome, reason = Outcome.FAILED, one_line(error)
    run.result.outcome, run.result.reason = outcome, reason
    run.result.release = _serving(store)
    run.result.fetched = source.received - before
    if outcome is not Outcome.UP_TO_DATE or _ended_badly(store):
        store.log.write("update", store.now(), **run.result.to_json())
    return run.result


def _purged(store: Store) -> bool:
    """Erase what the channel wants erased; return whether the factory's release should be too."""
    try:
        return purge(store)
    except (DeployError, OSError):  # the next update goes on with it
        return False


def _ended_badly(store: Store) -> bool:
    """Return whether the log ends with a poll that was no success: then its end is logged too."""
    last = store.log.last("update")
    return last is not None and last.get("outcome") not in {
        Outcome.UPDATED.word,
        Outcome.UP_TO_DATE.word,
    }


def _manifest(source: Source, name: str) -> Channel:
    """Return the manifest of a channel.

    Raises:
        UntrustedError: It is signed, and malformed.
    """
    try:
        return source.channel(name)
    except (LimitError, ManifestError) as error:
        raise UntrustedError(error.must, error.found, TELL) from error


def _serving(store: Store) -> int | None:
    generation = store.serving()
    return None if generation is None else generation.release


@dataclass
class Update:
    """One run of the machine, under the lock of the store."""

    store: Store
    source: Source
    test: Test | None
    retry: bool = False
    stop_requested: Callable[[], bool] = never
    result: Result = field(default_factory=lambda: Result(Outcome.FAILED, "nothing was done"))

    def run(self) -> tuple[Outcome, str]:
        """Go through the phases."""
        try:
            ended = self._resume()
            if ended is not None:
                return ended
            channel = self._check()
            incoming = self._fetch(channel)
            self._verify(incoming)
            generation = self._stage(incoming)
            self._pretest(generation)
            return self._go_live(generation)
        except Stop as stop:
            return self._idle(stop.outcome, str(stop))
        except Bad as bad:
            self._deny(self._state, str(bad))
            return self._idle(Outcome.REFUSED, str(bad))
        except DeployError as error:
            kinds = [outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)]
            return self._idle(kinds[0] if kinds else Outcome.FAILED, str(error))
        except OSError as error:
            full = is_full(error)
            return self._idle(Outcome.NO_SPACE if full else Outcome.FAILED, one_line(error))

    # -- phases -------------------------------------------------------------------------------

    def _resume(self) -> tuple[Outcome, str] | None:
        """Go on from the phase in which a process was killed or the power was cut."""
        before = self.store.state
        state = recover(self.store)
        _purged(self.store)  # a cut may have ended it; what could be mended is no garbage now
        if before is not None and before.phase is Phase.ROLLBACK:
            whose = DEVICE if before.denying is None else RELEASE
            return self._undone(before, Fault(before.denying or "it was interrupted", whose))
        if state.phase is Phase.PRETEST and state.attempts >= self._limits.attempts:
            self._deny(state, f"its self-test never ended in {state.attempts} starts")
        if not state.phase.on_trial:
            return None
        generation = self._generation_of(state)
        if generation is None:
            return self._roll_back(Fault("the release on trial is not whole", DEVICE))
        if generation.digest in self.store.denied.releases:
            return self._roll_back(Fault("a rollback was interrupted"))
        if state.phase is Phase.TRIAL and self.store.current() != generation.number:
            return self._roll_back(Fault("its undo was begun, and could not be written", DEVICE))
        if state.attempts >= self._limits.attempts:
            reason = f"it did not pass its trial in {state.attempts} starts"
            return self._roll_back(Fault(reason))
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
            channel = _manifest(self.source, self.store.config.channel)
        self.result.offered = channel.number
        self._check_agreement(channel)
        self.store.raise_floor(channel.min_release, purge=channel.purge)
        self._decide(channel)
        return channel

    def _check_agreement(self, channel: Channel) -> None:
        """Refuse a manifest of the channel that contradicts what is known here, or itself.

        Raises:
            Stop: It does; nothing is denied for it.
        """
        name = f"release {channel.number}"
        if channel.min_release > channel.number:
            raise Stop(
                Outcome.UNTRUSTED, f"{name} is offered, and {channel.min_release} is the least "
                f"that may run. {TELL}",
            )  # fmt: skip
        for held in self.store.generations().values():
            if held.digest == channel.release and held.release != channel.number:
                raise Stop(
                    Outcome.UNTRUSTED, f"{name} is release {held.release}, which is known here. "
                    f"{TELL}",
                )  # fmt: skip

    def _decide(self, channel: Channel) -> None:
        self._check_newer(channel)
        config, name = self.store.config, f"release {channel.number}"
        reason = self.store.denied.releases.get(channel.release)
        if reason is not None and self.retry:
            self.store.allow(channel.release)
        elif reason is not None:
            raise Stop(Outcome.DENIED, f"{name} failed here before: {reason}")
        if self.store.denied.full:
            raise Stop(
                Outcome.FAILED, f"{MOST_DENIED} releases are denied here, and no more can be. "
                "`edgecl-device update --retry` allows one again.",
            )  # fmt: skip
        if config.pinned is not None and config.pinned != channel.number:
            raise Stop(Outcome.PINNED, f"pinned to release {config.pinned}; {name} is offered")
        if channel.halted:
            raise Stop(Outcome.HALTED, f"{name} was halted by its publisher")
        if channel.rollout and not channel.rollout.admits(config.device, self.store.now()):
            share = channel.rollout.share(self.store.now())
            raise Stop(Outcome.WAITING, f"{name} is rolled out to {share:.0%}, not to this device")

    def _check_newer(self, channel: Channel) -> None:
        """Go on only with a release for this bundle that is newer than the one that serves.

        Raises:
            Stop: It is not; one that serves and is not whole is fetched again.
        """
        name, serving = f"release {channel.number}", self.store.serving()
        backbone = self.store.bundle().bundle.backbone.digest
        if channel.backbone != backbone:
            raise Stop(
                Outcome.INCOMPATIBLE, f"{name} needs the backbone {channel.backbone[:12]}, "
                f"the bundle has {backbone[:12]}",
            )  # fmt: skip
        if serving is None or serving.release < channel.number:
            return
        if serving.release == channel.number and serving.digest != channel.release:
            raise Stop(Outcome.UNTRUSTED, f"{name} is not the {name} that serves here")
        whole = self.store.complete(serving) and not self.store.lacks_factor(serving)
        if serving.release > channel.number or whole:
            raise Stop(Outcome.UP_TO_DATE, f"release {serving.release} serves")

    def _fetch(self, channel: Channel) -> Incoming:
        before, held = self._state, self._held()
        same = before.digest == channel.release and not self.retry
        was_idle = before.phase in {Phase.IDLE, Phase.COMMITTED}
        went_on = was_idle or not same or held > before.held
        self._move(
            before if same else before.for_another_release(),
            Phase.FETCH,
            writes=1 if went_on else before.writes + 1,
            held=held,
            generation=None,
            release=channel.number,
            digest=channel.release,
        )
        incoming = Incoming(self.store, self.source, channel, self._check_stop)
        with self._timed("fetch"):
            incoming.fetch()
        return incoming

    def _held(self) -> int:
        """Return the bytes of all objects and partial files: more than before is progress."""
        folders = (self.store.path / OBJECTS, self.store.path / STAGING / PART)
        return sum(path.lstat().st_size for folder in folders for path in folder.iterdir())

    def _verify(self, incoming: Incoming) -> None:
        self._move(self._state, Phase.VERIFY)
        with self._timed("verify"):
            incoming.verify(self.store.bundle().bundle)
            check_tested(incoming.release, self._limits)

    def _stage(self, incoming: Incoming) -> Generation:
        channel, objects = incoming.channel, dict(incoming.objects)
        generation = self.store.stage(channel.number, channel.release, objects, anew=self.retry)
        self._move(self._state, Phase.STAGED, generation=generation.number)
        return generation

    def _pretest(self, generation: Generation) -> None:
        before = self._state.attempts
        if before >= self._limits.attempts:
            reason = f"its self-test was killed in each of {before} starts"
            self._deny(self._state, reason)
            raise Stop(Outcome.PRETEST_FAILED, f"release {generation.release}: {reason}")
        self.store.hold_reserve()  # an undo must have room before anything is switched
        self._move(self._state, Phase.PRETEST, attempts=before + 1)
        try:
            with self._timed("pretest"):
                wrong = self._test(generation)
        except (DeviceError, Stop) as error:  # not the release's fault, so the start is not counted
            if not (isinstance(error, DeviceError) and error.counts):
                self._move(self._state, Phase.STAGED, attempts=before)
            raise
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

    def _test(self, generation: Generation) -> str | None:
        if self.test is None:
            return pretest(self.store, generation, self._check_stop)
        return self.test(self.store, generation)

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

    def _watch(self, generation: Generation) -> Fault | None:
        end = time.monotonic() + self._limits.trial_seconds
        while True:
            over = time.monotonic() >= end
            reports = read_reports(self.store.path, generation.number)
            wrong = judge(reports, self._limits, over)
            if wrong is not None:
                return wrong
            if over:
                for reason in sorted({each.fallback for each in reports if each.fallback}):
                    self.store.log.write(
                        "precision-fallback",
                        self.store.now(),
                        generation=generation.number,
                        release=generation.release,
                        reason=reason,
                    )
                return None
            if self.stop_requested():  # this start did not fail, so it is not counted
                state = self._state
                self._move(state, Phase.TRIAL, attempts=max(0, state.attempts - 1))
                raise Stop(Outcome.STOPPED, "asked to stop; the next update goes on")
            time.sleep(_LOOK)

    def _commit(self, generation: Generation) -> None:
        state = self._state
        older = state.previous if state.last_good == generation.number else state.last_good
        self._move(state, Phase.COMMITTED, attempts=0, last_good=generation.number, previous=older)
        _purged(self.store)
        with suppress(OSError):
            collect(self.store)

    def _roll_back(self, fault: Fault) -> tuple[Outcome, str]:
        """Let the release before serve again; deny this one if it is to blame.

        Raises:
            OSError: The disk fails.
        """
        state = self._state
        undone = Undone(state.digest, state.release, deny=fault.whose == RELEASE)
        try:
            activate(self.store, fallback(self.store, state.generation), fault.reason, undone)
        except OSError as error:
            if not is_full(error) or self.store.current() == state.generation:
                raise
            return Outcome.NO_SPACE, (
                f"{self._undone(state, fault)[1]}; the disk is too full to write that down: "
                f"{one_line(error)}. Free some: the next update ends it."
            )
        return self._undone(state, fault)

    def _undone(self, state: State, fault: Fault) -> tuple[Outcome, str]:
        release = _serving(self.store)
        to = "no release" if release is None else f"release {release}"
        text = f"release {state.release} was undone, {to} serves: {fault.reason}"
        if fault.whose == RELEASE:
            return Outcome.ROLLED_BACK, text
        return Outcome.FAILED, f"{text} (the {fault.whose}'s fault; the release is tried again)"

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
        if self.store.wanted():
            raise Stop(Outcome.STOPPED, "another command waits for the store; the next one goes on")

    def _deny(self, state: State, reason: str) -> None:
        """Deny the release that is being taken, but never one that was committed here."""
        serving = self.store.serving()
        if state.digest is not None and (serving is None or serving.digest != state.digest):
            self.store.deny(state.digest, reason, state.release)

    def _idle(self, outcome: Outcome, reason: str) -> tuple[Outcome, str]:
        """End in phase IDLE; the release that served before serves."""
        state = self.store.state
        if state is not None and state.phase not in {Phase.IDLE, Phase.COMMITTED}:
            if state.phase.on_trial:
                return outcome, reason  # the next run goes on with the trial
            with suppress(OSError):  # on a full disk; the next run begins by looking at the phase
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

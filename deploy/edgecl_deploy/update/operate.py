"""The operations of an operator on a store: roll back, pin a release, read the history."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgecl_deploy.errors import BusyError, StoreError
from edgecl_deploy.store.health import Report, Reporter
from edgecl_deploy.store.records import Generation, Phase
from edgecl_deploy.store.recover import (
    Undone,
    activate,
    fallback,
    recover,
    rollback_candidates,
)
from edgecl_deploy.store.store import Store

VETO = 10.0  # seconds within which a running trial must end after a veto
PATIENCE = 10.0  # seconds that a command waits for the store: an update that fetches stops for it
_LOOK = 0.02  # seconds between two reads of the state of the trial


@dataclass(frozen=True)
class Change:
    """The effect of a command on the release that serves."""

    changed: bool
    release: int | None  # that serves now
    before: int | None  # that served before
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        return asdict(self)


def rollback(store: Store, reason: str, *, if_trial: bool = False, deny: bool = True) -> Change:
    """Go back from the release that serves to one before it.

    While another process watches a release on trial, that process undoes it; one that fetches or
    tests a release stops. It needs no free space: what it writes has room in the reserve, and the
    switch is made even where nothing can be written.

    Args:
        reason: Why, for the log and the list of denied releases.
        if_trial: Do so only if a release is on trial.
        deny: Whether the release that served must not be installed here again.

    Raises:
        BusyError: Another process changes the store, and it is no trial.
        StoreError: There is no release to go back to.
    """  # noqa: DOC502  raised below
    before = _release(store.serving())
    try:
        with store.lock(0.0 if if_trial else PATIENCE):
            return _go_back(store, reason, if_trial, deny)
    except BusyError:
        state = store.state
        if if_trial and state is not None and not state.phase.on_trial:
            return Change(False, before, before, "no release is on trial")
        if not deny or not _veto(store, reason):
            raise
    return Change(True, _release(store.serving()), before, f"the trial was ended: {reason}")


def _go_back(store: Store, reason: str, if_trial: bool, deny: bool) -> Change:
    before, found = _release(store.serving()), store.state
    state = recover(store)
    serving = store.serving()
    interrupted = found is not None and found.phase is Phase.ROLLBACK
    if interrupted or _release(serving) != before:
        return Change(True, _release(serving), before, "a rollback that was interrupted is done")
    if not state.phase.on_trial and if_trial:
        return Change(False, before, before, "no release is on trial")
    if state.phase.on_trial:  # `current` may still point to the one before it
        target, undone, digest = fallback(store, state.generation), state.release, state.digest
    else:
        old, target = _older(store, serving)
        undone, digest = old.release, old.digest
    activate(store, target, reason, Undone(digest, undone, deny))
    return Change(True, _release(target), before, reason)


def _older(store: Store, serving: Generation | None) -> tuple[Generation, Generation]:
    """Return the generation that serves, and the one to go back to.

    Raises:
        StoreError: There is none.
    """
    if serving is None:
        raise StoreError(
            f"{store.path} must hold a release", "none", "Run `edgecl-device update` first."
        )
    least = store.denied.min_release
    for generation in rollback_candidates(store, serving.number):
        if least <= generation.release < serving.release:
            return serving, generation
    allowed = f", and not before {least}, as the publisher demands" if least else ""
    raise StoreError(
        f"the store must hold a release before {serving.release}{allowed}",
        "none that is whole and was not denied",
        "Publish a newer release; `edgecl-device history` shows where the older ones went.",
    )


def _veto(store: Store, reason: str) -> bool:
    """Report against the release on trial, and wait until its trial has ended."""
    state = store.state
    if state is None or not state.phase.on_trial or state.generation is None:
        return False
    generation, reporter = state.generation, Reporter(store.path)
    reporter.write(Report(generation, error=reason))
    try:
        end = time.monotonic() + VETO
        while time.monotonic() < end:
            now = store.state
            if now is not None and not now.phase.on_trial:
                return store.current() != generation
            time.sleep(_LOOK)
    finally:
        reporter.close()
    return False


def pin(store: Store, number: int | None) -> Change:
    """Let only one release be installed, and go to it if it is in the store.

    Args:
        number: The release; None to follow the channel again.

    Raises:
        StoreError: The publisher does not allow that release any more.
        BusyError: A release is on trial.
    """
    with store.lock(PATIENCE):
        state, serving, denied = recover(store), store.serving(), store.denied
        before = _release(serving)
        if number is None:
            store.configure(replace(store.config, pinned=None))
            store.log.write("pin", store.now(), release=None)
            return Change(False, before, before, "the next update takes what the channel offers")
        if number < denied.min_release:
            raise StoreError(
                f"a pinned release must be {denied.min_release} or later, as the publisher demands",
                f"{number}", "Pin a later one.",
            )  # fmt: skip
        if state.phase.on_trial:
            raise BusyError(
                "no release may be on trial", f"release {state.release}",
                "Run `edgecl-device update` to end the trial, or `rollback` to undo it.",
            )  # fmt: skip
        store.configure(replace(store.config, pinned=number))
        store.log.write("pin", store.now(), release=number)
        if before == number:
            return Change(False, before, before, f"release {number} serves, and stays")
        held = [each for each in rollback_candidates(store, None) if each.release == number]
        if not held:
            return Change(False, before, before, f"the next update may take release {number}")
        activate(store, held[0], f"pinned to release {number}")
        return Change(True, number, before, f"release {number} was in the store")


def history(store: Store) -> Iterator[dict[str, Any]]:
    """Yield what happened to a store, oldest first: the lines of its log."""
    return store.log.read()


def _release(generation: Generation | None) -> int | None:
    return None if generation is None else generation.release

"""Repairs a store after an interruption or a damage: a whole release serves again.

Law: `current` is left as it is when nothing better is known.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from edgecl_deploy.store.records import FACTORY, Generation, Phase, State
from edgecl_deploy.store.store import Store


@dataclass(frozen=True)
class Undone:
    """A release that is gone back from."""

    digest: str | None  # of its release.json
    release: int | None  # its number
    deny: bool  # whether it must not be installed here again


def recover(store: Store) -> State:
    """Bring a store to a state from which an update can go on; needs the lock.

    The release that serves is not touched unless it is damaged or denied. A rollback that was
    interrupted is completed. A release on trial stays on trial: the update machine decides on it
    (`edgecl_deploy.update`). Damaged documents are mended, and the reserve of an undo is made anew
    if there is room.

    Returns:
        The state of the update.
    """
    store.sweep()
    for mend in (store.mend_documents, store.mend_generations, store.hold_reserve):
        with suppress(OSError):  # a full disk must not keep an operator from going back
            mend()
    state, serving = store.state, _serving(store)
    if state is None:
        state = _committed(serving, State())
        if serving is not None:
            store.log.write("state rebuilt", store.now(), generation=serving.number)
            store.write_state(state)
    if state.phase is Phase.ROLLBACK:
        undone = Undone(state.digest, state.release, state.denying is not None)
        reason = state.denying or "a rollback was interrupted"
        return activate(store, _rollback_target(store, state), reason, undone)
    if state.phase.on_trial:
        return state
    if serving is None and (store.current() is not None or state.last_good is not None):
        target = fallback(store, store.current())
        return state if target is None else activate(store, target, "current was damaged")
    if serving is not None and _is_denied(store, serving):  # an operator's rollback was cut short
        target = fallback(store, serving.number)
        if target is not None:
            return activate(store, target, "what served was denied")
    if serving is not None and state.last_good != serving.number:  # `current` is the truth
        state = store.write_state(state.in_phase(state.phase, last_good=serving.number))
    return state


def _serving(store: Store) -> Generation | None:
    generation = store.serving()
    return generation if generation is not None and store.complete(generation) else None


def _rollback_target(store: Store, state: State) -> Generation | None:
    """Return where an interrupted rollback was going, or another way from what it undid."""
    target = store.generations().get(-1 if state.generation is None else state.generation)
    if target is not None and _is_whole(store, target):
        return target
    others = (each for each in rollback_candidates(store, None) if each.digest != state.digest)
    return next(others, None) or _factory(store)


def _is_denied(store: Store, generation: Generation) -> bool:
    return generation.number != FACTORY and generation.digest in store.denied.releases


def _committed(generation: Generation | None, old: State) -> State:
    """Return the state in which a generation serves and no update is on its way."""
    if generation is None:
        return State(newest=old.newest)
    return State(
        Phase.COMMITTED,
        generation.number,
        generation.release,
        generation.digest,
        last_good=generation.number,
        newest=max(old.newest, generation.number),
    )


def fallback(store: Store, excluded: int | None) -> Generation | None:
    """Return the best generation to go back to; None if there is none.

    The factory's is the last resort, also from a trial of its own release: better it than none.
    """
    return next(rollback_candidates(store, excluded), None) or _factory(store)


def _factory(store: Store) -> Generation | None:
    found = store.generations().get(FACTORY)
    return found if found is not None and _is_whole(store, found) else None


def rollback_candidates(store: Store, excluded: int | None) -> Iterator[Generation]:
    """Yield the generations to go back to: the last good one, the newest releases, the factory's.

    All their bytes are right, they are not denied, and they are not below the signed floor.

    Args:
        store: The store.
        excluded: The generation to go back from, if any.
    """
    denied, left = store.denied, store.generations().get(-1 if excluded is None else excluded)
    for generation in _by_trust(store):
        if generation.number == excluded or (left is not None and generation.digest == left.digest):
            continue  # the same release may be there twice, from two trials
        allowed = generation.number == FACTORY or (
            generation.digest not in denied.releases and generation.release >= denied.min_release
        )
        if allowed and _is_whole(store, generation):
            yield generation


def _by_trust(store: Store) -> Iterator[Generation]:
    state, found = store.state or State(), store.generations()
    for number in (state.last_good, state.previous):
        if number is not None and number in found and number != FACTORY:
            yield found.pop(number)
    yield from sorted(found.values(), key=lambda each: (each.release, each.number), reverse=True)


def _is_whole(store: Store, generation: Generation) -> bool:
    return all(store.intact(name, size) for name, size in generation.objects.items())


def activate(
    store: Store, target: Generation | None, reason: str, undone: Undone | None = None
) -> State:
    """Let a generation serve from now on, as committed; needs the lock.

    The state that says so is written first, in the room of the reserve if the disk is full; if even
    that fails, the switch is made all the same, and what cannot be written after it is an OSError.

    Args:
        store: The store.
        target: The generation; None leaves the device without a release.
        reason: Why, for the log.
        undone: What is gone back from, if it is another release than the state is about.

    Returns:
        The new state.
    """
    old = store.state or State()
    number = None if target is None else target.number
    rolling = old.in_phase(Phase.ROLLBACK, generation=number, denying=None)
    if undone is not None:
        denying = _plain(reason) if undone.deny and undone.digest is not None else None
        rolling = old.in_phase(
            Phase.ROLLBACK,
            generation=number,
            digest=undone.digest,
            release=undone.release,
            denying=denying,
        )
    with suppress(OSError):  # the switch counts; the state after it is written below
        store.write_state(rolling)
    store.switch(number)
    release = None if target is None else target.release
    store.log.write("rollback", store.now(), reason=reason, generation=number, release=release)
    if rolling.denying is not None and rolling.digest is not None:
        store.deny(rolling.digest, reason, rolling.release)
    return store.write_state(_committed(target, old))


def _plain(text: str) -> str:
    """Return a text that state.json may hold."""
    return ascii(text)[1:-1][:300] or "no reason given"

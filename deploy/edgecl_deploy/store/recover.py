"""What a store does after an interruption or a damage: find a whole release to stand on."""

from collections.abc import Iterator

from edgecl_deploy.store.records import FACTORY, Generation, Phase, State
from edgecl_deploy.store.store import Store


def recover(store: Store) -> State:
    """Bring a store to a state from which one can go on; needs the lock.

    What serves is not touched unless it is damaged or denied. A rollback that was interrupted is
    ended. A release on trial is left on trial: whoever asked for it decides
    (`edgecl_deploy.update`).

    Returns:
        Where the update stands.
    """
    store.sweep()
    state, serving = store.state, _serving(store)
    if state is None:
        state = _standing(serving, State())
        if serving is not None:
            store.log.write("state rebuilt", store.now(), generation=serving.number)
            store.write_state(state)
    if state.phase is Phase.ROLLBACK:
        return stand_on(store, _aim(store, state), "a rollback was interrupted")
    if state.phase.on_trial:
        return state
    if serving is None and (store.current() is not None or state.last_good is not None):
        return stand_on(store, fallback(store, store.current()), "current was damaged")
    if serving is not None and _is_denied(store, serving):  # an operator's rollback was cut short
        target = fallback(store, serving.number)
        if target is not None:
            return stand_on(store, target, "what served was denied")
    if serving is not None and state.last_good != serving.number:  # `current` is the truth
        state = store.write_state(state.moved(state.phase, last_good=serving.number))
    return state


def _serving(store: Store) -> Generation | None:
    generation = store.serving()
    return generation if generation is not None and store.complete(generation) else None


def _aim(store: Store, state: State) -> Generation | None:
    """Give the generation that a rollback was on its way to, if it is whole."""
    target = store.generations().get(-1 if state.generation is None else state.generation)
    return target if target is not None and _whole(store, target) else fallback(store, None)


def _is_denied(store: Store, generation: Generation) -> bool:
    return generation.number != FACTORY and generation.digest in store.denied.releases


def _standing(on: Generation | None, old: State) -> State:
    if on is None:
        return State(newest=old.newest)
    return State(
        Phase.COMMITTED,
        on.number,
        on.release,
        on.digest,
        last_good=on.number,
        newest=max(old.newest, on.number),
    )


def fallback(store: Store, leave: int | None) -> Generation | None:
    """Find the generation to return to: the last good one, an older one, the factory's.

    Args:
        leave: The generation that is to be left.

    Returns:
        One whose every byte is right, that is not denied, and not below the signed floor;
        None if there is none.
    """
    return next(standing_ground(store, leave), None)


def standing_ground(store: Store, leave: int | None) -> Iterator[Generation]:
    """Give the generations that `fallback` may return to, the best one first.

    Args:
        leave: The generation that is to be left.
    """
    denied = store.denied
    for generation in _by_trust(store):
        allowed = generation.number == FACTORY or (
            generation.digest not in denied.releases and generation.release >= denied.min_release
        )
        if generation.number != leave and allowed and _whole(store, generation):
            yield generation


def _by_trust(store: Store) -> Iterator[Generation]:
    state, found = store.state or State(), store.generations()
    for number in (state.last_good, state.previous):
        if number is not None and number in found and number != FACTORY:
            yield found.pop(number)
    yield from sorted(found.values(), key=lambda each: (each.release, each.number), reverse=True)


def _whole(store: Store, generation: Generation) -> bool:
    return all(store.intact(name, size) for name, size in generation.objects.items())


def stand_on(store: Store, target: Generation | None, reason: str) -> State:
    """Let a generation serve from now on, as committed; needs the lock.

    Args:
        target: The generation; None leaves the device without a release.
        reason: Why, for the log.

    Returns:
        The new state.
    """
    old = store.state or State()
    store.log.write(
        "rollback",
        store.now(),
        reason=reason,
        generation=None if target is None else target.number,
        release=None if target is None else target.release,
    )
    number = None if target is None else target.number
    store.write_state(old.moved(Phase.ROLLBACK, generation=number))
    store.switch(number)
    return store.write_state(_standing(target, old))

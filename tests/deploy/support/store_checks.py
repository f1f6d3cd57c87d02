"""What must be true of a store at any time, whatever was done to it but damage."""

import sys
from pathlib import Path

from edgecl_deploy.store import fsck
from edgecl_deploy.store.store import Store

SERVES_DENIED = "what serves is denied"  # an operator's rollback was cut: until the next start


def broken(path: Path) -> str | None:
    """Say what is not whole: a generation without an object, `current` without a generation."""
    store = Store(path)
    damages = [each for each in fsck.check(store) if each.found != "no release"]
    return f"{damages[0].what}: {damages[0].found}" if damages else misleads(store)


def misleads(store: Store) -> str | None:
    """Say whether what serves is not what its documents tell."""
    serving, state = store.serving(), store.state
    if serving is not None and state is not None and not state.phase.on_trial:
        if serving.number != state.last_good:
            return "what serves is neither good nor on trial"
        if serving.digest in store.denied.releases:
            return SERVES_DENIED
    return None


def release_of(store: Store) -> int | None:
    """The number of the release that serves."""
    serving = store.serving()
    return None if serving is None else serving.release


def tell(text: str) -> None:
    """Say a figure; `pytest -rP` shows it."""
    sys.stdout.write(f"{text}\n")

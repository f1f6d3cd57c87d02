"""Contestants of a benchmark in turns, in one process: a drift of the machine meets all of them."""

import time
from collections.abc import Callable, Mapping


def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int, pause: float
) -> dict[str, list[float]]:
    """Return the milliseconds of every call, one for each round.

    Args:
        calls: by the names of the contestants.
        warm_up: rounds before the first that counts.
        pause: seconds before each call: an engine's threads spin a while after a run.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + warm_up):
        for name, call in calls.items():
            time.sleep(pause)
            began = time.perf_counter()
            call()
            if turn >= warm_up:
                times[name].append(1000 * (time.perf_counter() - began))
    return times

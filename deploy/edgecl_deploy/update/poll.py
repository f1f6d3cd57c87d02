"""One poll as the commands make it: the store's channel, the state machine, the report."""

from collections.abc import Callable
from dataclasses import dataclass

from edgecl_deploy.store.layout import PART, STAGING
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.fetcher import Fetcher
from edgecl_deploy.update.hook import report
from edgecl_deploy.update.machine import go_on, update
from edgecl_deploy.update.outcome import Result
from edgecl_deploy.update.trust import Trust


@dataclass(frozen=True)
class Polled:
    """How a poll ended."""

    result: Result
    patience: float | None = None  # seconds to leave the server alone, as it asked


def poll(
    store: Store,
    url: str | None = None,
    *,
    retry: bool = False,
    ending: Callable[[], bool] = go_on,
) -> Polled:
    """Take the channel's release, if there is one for this device, and report.

    Args:
        url: Where the channel lies this once: a mirror, or a folder; None for the store's own.
        retry: Whether to try a release again that failed here.
        ending: Whether somebody asked the process to end.
    """
    config = store.config
    fetcher = Fetcher(store.path / STAGING / PART, rate_kbps=config.limits.rate_kbps)
    source = Trust(
        store.path,
        store.root,
        url or config.url,
        disk=store.disk,
        fetcher=fetcher,
        now=store.now,
    )
    result = update(store, source, retry=retry, ending=ending)
    report(store, result)
    return Polled(result, fetcher.retry_after)

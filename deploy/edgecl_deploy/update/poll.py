"""Polls a channel once, as the commands do: the store's channel, the update, the report hook."""

from collections.abc import Callable
from dataclasses import dataclass

from edgecl_deploy.stopping import never
from edgecl_deploy.store.layout import PART, STAGING
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.access import check_url, plain_url
from edgecl_deploy.update.fetcher import Fetcher, local_path
from edgecl_deploy.update.hook import report
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Result
from edgecl_deploy.update.trust import Trust


@dataclass(frozen=True)
class PollResult:
    """The outcome of a poll."""

    result: Result
    retry_after: float | None = None  # seconds that the server asked to wait


def poll(
    store: Store,
    url: str | None = None,
    *,
    retry: bool = False,
    stop_requested: Callable[[], bool] = never,
) -> PollResult:
    """Install the channel's release, if there is one for this device, and report.

    Args:
        url: Another place of the channel, for this poll: a mirror, or a folder; None for its own.
        retry: Whether to try a release again that failed here.
        stop_requested: Whether the process is asked to stop.
    """
    config = store.config
    if url is not None:
        check_url(url)
    place = plain_url(url or config.url)  # an older store may have a password in it
    fetcher = Fetcher(
        store.path / STAGING / PART,
        folder=local_path(place),
        rate_kbps=config.limits.rate_kbps,
        stop_requested=lambda: stop_requested() or store.wanted(),
    )
    source = Trust(
        store.path,
        store.root,
        place,
        disk=store.disk,
        fetcher=fetcher,
        now=store.now,
    )
    result = update(store, source, retry=retry, stop_requested=stop_requested)
    report(store, result)
    return PollResult(result, fetcher.retry_after)

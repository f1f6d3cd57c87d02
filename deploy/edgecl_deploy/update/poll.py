"""Polls a channel once, as the commands do: the store's channel, the update, the report hook."""

from collections.abc import Callable
from dataclasses import dataclass

from edgecl_deploy.stopping import never
from edgecl_deploy.store.layout import PART, STAGING
from edgecl_deploy.store.records import Config
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
    if url is not None:
        check_url(url)
    source = channel_of(store, store.config, url, stop_requested=stop_requested)
    result = update(store, source, retry=retry, stop_requested=stop_requested)
    report(store, result)
    return PollResult(result, source.fetcher.retry_after)


def channel_of(
    store: Store,
    config: Config,
    url: str | None = None,
    *,
    stop_requested: Callable[[], bool] = never,
) -> Trust:
    """Return the channel of a store; a download stops when another command waits for the store.

    Args:
        config: The settings, as they are or as they shall be.
        url: Another place of the channel; None for its own.
        stop_requested: Whether the process is asked to stop.
    """
    place = plain_url(url or config.url)  # an older store may have a password in it
    fetcher = Fetcher(
        store.path / STAGING / PART,
        folder=local_path(place),
        rate_kbps=config.limits.rate_kbps,
        stop_requested=lambda: stop_requested() or store.wanted(),
    )
    return Trust(store.path, store.root, place, disk=store.disk, fetcher=fetcher, now=store.now)

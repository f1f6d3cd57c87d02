"""Roll-outs: their growth, promotion from canary to stable, halting and going on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecl_export.channel import Repository, Rollout
from edgecl_export.errors import ChannelError

Tree = Callable[[Path], dict[str, bytes]]


def test_a_ramp_must_end_before_the_next_release(
    repository: Repository, releases: dict[int, Path], shop: Any, clock: Any, tree: Tree
) -> None:
    repository.publish(releases[1], shop.bundle, channel="stable", rollout=Rollout(hours=10))
    clock.sleep(hours=5)
    before = tree(repository.site.path)
    with pytest.raises(ChannelError, match="--force-rollout"):
        repository.publish(releases[2], shop.bundle, channel="stable")
    assert tree(repository.site.path) == before
    repository.publish(releases[2], shop.bundle, channel="stable", force_rollout=True)
    repository.promote("stable", "stable", rollout=Rollout(hours=4))
    clock.sleep(hours=5)
    repository.publish(releases[3], shop.bundle, channel="stable")


def test_a_canary_is_promoted(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any
) -> None:
    repository.publish(releases[1], shop.bundle, channel="stable")
    canary = repository.publish(releases[2], shop.bundle, channel="canary", notes="new").channel
    phone = device()
    assert (phone.take("canary"), phone.take("stable")) == (2, 1)
    stable = repository.promote("canary", "stable", rollout=Rollout(hours=24, percent=30))
    assert phone.take("stable") == 2
    assert not any("packs/lab/" in name for name in phone.fetched), "the device has the objects"
    assert phone.poll("stable") == stable
    assert (stable.release, stable.notes) == (canary.release, "new")
    assert stable.rollout is not None
    assert (stable.rollout.duration, stable.rollout.percent) == (24 * 3600, 30)


def test_a_wider_ramp_keeps_the_order_of_the_devices(
    repository: Repository, releases: dict[int, Path], shop: Any, clock: Any
) -> None:
    first = repository.publish(
        releases[1], shop.bundle, channel="stable", rollout=Rollout(percent=30)
    ).channel.rollout
    wider = repository.promote("stable", "stable", rollout=Rollout(percent=60)).rollout
    assert first is not None
    assert wider is not None
    now = clock()
    names = [f"device-{i}" for i in range(500)]
    had = {name for name in names if first.admits(name, now)}
    have = {name for name in names if wider.admits(name, now)}
    assert had < have
    repository.promote("stable", "stable")
    other = repository.publish(
        releases[2], shop.bundle, channel="stable", rollout=Rollout(percent=30)
    ).channel.rollout
    assert other is not None
    assert {name for name in names if other.admits(name, now)} != had


def test_promotion_refuses(
    repository: Repository, releases: dict[int, Path], shop: Any, tree: Tree
) -> None:
    repository.publish(releases[2], shop.bundle, channel="stable")
    repository.publish(releases[1], shop.bundle, channel="canary")
    repository.publish(releases[3], shop.bundle, channel="odd")
    repository.publish(shop.release(1, number=2), shop.bundle, channel="other")
    repository.halt("odd")
    before = tree(repository.site.path)
    for source, words in {
        "canary": "--number 3",
        "other": "--number 3",
        "odd": "edgecl channel resume odd",
        "none": "canary, odd, other, stable, got 'none'",
    }.items():
        with pytest.raises(ChannelError, match=words):
            repository.promote(source, "stable")
        assert tree(repository.site.path) == before


def test_a_halted_ramp_goes_on_from_its_share(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any, clock: Any
) -> None:
    repository.publish(releases[1], shop.bundle, channel="stable", rollout=Rollout(hours=10))
    clock.sleep(hours=2)
    repository.halt("stable")
    phone = device()
    assert phone.poll().halted
    version = repository.state().timestamp.signed.version
    assert repository.halt("stable").halted
    assert repository.state().timestamp.signed.version == version, "nothing to say"
    clock.sleep(hours=30)
    resumed = repository.resume("stable")
    assert resumed.rollout is not None
    assert resumed.rollout.share(clock()) == pytest.approx(0.2, abs=0.001)
    assert not phone.poll().halted
    clock.sleep(hours=8)
    assert resumed.rollout.share(clock()) == pytest.approx(1.0, abs=0.001)
    assert repository.resume("stable") == resumed


def test_a_ramp_halted_before_its_start_begins_with_nobody(
    repository: Repository, releases: dict[int, Path], shop: Any, clock: Any
) -> None:
    later = clock() + 3600
    repository.publish(
        releases[1], shop.bundle, channel="stable", rollout=Rollout(hours=10, start=later)
    )
    repository.halt("stable")
    early = repository.resume("stable").rollout
    assert early is not None
    assert early.start == int(later)
    repository.halt("stable")
    clock.sleep(hours=5)
    late = repository.resume("stable").rollout
    assert late is not None
    assert late.share(clock()) < 0.001


def test_a_better_release_follows_a_halted_one(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any
) -> None:
    repository.publish(releases[1], shop.bundle, channel="stable", rollout=Rollout(hours=10))
    repository.halt("stable")
    repository.publish(releases[2], shop.bundle, channel="stable")
    phone = device()
    assert phone.take() == 2
    assert not phone.poll().halted

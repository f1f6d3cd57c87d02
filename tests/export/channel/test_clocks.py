"""A clock that is late signs nothing; one that may be ahead is told of."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgecl_export.channel import Repository
from edgecl_export.channel.cli import channel
from edgecl_export.errors import ChannelError

COMMANDS = {
    "publish": lambda repository, shop, releases: repository.publish(
        releases[2], shop.bundle, channel="stable"
    ),
    "refresh": lambda repository, *_: repository.refresh(),
    "halt": lambda repository, *_: repository.halt("stable"),
    "rotate": lambda repository, *_: repository.rotate("timestamp"),
    "mirror": lambda repository, *_: repository.mirror(
        repository.site.path.parent / "usb", channel="stable"
    ),
}


@pytest.fixture
def published(repository: Repository, releases: dict[int, Path], shop: Any) -> Repository:
    repository.publish(releases[1], shop.bundle, channel="stable")
    return repository


@pytest.mark.parametrize("days", [0.1, 3, 400, 20_000])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_clock_that_is_late_signs_nothing(
    published: Repository, releases: dict[int, Path], shop: Any, clock: Any, tree: Any,
    device: Any, name: str, days: float,
) -> None:  # fmt: skip
    before = tree(published.site.path)
    clock.sleep(days=-days)
    with pytest.raises(ChannelError, match=r"Set the clock: devices would .*--trust-clock"):
        COMMANDS[name](published, shop, releases)
    assert tree(published.site.path) == before
    assert published.status().code == 3
    assert any("set it before you sign" in each for each in published.status().problems)
    assert device().take() == 1


def test_two_machines_may_differ_by_minutes(published: Repository, clock: Any) -> None:
    clock.sleep(hours=-0.9)
    published.refresh()
    assert published.status().code == 0


def test_a_copy_for_a_medium_is_no_reason(published: Repository, clock: Any) -> None:
    """Its timestamp is valid for 90 days; the site's next one for 14."""
    published.mirror(published.site.path.parent / "usb", channel="stable", days=90)
    published.refresh()
    assert published.status().code == 0


def test_after_a_clock_that_was_ahead(published: Repository, clock: Any, device: Any) -> None:
    clock.sleep(days=500)
    published.refresh(everything=True)
    clock.sleep(days=-500)
    with pytest.raises(ChannelError, match="If an earlier clock was ahead"):
        published.refresh()
    published.trust_clock = True
    published.refresh(everything=True)
    published.trust_clock = False
    published.refresh()
    assert published.status().code == 0
    assert device().take() == 1


def test_a_clock_that_may_be_ahead_is_told_of(published: Repository, clock: Any) -> None:
    told: list[str] = []
    published.warn = told.append
    clock.sleep(days=14 + 59)
    published.refresh()
    assert told == []
    clock.sleep(days=14 + 61)
    published.refresh(everything=True)
    assert len(told) == 1
    assert "the site was last signed 75 days ago" in told[0]


def test_on_the_command_line(tmp_path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site, keys = tmp_path / "site", tmp_path / "keys"
    clock.sleep(days=1)
    Repository.create(site, keys, development=True, clock=clock)
    line = ["refresh", "--site", str(site), "--keys", str(keys), "--json"]
    done = CliRunner().invoke(channel, line)
    assert isinstance(done.exception, ChannelError)
    done = CliRunner().invoke(channel, [*line, "--trust-clock"])
    assert json.loads(done.stdout)["signed"]
    monkeypatch.setattr("edgecl_export.channel.clocks.AHEAD", timedelta(days=-20))
    done = CliRunner().invoke(channel, [*line, "--trust-clock"])
    assert "Warning: by this clock" in done.stderr

"""Expiry, refreshing, and copies for devices without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import BadVersionNumberError, ExpiredMetadataError

from edgecl_deploy.files import read_release
from edgecl_export.channel import Repository, Rollout
from edgecl_export.errors import ChannelError

Tree = Callable[[Path], dict[str, bytes]]
DAYS = {"root": 730, "targets": 365, "releases": 365, "snapshot": 30, "timestamp": 14}


@pytest.fixture
def published(repository: Repository, releases: dict[int, Path], shop: Any) -> Repository:
    repository.publish(releases[1], shop.bundle, channel="stable")
    return repository


def test_expiries_are_seen_in_time(published: Repository, clock: Any) -> None:
    found = published.status()
    assert (found.code, found.problems, found.development) == (0, (), False)
    days = {role.role: role.days_left for role in found.roles}
    assert days == pytest.approx({**DAYS, "packs-lab": 365}, abs=0.2)
    assert all(all(role.keys.values()) for role in found.roles)
    clock.sleep(days=9)
    assert published.status().code == 0
    clock.sleep(days=1)
    soon = published.status()
    assert soon.code == 3
    assert soon.problems[0].startswith("timestamp expires in 4.0 days: run `edgecl channel refresh")
    clock.sleep(days=5)
    late = published.status()
    assert late.code == 4
    assert [role.role for role in late.roles if role.soon] == ["timestamp"]
    clock.sleep(days=20)
    assert sum("has expired" in text for text in published.status().problems) == 2
    published.refresh()
    assert published.status().code == 0


def test_refresh_renews_what_nears_its_end(published: Repository, clock: Any, device: Any) -> None:
    state = published.state()
    done = published.refresh()
    assert (done.signed, done.missing) == (("snapshot", "timestamp"), ())
    assert published.state().timestamp.signed.version == state.timestamp.signed.version + 1
    assert published.state().targets.version == state.targets.version
    clock.sleep(days=300)
    (published.keys.folder / "packs-lab-1.pem").unlink()
    done = published.refresh()
    assert set(done.signed) == {"snapshot", "timestamp", "targets", "releases"}
    assert done.missing == ("packs-lab",)
    status = published.status()
    assert status.code == 3
    assert "refresh --key URI" in status.problems[0]
    clock.sleep(days=250)
    assert "root" in published.refresh().signed
    assert published.state().root.version == 2
    assert device().poll().number == 1


def test_everything_is_renewed_on_demand(published: Repository, device: Any) -> None:
    done = published.refresh(everything=True)
    assert set(done.signed) == {*DAYS, "packs-lab"}
    assert device().take() == 1


def test_an_expired_site_is_refused_by_devices(tmp_path: Path, clock: Any, device: Any) -> None:
    """The site is made fifteen days ago, as seen by the device's clock."""
    clock.sleep(days=-15)
    made = Repository.create(tmp_path / "old", tmp_path / "old-keys", unencrypted=True, clock=clock)
    phone = device(made.site.path)
    phone.root = made.root_file.read_bytes()
    with pytest.raises(ExpiredMetadataError):
        phone.poll()
    clock.sleep(days=15)
    made.refresh()
    phone.poll()


def test_forgotten_roll_outs_are_reported(
    published: Repository, releases: dict[int, Path], shop: Any, clock: Any
) -> None:
    published.publish(releases[2], shop.bundle, channel="canary", rollout=Rollout(percent=10))
    published.publish(releases[2], shop.bundle, channel="line", rollout=Rollout(hours=48))
    published.halt("stable")
    published.refresh()
    clock.sleep(hours=12)
    found = {each.name: each for each in published.status().channels}
    assert published.status().code == 0
    assert (found["canary"].share, found["canary"].percent) == (0.1, 10)
    assert found["line"].share == pytest.approx(0.25, abs=0.01)
    assert found["stable"].halted
    assert not any(each.finished for each in found.values())
    clock.sleep(days=15)
    published.refresh()
    status = published.status()
    assert status.code == 3
    assert len(status.problems) == 2
    assert status.problems[0].startswith("release 2 of canary is at 10% of the devices")
    assert status.problems[1].startswith("release 1 of stable is halted")


def test_a_copy_for_devices_without_a_network(
    published: Repository,
    releases: dict[int, Path],
    shop: Any,
    device: Any,
    tmp_path: Path,
    tree: Tree,
) -> None:
    """Copy, then the live site, then an old copy again, which is a rollback."""
    published.publish(releases[2], shop.bundle, channel="canary")
    published.rotate("root")
    before = published.state().timestamp.signed.version
    copy = published.mirror(tmp_path / "usb" / "stick", channel="stable", days=90)
    stick = tmp_path / "usb" / "stick"
    assert published.state().timestamp.signed.version == before + 2
    files = read_release(releases[1])
    held = {name for name in tree(stick) if name.startswith("targets/packs/")}
    assert len(held) == 1 + len(files.manifests) + len(files.blobs), "one release only"
    assert {"metadata/1.root.json", "metadata/2.root.json"} < set(tree(stick))
    assert not any(".lock" in name or ".tmp" in name for name in tree(stick))
    phone = device(stick)
    assert phone.take() == copy.release == 1
    phone.site = published.site.path
    assert phone.take() == 1
    published.publish(releases[3], shop.bundle, channel="stable")
    assert phone.take() == 3, "the live site goes on"
    phone.site = stick
    with pytest.raises(BadVersionNumberError):
        phone.take()
    second = tmp_path / "second"
    published.mirror(second, channel="stable")
    phone.site = second
    assert phone.take() == 3


def test_a_copy_holds_as_long_as_it_says(
    published: Repository, clock: Any, device: Any, tmp_path: Path
) -> None:
    clock.sleep(days=-60)
    published.trust_clock = True
    published.refresh(everything=True)
    published.mirror(tmp_path / "long", channel="stable", days=90)
    published.mirror(tmp_path / "short", channel="stable", days=30)
    with pytest.raises(ExpiredMetadataError):
        device(tmp_path / "short").take()
    assert device(tmp_path / "long").take() == 1
    with pytest.raises(ExpiredMetadataError):
        device().take()


def test_copies_refuse(published: Repository, tmp_path: Path, tree: Tree) -> None:
    before = tree(published.site.path)
    (tmp_path / "used").mkdir()
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("used", {"channel": "stable"}, "Choose a new folder"),
        ("out", {"channel": "none"}, "edgecl channel publish RELEASE"),
        ("out", {"channel": "stable", "days": 400}, "refresh --all"),
        ("out", {"channel": "stable", "days": 0}, "Use 90d"),
    ]
    for name, options, words in refused:
        with pytest.raises(ChannelError, match=words):
            published.mirror(tmp_path / name, **options)
        assert tree(published.site.path) == before
    assert not (tmp_path / "out").exists()
    blob = next(published.site.path.glob("targets/packs/lab/*.safetensors"))
    blob.unlink()
    with pytest.raises(ChannelError, match="The site must hold"):
        published.mirror(tmp_path / "out", channel="stable")
    assert list(tmp_path.glob(".out*")) == []


def test_a_copy_that_cannot_be_written_leaves_nothing(
    published: Repository, tmp_path: Path, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgecl_export.channel.mirror.os.rename", full)
    with pytest.raises(OSError, match="No space"):
        published.mirror(tmp_path / "usb" / "out", channel="stable")
    assert list((tmp_path / "usb").iterdir()) == []
    assert device().take() == 1, "the site has only skipped a version"

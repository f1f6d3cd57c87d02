"""A site that was pruned: smaller, and devices of any age follow it."""

from pathlib import Path
from typing import Any

import pytest

from edgecl_deploy.files import read_release
from edgecl_deploy.format import object_target
from edgecl_deploy.update import bounds
from edgecl_deploy.update.trust import Trust
from edgecl_export.channel import Repository
from edgecl_export.errors import ChannelError


@pytest.fixture
def grown(repository: Repository, releases: dict[int, Path], shop: Any, device: Any) -> Any:
    """Return a repository with four releases, and devices from before, between and after."""
    phones = {0: device()}
    for number in range(1, 5):
        repository.publish(releases[number], shop.bundle, channel="stable")
        phones[number] = device()
        assert phones[number].take() == number
        repository.rotate("timestamp")
    return repository, phones


def listed(repository: Repository) -> set[str]:
    return set(repository.state().roles["packs-lab"].signed.targets)


def files(repository: Repository) -> int:
    return sum(path.is_file() for path in repository.site.path.rglob("*"))


def test_devices_of_any_age_follow(
    grown: Any, device: Any, clock: Any, releases: dict[int, Path], shop: Any, tree: Any
) -> None:
    repository, phones = grown
    before, many = listed(repository), files(repository)
    roots = sorted(repository.site.metadata.glob("*.root.json"))
    first = repository.prune()
    assert first.entries == 3 * 3  # release.json and canaries of 1 to 3; their packs are in 4
    assert listed(repository) < before
    assert first.later > 0
    clock.sleep(days=8)
    second = repository.prune()
    assert second.entries == 0
    assert second.files > 0
    assert files(repository) < many
    assert sorted(repository.site.metadata.glob("*.root.json")) == roots
    phones["new"] = device()
    for phone in phones.values():
        assert phone.take() == 4
    assert repository.status().code == 0
    clock.sleep(days=8)
    repository.prune()  # what the second run has replaced
    last = tree(repository.site.path)
    clock.sleep(days=8)
    third = repository.prune()
    assert (third.entries, third.files, third.later) == (0, 0, 0)
    assert tree(repository.site.path) == last
    again = repository.promote("stable", "canary")
    assert again.number == 4
    assert device().take("canary") == 4


def test_what_was_forgotten_goes_at_once(
    grown: Any, device: Any, releases: dict[int, Path], shop: Any
) -> None:
    repository, phones = grown
    packs = repository.site.path / "targets" / "packs" / "lab"

    def objects() -> set[str]:
        return {path.name.partition(".")[0] for path in packs.iterdir()}

    of = {n: read_release(path) for n, path in releases.items() if n <= 4}
    only = {n: {found.digest, *found.release.blobs} for n, found in of.items()}
    with pytest.raises(ChannelError, match="release 5 or a later one, got stable with release 4"):
        repository.prune(before=5)
    assert only[1] | only[2] | only[3] | only[4] <= objects()
    pruned = repository.prune(before=3)
    assert pruned.files == len(only[1] | only[2]) == 6  # release.json and canaries
    assert objects() & (only[1] | only[2]) == set()
    assert only[3] | only[4] <= objects(), "the third is not old enough, so it has its week"
    phones["new"] = device()
    for phone in phones.values():
        assert phone.take() == 4
    assert repository.prune(before=4).files == 3
    assert objects() & only[3] == set()
    assert repository.status().code == 0


def test_what_a_device_is_fetching_stays(grown: Any, tmp_path: Path) -> None:
    """A device that has refreshed before finds all files by its older metadata."""
    repository, _ = grown
    store = tmp_path / "store"
    store.mkdir()
    trust = Trust(store, repository.root_file.read_bytes(), str(repository.site.path))
    trust.refresh()
    repository.prune()
    assert repository.prune().files == 0
    channel = trust.channel("stable")
    target = object_target("lab", channel.release, "json")
    trust.fetch(target, channel.release, channel.size, store / "staging" / "new")


def test_several_channels_and_publishers(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any, clock: Any
) -> None:
    repository.add_key("packs-plant")
    for number, channel, publisher in ((1, "stable", "lab"), (2, "canary", "plant"),
                                       (3, "canary", "plant")):  # fmt: skip
        repository.publish(releases[number], shop.bundle, channel=channel, publisher=publisher)
    assert repository.prune().entries == 1 + 2  # release.json of 2, and its canaries
    clock.sleep(days=8)
    repository.prune()
    assert device().take("stable") == 1
    assert device().take("canary") == 3


def test_a_damaged_site_loses_nothing(grown: Any, tree: Any, clock: Any) -> None:
    repository, _ = grown
    clock.sleep(days=8)
    for path in (repository.site.path / "targets" / "packs" / "lab").glob("*.json"):
        path.write_bytes(b"{}")
    before = tree(repository.site.path)
    with pytest.raises(ChannelError):
        repository.prune()
    assert tree(repository.site.path) == before


def test_nothing_is_signed_that_every_device_would_refuse(
    repository: Repository, releases: dict[int, Path], shop: Any, tree: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    repository.publish(releases[1], shop.bundle, channel="stable")
    before = tree(repository.site.path)
    size = repository.site.role_file("packs-lab", 1).stat().st_size
    monkeypatch.setattr(bounds, "LARGEST_METADATA", size + 10)
    with pytest.raises(ChannelError, match=r"every device refuses it.*edgecl channel prune"):
        repository.publish(releases[2], shop.bundle, channel="stable")
    assert tree(repository.site.path) == before
    assert "channel prune" in repository.status().problems[0]
    assert repository.status().code == 3

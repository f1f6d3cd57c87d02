"""What a publication adds, what it refuses, and that it appears at once or not at all."""

import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecl_deploy.files import read_bundle, read_release, write_release
from edgecl_deploy.format import SignedBundle, digest, parse_channel
from edgecl_deploy.progress import Advance, Reporter
from edgecl_export.channel import Repository, Rollout, publish
from edgecl_export.errors import ChannelError

Tree = Callable[[Path], dict[str, bytes]]


def test_a_new_site_has_no_channel(repository: Repository, device: Any, tree: Tree) -> None:
    assert device().poll() is None
    names = {name for name in tree(repository.site.path) if not name.startswith(".")}
    assert names == {
        "metadata/1.root.json",
        "metadata/1.targets.json",
        "metadata/1.releases.json",
        "metadata/1.snapshot.json",
        "metadata/timestamp.json",
    }
    root = repository.state().root
    assert (root.roles["root"].threshold, len(root.roles["root"].keyids)) == (2, 3)
    assert root.roles["snapshot"].keyids == root.roles["timestamp"].keyids
    assert root.consistent_snapshot
    assert not repository.development
    assert repository.root_file.read_bytes() == tree(repository.site.path)["metadata/1.root.json"]


def test_private_keys_are_never_in_the_site(
    repository: Repository, releases: dict[int, Path], shop: Any, tree: Tree, tmp_path: Path
) -> None:
    repository.publish(releases[1], shop.bundle, channel="stable")
    repository.rotate("timestamp")
    for name, data in tree(repository.site.path).items():
        assert b"PRIVATE" not in data, name
        assert not name.endswith(".pem")
    pems = sorted((tmp_path / "keys").glob("*.pem"))
    assert [path.name for path in pems] == [
        "online-1.pem", "online-2.pem", "packs-lab-1.pem", "releases-1.pem", "releases-2.pem",
        "root-1.pem", "root-2.pem", "root-3.pem", "targets-1.pem", "targets-2.pem",
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in pems} == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for keys in ("site", "site/keys", "site/metadata/x"):
        with pytest.raises(ChannelError, match="Choose another --keys"):
            Repository.create(tmp_path / "site", tmp_path / keys, unencrypted=True)
        with pytest.raises(ChannelError, match="Choose another --keys"):
            Repository.open(tmp_path / "site", tmp_path / keys)
    (tmp_path / "link").symlink_to(tmp_path / "site", target_is_directory=True)
    with pytest.raises(ChannelError, match="Choose another --keys"):
        Repository.create(tmp_path / "site", tmp_path / "link" / "keys", unencrypted=True)


def test_only_new_objects_travel(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any
) -> None:
    """release.json, pack manifest, blob, two canary blobs: five objects for each further task."""
    phone = device()
    for number in (1, 2, 3):
        done = repository.publish(releases[number], shop.bundle, channel="stable", notes="tried")
        assert (done.objects, done.known) == (5, 2 * (number - 1))
        assert phone.take() == number
        assert sum("packs/lab/" in name for name in phone.fetched) == 5
        assert phone.poll().notes == "tried"
    late = device()
    assert late.take() == 3
    files = read_release(releases[3])
    assert set(late.objects) == {files.digest, *files.manifests, *files.blobs}


def test_a_bundle_stays_signed_until_another_one_is(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any, tmp_path: Path
) -> None:
    def signed(name: str) -> str | None:
        manifest = device().poll(name)
        return None if manifest.bundle is None else str(manifest.bundle.sha256)

    mine = read_bundle(shop.bundle).digest
    repository.publish(releases[1], shop.bundle, channel="stable")
    assert signed("stable") is None
    repository.publish(releases[2], shop.bundle, channel="canary", sign_bundle=True)
    assert device().poll("canary").bundle == SignedBundle("mean-colour", mine)
    repository.publish(releases[3], shop.bundle, channel="canary")
    repository.halt("canary")
    repository.resume("canary")
    assert signed("canary") == mine
    repository.promote("canary", "stable")
    assert signed("stable") == mine
    other = tmp_path / "other"
    shutil.copytree(shop.bundle, other)
    data = (other / "bundle.json").read_bytes().replace(b'"tests"', b'"later"')
    (other / "bundle.json").write_bytes(data)
    repository.publish(releases[4], other, channel="stable", sign_bundle=True)
    assert signed("stable") == digest(data) != mine
    repository.publish(shop.release(4, number=5, error=0), shop.bundle, channel="stable")
    assert signed("stable") == digest(data)


def test_a_rotten_bundle_is_not_signed(
    repository: Repository, releases: dict[int, Path], shop: Any, tmp_path: Path
) -> None:
    rotten = tmp_path / "rotten"
    shutil.copytree(shop.bundle, rotten)
    graph = next(rotten.glob("*.classify.onnx"))  # not of the form that the release is tested in
    graph.write_bytes(bytes(graph.stat().st_size))
    repository.publish(releases[1], rotten, channel="stable")
    with pytest.raises(ChannelError, match="Copy the whole directory again"):
        repository.publish(releases[2], rotten, channel="stable", sign_bundle=True)


def test_two_publishers(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any
) -> None:
    repository.add_key("packs-plant.b")
    with pytest.raises(ChannelError, match="Use --publisher"):
        repository.publish(releases[1], shop.bundle, channel="stable")
    repository.publish(releases[1], shop.bundle, channel="stable", publisher="lab")
    repository.publish(releases[2], shop.bundle, channel="line-7", publisher="plant.b")
    phone = device()
    assert (phone.take("stable"), phone.take("line-7")) == (1, 2)
    assert any(name.startswith("targets/packs/plant.b/") for name in phone.fetched)
    assert phone.poll("line-7").publisher == "plant.b"


def unsound(shop: Any) -> Path:
    pack = shop.world.pack(
        0, ("red",), tensors={"prototypes": np.array([[1.0, np.nan, 0.0]], np.float32)}
    )
    return shop.world.made(pack).write(shop.world.fresh())


def stranger(shop: Any) -> Path:
    pack, data = shop.world.pack(0, ("red",))
    made = shop.world.made((replace(pack, backbone="0" * 64), data))
    made.release = replace(made.release, backbone="0" * 64)
    return made.write(shop.world.fresh())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (unsound, "finite"),
        (stranger, "backbone"),
        (lambda shop: shop.release(1, canary=False), "--canaries 8"),
        (lambda shop: shop.release(1, error=0.5), "canaries of release 1"),
        (lambda shop: shop.world.fresh(), "must be there"),
    ],
    ids=["non-finite", "wrong-backbone", "no-canaries", "self-test", "no-release"],
)
def test_a_release_that_fails_here_is_refused(
    repository: Repository, shop: Any, tree: Tree, make: Any, words: str
) -> None:
    before = tree(repository.site.path)
    with pytest.raises(ChannelError, match=words):
        repository.publish(make(shop), shop.bundle, channel="stable")
    assert tree(repository.site.path) == before


def test_numbers_only_grow(
    repository: Repository, releases: dict[int, Path], shop: Any, tree: Tree
) -> None:
    repository.publish(releases[2], shop.bundle, channel="stable")
    before, keys = tree(repository.site.path), tree(repository.keys.folder)
    refused: list[tuple[Path, dict[str, Any], str]] = [
        (releases[1], {}, "--number 3"),
        (releases[2], {}, "edgecl channel promote --from stable"),
        (shop.release(1, number=2), {}, "--number 3"),
        (releases[3], {"min_release": 4}, "Lower --min-release"),
        (releases[3], {"purge": True}, "Give --min-release 3 with --purge"),
        (releases[3], {"channel": "Stable!"}, "Choose another name"),
        (releases[3], {"publisher": "other"}, "Use --publisher"),
        (releases[3], {"notes": "n" * 5000}, "cannot be written"),
    ]
    for release, options, words in refused:
        with pytest.raises(ChannelError, match=words):
            repository.publish(release, shop.bundle, **{"channel": "stable", **options})
        assert tree(repository.site.path) == before
        assert tree(repository.keys.folder) == keys
    for options in ({"hours": -1.0}, {"percent": 101}, {"hours": float("nan")}):
        with pytest.raises(ChannelError, match="Change --rollout-hours"):
            Rollout(**options)


def test_the_oldest_allowed_release_never_falls(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any
) -> None:
    repository.publish(releases[2], shop.bundle, channel="stable", min_release=2, purge=True)
    repository.publish(releases[3], shop.bundle, channel="stable")
    found = device().poll()
    assert (found.min_release, found.purge) == (2, True)


def test_two_objects_of_one_name_are_refused(
    repository: Repository,
    releases: dict[int, Path],
    shop: Any,
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if two digests began with the same sixteen digits."""
    before = tree(repository.site.path)
    monkeypatch.setattr(
        "edgecl_export.channel.publish.object_target",
        lambda publisher, sha256, kind: f"packs/{publisher}/{'0' * 16}.{kind}",
    )
    with pytest.raises(ChannelError, match="Export the task again"):
        repository.publish(releases[1], shop.bundle, channel="stable")
    assert tree(repository.site.path) == before


def test_a_release_that_changes_meanwhile_is_refused(
    repository: Repository, shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = shop.release(1)
    text = (release / "release.json").read_bytes()

    class Changing(publish.Classifier):  # type: ignore[misc]
        def self_test(self) -> Any:
            (release / "release.json").write_bytes(text + b" ")
            return super().self_test()

    monkeypatch.setattr(publish, "Classifier", Changing)
    with pytest.raises(ChannelError, match="when no process writes to it"):
        repository.publish(release, shop.bundle, channel="stable")


def test_a_file_of_the_site_that_was_changed_is_not_signed_again(
    repository: Repository, releases: dict[int, Path], shop: Any, tree: Tree
) -> None:
    repository.publish(releases[1], shop.bundle, channel="stable")
    site = repository.site
    cases = [
        site.timestamp,
        site.role_file("snapshot", 2),
        site.role_file("targets", 1),
        site.role_file("releases", 2),
        site.role_file("packs-lab", 1),
    ]
    for path in cases:
        good = path.read_bytes()
        path.write_bytes(good.replace(b'"spec_version":"1.0', b'"spec_version":"1.1', 1))
        before = tree(site.path)
        with pytest.raises(ChannelError, match="Restore the site from a backup"):
            repository.publish(releases[2], shop.bundle, channel="stable")
        path.unlink()
        with pytest.raises(ChannelError, match="Check --site"):
            repository.halt("stable")
        path.write_bytes(good)
        assert tree(site.path).keys() == before.keys()
    manifest = next((site.path / "targets" / "channels").iterdir())
    good = manifest.read_bytes()
    manifest.write_bytes(good.replace(b'"number":1', b'"number":9'))
    with pytest.raises(ChannelError, match="SHA-256 of its name"):
        repository.publish(releases[2], shop.bundle, channel="stable")
    manifest.write_bytes(good)
    repository.publish(releases[2], shop.bundle, channel="stable")


def test_a_lost_object_is_written_again(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any
) -> None:
    repository.publish(releases[1], shop.bundle, channel="stable")
    pack = next(iter(read_release(releases[1]).manifests))
    next(repository.site.path.glob(f"targets/packs/lab/{pack}.*")).unlink()
    repository.publish(releases[2], shop.bundle, channel="stable")
    assert device().take() == 2


def test_unknown_fields_of_release_json_arrive_byte_for_byte(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any, tmp_path: Path
) -> None:
    files = read_release(releases[1])
    write_release(tmp_path / "r", files.release, files.manifests, files.blobs)
    text = (tmp_path / "r" / "release.json").read_bytes()
    (tmp_path / "r" / "release.json").write_bytes(b'{\n"colour": "odd",' + text[1:])
    repository.publish(tmp_path / "r", shop.bundle, channel="stable")
    phone = device()
    assert phone.take() == 1
    assert any(b'"colour": "odd"' in data for data in phone.objects.values())


def test_one_publisher_at_a_time(
    repository: Repository, releases: dict[int, Path], shop: Any, device: Any
) -> None:
    """Two threads publish to two channels: one waits, none is lost, no version is used twice."""
    errors: list[BaseException] = []

    def work(channel: str) -> None:
        mine = Repository.open(repository.site.path, repository.keys.folder)
        try:
            for number in (1, 2, 3):
                mine.publish(releases[number], shop.bundle, channel=channel)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("stable", "canary")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    phone = device()
    assert (phone.take("stable"), phone.take("canary")) == (3, 3)
    assert repository.state().timestamp.signed.version == 1 + 6


def test_a_busy_site_refuses_in_the_end(
    repository: Repository, releases: dict[int, Path], shop: Any
) -> None:
    other = Repository.open(repository.site.path, repository.keys.folder)
    other.wait = 0.05
    with repository.change(), pytest.raises(ChannelError, match="Try again when it has ended"):
        other.halt("stable")


def test_a_system_without_locks_is_refused(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl_deploy.manifest.lock.fcntl", None)
    with pytest.raises(ChannelError, match="Use Linux or macOS"):
        repository.refresh()


def test_folders_in_use_or_missing_are_refused(tmp_path: Path, repository: Repository) -> None:
    site, keys = tmp_path / "site", tmp_path / "keys"
    with pytest.raises(ChannelError, match="a repository is made once"):
        Repository.create(site, tmp_path / "other", unencrypted=True)
    with pytest.raises(ChannelError, match="a repository is made once"):
        Repository.create(tmp_path / "other", keys, unencrypted=True)
    with pytest.raises(ChannelError, match="EDGECL_KEY_PASSPHRASE"):
        Repository.create(tmp_path / "other", tmp_path / "other-keys")
    with pytest.raises(ChannelError, match="Choose another name"):
        Repository.create(tmp_path / "other", tmp_path / "k", publisher="Lab", unencrypted=True)
    with pytest.raises(ChannelError, match="Check --keys"):
        Repository.open(site, tmp_path / "nothing")
    with pytest.raises(ChannelError, match="Check --site"):
        Repository.open(tmp_path / "nothing", keys)
    assert not (tmp_path / "other").exists()
    (keys / "keys.json").write_text("{}")
    with pytest.raises(ChannelError, match="Restore it from a backup"):
        Repository.open(site, keys)
    (keys / "keys.json").write_text('{"format": "edgecl-keys/9", "keys": {}, "encrypted": false}')
    with pytest.raises(ChannelError, match="Use a newer edgecl"):
        Repository.open(site, keys)
    (site / "keys.json").write_text("{}")
    with pytest.raises(ChannelError, match="Move the keys away"):
        Repository.open(site, keys)


def test_development_is_marked_in_the_root(tmp_path: Path) -> None:
    site = tmp_path / "dev"
    made = Repository.create(site, tmp_path / "dev-keys", development=True)
    root = made.state().root
    assert root.unrecognized_fields == {"x-edgecl-development": True}
    assert (root.roles["root"].threshold, len(root.roles["root"].keyids)) == (1, 1)
    made.rotate("root")
    again = Repository.open(site, tmp_path / "dev-keys")
    assert again.development
    assert again.status().development
    assert again.state().root.unrecognized_fields == {"x-edgecl-development": True}


def test_manifests_are_whole_documents(
    repository: Repository, releases: dict[int, Path], shop: Any
) -> None:
    done = repository.publish(
        releases[1], shop.bundle, channel="stable", rollout=Rollout(hours=2, percent=50, start=1000)
    )
    (path,) = (repository.site.path / "targets" / "channels").iterdir()
    assert parse_channel(path.read_bytes()) == done.channel
    assert done.channel.rollout is not None
    assert (done.channel.rollout.start, done.channel.rollout.duration) == (1000, 7200)
    assert os.access(path, os.R_OK)


def test_only_long_publications_show_progress(
    repository: Repository, shop: Any, releases: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tuple[str, int]] = []

    class Bars(Reporter):
        @contextmanager
        def bar(self, title: str, total: int) -> Iterator[Advance]:
            bars.append((title, total))
            with super().bar(title, total) as advance:
                yield advance

    repository.reporter = Bars()
    repository.publish(releases[1], shop.bundle, channel="stable")
    assert bars == []
    monkeypatch.setattr("edgecl_export.channel.draft.LONG", 1000)
    repository.publish(releases[2], shop.bundle, channel="stable")
    assert bars == [("objects", 8)]

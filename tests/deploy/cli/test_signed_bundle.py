"""A bundle that the channel has signed: no other one is taken on the first day, nor later."""

import shutil
from dataclasses import replace

import pytest
from tests.deploy.support.tuf_repository import PACKS

from edgecl_deploy.errors import ManifestError
from edgecl_deploy.files import read_bundle
from edgecl_deploy.format import (
    Channel,
    FileRef,
    SignedBundle,
    digest,
    parse_bundle,
    parse_channel,
)
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.outcome import Outcome


@pytest.fixture
def signed(fleet):
    """A channel that has signed the bundle of the world."""
    fleet.publish(1, bundle=of(fleet.world.bundle_path))
    return fleet


def of(path):
    return SignedBundle("mean-colour", read_bundle(path).digest)


def exchanged(fleet):
    """A bundle with other weights whose digests were all fitted to them."""
    path = fleet.world.root / "exchanged"
    shutil.copytree(fleet.world.bundle_path, path)
    bundle = parse_bundle((path / "bundle.json").read_bytes())
    weights = bytes(len((path / "weights.bin").read_bytes()))
    (path / "weights.bin").write_bytes(weights)
    bundle = replace(bundle, weights=FileRef("weights.bin", digest(weights), len(weights)))
    (path / "bundle.json").write_bytes(bundle.to_bytes())
    return path


def refused(result, action):
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert action in result.stderr


def test_the_signed_bundle_is_taken(signed):
    signed.init("--signed-bundle")
    assert signed.update().exit_code == 0


def test_an_exchanged_bundle_is_refused_and_nothing_is_made(signed):
    other = exchanged(signed)
    result = signed.run("init", *signed.words("--signed-bundle", bundle=other))
    refused(result, "Install the publisher's bundle; if this is a new one")
    assert str(other) in result.stderr
    assert of(signed.world.bundle_path).sha256 in result.stderr
    assert not signed.path.exists()
    signed.init(bundle=other)  # who does not ask is not told: the way is trusted


def test_what_was_compared_is_what_is_pinned(signed, monkeypatch):
    other, create = exchanged(signed), Store.create

    def late(path, config, *rest):
        shutil.rmtree(signed.world.bundle_path)
        other.rename(signed.world.bundle_path)
        return create(path, config, *rest)

    monkeypatch.setattr(Store, "create", late)
    signed.init("--signed-bundle")
    result = signed.update()
    assert result.exit_code == Outcome.FAILED.value
    assert "the one that this device was set up with" in result.stderr


def test_a_signed_bundle_with_a_rotten_file_is_refused(signed):
    weights = signed.world.bundle_path / "weights.bin"
    weights.write_bytes(bytes(weights.stat().st_size))
    refused(signed.run("init", *signed.words("--signed-bundle")), "Copy the whole directory again")
    assert not signed.path.exists()


def test_a_channel_that_signs_none_is_as_before(fleet):
    fleet.publish(1)
    result = fleet.run("init", *fleet.words("--signed-bundle"))
    refused(result, "edgecl channel publish --sign-bundle")
    fleet.init()
    assert fleet.update().exit_code == 0


def test_without_the_channel_nothing_is_made(signed):
    words = signed.words("--signed-bundle", channel=signed.world.root / "nowhere")
    assert signed.run("init", *words).exit_code == 1
    assert not signed.path.exists()


def test_a_manifest_that_another_role_signed_does_not_count(signed):
    other = exchanged(signed)
    signed.repo.signed("releases").targets.clear()
    signed.repo.publish("releases")
    signed.repo.add_channel(role=PACKS, bundle=of(other))  # a publisher's key is not enough
    signed.repo.publish(PACKS)
    result = signed.run("init", *signed.words("--signed-bundle", bundle=other))
    refused(result, "that it was published")


def test_a_new_bundle_of_a_store_can_be_checked(signed):
    signed.init("--signed-bundle")
    other = exchanged(signed)
    change = ("config", f"bundle={other}", "--signed-bundle")
    refused(signed.run(*change), "Install the publisher's bundle")
    assert signed.ok("config")["bundle"] == str(signed.world.bundle_path)
    assert signed.ok("config", "--signed-bundle")["bundle"] == str(signed.world.bundle_path)
    assert [each["event"] for each in signed.ok("history")] == ["init"]
    signed.publish(2, bundle=of(other))
    assert signed.ok(*change)["bundle"] == str(other)


def test_a_device_with_another_bundle_goes_on(device_1):
    device_1.publish(2, bundle=SignedBundle("a later one", "0" * 64))
    assert device_1.update().exit_code == 0
    assert device_1.release == 2


def test_the_manifest_of_a_channel_holds_it():
    plain = Channel("stable", 1, "a" * 64, 7, "lab", "b" * 64, 0)
    assert b"bundle" not in plain.to_bytes()
    channel = replace(plain, bundle=SignedBundle("vit-s14", "c" * 64))
    assert parse_channel(channel.to_bytes()) == channel
    for wrong in (b'"name":7', b'"sha256":"c"', b'"name":"vit-s14"'):
        data = channel.to_bytes().replace(b'"name":"vit-s14","sha256":"' + b"c" * 64 + b'"', wrong)
        with pytest.raises(ManifestError):
            parse_channel(data)

"""A publisher, its server, and one device that is used by commands."""

import json
import sys
import time

import numpy as np
from click.testing import CliRunner
from PIL import Image
from tests.deploy.support.sources import make_release
from tests.deploy.support.tuf_repository import PACKS, TufRepository

from edgecl_deploy.cli import device
from edgecl_deploy.format import digest
from edgecl_deploy.store.store import Store

DAY = 86400.0
ATTENTION = 3
COMMAND = [sys.executable, "-c", "from edgecl_deploy.cli import main; main()"]


class Fleet:
    """A publisher, its server, and one device."""

    def __init__(self, world, server, development=False):
        self.world, self.server = world, server
        self.repo = TufRepository(world.root / "site", development)
        server.folder = self.repo.folder
        (world.root / "root.json").write_bytes(self.repo.root)
        self.path = world.root / "store"

    def run(self, command, *arguments):
        line = [command, str(self.path), *map(str, arguments)]
        return CliRunner().invoke(device, line, catch_exceptions=False)

    def ok(self, command, *arguments, status=0):
        """The JSON of a command that ends with this status."""
        result = self.run(command, *arguments, "--json")
        assert result.exit_code == status, result.output
        assert result.stderr == ""
        return json.loads(result.stdout)

    def words(self, *options, **changes):
        given = {
            "bundle": self.world.bundle_path,
            "root": self.world.root / "root.json",
            "channel": self.server.url,
            "device-id": "device-1",
            "trial-seconds": 0,
            **changes,
        }
        words = [word for key, value in given.items() for word in (f"--{key}", value)]
        return [*words, *options]

    def init(self, *options, status=0, **changes):
        return self.ok("init", *self.words(*options, **changes), status=status)

    def publish(self, number, made=None, **fields):
        made = made or make_release(self.world, number)
        data = made.release.to_bytes()
        for manifest in (data, *made.manifests.values()):
            self.repo.add_object(manifest, "json")
        for blob in made.blobs.values():
            self.repo.add_object(blob)
        own = {
            "number": number,
            "release": digest(data),
            "size": len(data),
            "backbone": made.release.backbone,
        }
        self.repo.add_channel(**{**own, **fields})
        self.repo.publish("targets", "releases", PACKS)
        return made

    def update(self, *arguments):
        return self.run("update", *arguments)

    def takes(self, *numbers):
        for number in numbers:
            self.publish(number)
            assert self.update().exit_code == 0

    @property
    def store(self):
        return Store.open(self.path)

    @property
    def release(self):
        generation = self.store.serving()
        return None if generation is None else generation.release

    def limit(self, **changes):
        words = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
        self.ok("config", *words)


def expired(fleet, patch):
    fleet.repo.expire("timestamp")
    fleet.repo.publish()


def black(fleet):
    path = fleet.world.root / "black.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return path


def wait_for(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)

"""What the tests of an update share: looks at a store, changes of its settings."""

from dataclasses import replace
from pathlib import Path

from edgecl_deploy.files import read_bundle

ROOT = Path(__file__).parents[3]
YEAR = 365 * 86400.0


class Killed(BaseException):
    """The process ends here: nothing of ours runs any more."""


def serves(store):
    number, files = store.read_current()  # every byte is verified
    assert store.generation(number).release == files.release.number
    return files.release.number


def configure(store, **changes):
    with store.lock():
        store.configure(replace(store.config, **changes))


def repin(store):
    """Take the bundle that is there now, as an operator does after a firmware update."""
    configure(store, bundle_digest=read_bundle(store.config.bundle).digest)


def limit(store, **changes):
    configure(store, limits=replace(store.config.limits, **changes))

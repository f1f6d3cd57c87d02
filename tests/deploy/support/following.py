"""What the tests of a classifier that follows a store share."""

import time
from dataclasses import replace

from tests.deploy.support.sources import (
    passes,
)
from tests.deploy.support.world import COLOURS, picture

from edgecl_deploy.store.records import Limits
from edgecl_deploy.update.machine import update

TRIAL = Limits(trial_seconds=4.0)
NAMES = list(COLOURS)
PICTURES = [picture(name) for name in NAMES[:2]]
ROLLED_BACK = 5.0  # seconds from the start of an update of which the trial fails


def until(holds, seconds=20.0):  # a loaded machine; mostly well under a second
    """Wait; return whether it holds in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def take(store, source, made, **options):
    source.publish(made)
    return update(store, source, test=passes, **options)


def limit(store, limits):
    with store.lock():
        store.configure(replace(store.config, limits=limits))


def labels(classifier):
    return [each.label for each in classifier.predict(PICTURES)]


def point(store, number):
    with store.lock():
        store.switch(number)

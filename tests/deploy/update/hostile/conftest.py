"""A device that is offered hostile releases."""

import pytest
from tests.deploy.support.hostile import SOON, Device

from edgecl_deploy.store.records import Limits


@pytest.fixture
def device(world, tmp_path):
    own = Device(world, tmp_path, Limits(trial_seconds=0, pretest_seconds=SOON, untested=True))
    yield own
    own.classifier.close()

"""No signed length makes a device take more metadata than its role may have."""

import time
import tracemalloc

import pytest
from tests.deploy.support.fault_server import Fault
from tests.deploy.support.tuf_repository import PACKS

from edgecl_deploy.errors import OfflineError, UntrustedError
from edgecl_deploy.update import trust as trust_module

HUGE = 10**12


@pytest.mark.parametrize(
    ("role", "most"),
    [("snapshot", 64_000), ("targets", 1_000_000), ("releases", 1_000_000), (PACKS, 1_000_000)],
)
def test_a_length_of_a_terabyte_is_refused_before_a_byte_comes(world, role, most):
    world.poll()
    if role == "snapshot":
        world.repo.signed("timestamp").snapshot_meta.length = HUGE
        world.repo.publish()
    else:
        world.repo.signed("snapshot").meta[f"{role}.json"].length = HUGE
        world.repo.publish(role)
    name = world.repo.file(role).name
    world.server.faults[name] = Fault(content=bytes(100_000), endless=True)
    moved = {"snapshot": ("timestamp",), "targets": ("timestamp", "snapshot")}.get(
        role, ("timestamp", "snapshot")
    )
    tracemalloc.start()
    try:
        world.refuses(UntrustedError, f"{name} may have {most} bytes, {HUGE} are signed", moved)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
    assert f"/metadata/{name}" not in world.server.asked


def test_a_role_without_a_length_ends_at_its_limit(world):
    world.poll()
    world.repo.publish("releases")
    name = world.repo.file("releases").name
    world.server.faults[name] = Fault(content=bytes(100_000), endless=True)
    world.refuses(UntrustedError, "is longer than 1000000 bytes", ("timestamp", "snapshot"))


def test_many_roots_together_have_a_deadline(world, monkeypatch):
    """Each of 256 roots may come slowly; the lock of the store is not held for hours."""
    world.poll()
    for _ in range(40):
        world.repo.rotate("root")
    world.repo.publish()
    monkeypatch.setattr(trust_module, "_REFRESH", 0.5)
    world.server.faults["root.json"] = Fault(piece=200, pause=0.01)
    trust = world.trust()
    begin = time.monotonic()
    with pytest.raises(OfflineError, match="goes on where this one ended"):
        trust.refresh()
    assert time.monotonic() - begin < 2.5
    reached = world.versions()["root"]
    assert 1 < reached < 41
    world.server.reset()
    world.poll()
    assert world.versions()["root"] == 41

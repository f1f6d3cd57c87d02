"""Every bit of every document of a store and of its generations; a sample of each object."""

import pytest
from tests.deploy.support.rot import Rot
from tests.deploy.support.sources import fast_folder
from tests.deploy.support.store_checks import tell

MENDED = 97  # one flipped bit in so many is mended too, and an update made after it


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_bit_of_every_document(world):
    with fast_folder() as folder:
        rot, count, mended = Rot(world, folder / "rot"), 0, 0
        for name in rot.documents():
            path = rot.fresh()
            for bit in rot.bits(name):
                rot.look(path, name, bit)
                count += 1
            for bit in rot.bits(name)[::MENDED]:
                rot.judge(name, bit)
                mended += 1
        documents = len(rot.documents())
    tell(f"{count} bits of {documents} documents: all found, none allowed more")
    tell(f"{mended} of them were mended, and an update made after it")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sample_of_every_object(world):
    with fast_folder() as folder:
        rot, count = Rot(world, folder / "rot"), 0
        for name in rot.objects():
            for bit in rot.bits(name, 64):
                rot.judge(name, bit)
                count += 1
        objects = len(rot.objects())
    tell(f"{count} bits of {objects} objects: all found, none served")

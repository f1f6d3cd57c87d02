"""The fixtures of all tests of the device."""

from tests.deploy.support.world import colour_picture, fake_engine, world

__all__ = ["colour_picture", "fake_engine", "world"]

"""The fixtures of the drills."""

from tests.deploy.support.world import world

__all__ = ["world"]

"""Stand-ins for what only a machine with a GPU has."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy.engines.fakes import Fakes, nvidia_packages


@pytest.fixture
def nvidia(tmp_path: Path) -> Iterator[Fakes]:
    """Let the engines of NVIDIA find fakes."""
    with nvidia_packages(tmp_path / "nvidia") as found:
        yield found

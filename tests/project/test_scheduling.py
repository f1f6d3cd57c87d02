"""How tests are shared out over workers."""

import re
from pathlib import Path

from tests.conftest import TOGETHER

ROOT = Path(__file__).parents[2]
COSTLY = {"tests/export": r"\b(world|programs|bundle): ", "tests/e2e": r"\b(site|programs): "}


def test_every_file_that_needs_all_programs_is_on_the_worker_that_has_them() -> None:
    """Else another worker exports all methods again, which takes minutes."""
    needing = {
        str(path.relative_to(ROOT))
        for folder, fixture in COSTLY.items()
        for path in (ROOT / folder).glob("test_*.py")
        if re.search(rf"def test_\w+\([^)]*{fixture}", path.read_text())
    }
    assert needing
    assert needing <= set(TOGETHER)
    assert all((ROOT / name).is_file() for name in TOGETHER)

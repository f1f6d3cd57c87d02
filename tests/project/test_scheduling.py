"""How tests are shared out over workers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests import conftest

ROOT = Path(__file__).parents[2]


def test_every_file_on_the_worker_that_has_all_programs_is_there() -> None:
    assert all((ROOT / name).is_file() for name in conftest.TOGETHER)


def test_a_file_that_needs_them_by_another_fixture_is_refused() -> None:
    """Else another worker exports all methods again, which takes minutes."""

    def item(name: str, *fixtures: str) -> Any:
        return SimpleNamespace(nodeid=name, fixturenames=fixtures)

    fine = [item("tests/export/test_pack.py::test_it", "world", "programs"), item("a.py::test_it")]
    conftest.pytest_collection_modifyitems(fine)
    with pytest.raises(pytest.UsageError, match=r"b.py::test_it needs the programs"):
        conftest.pytest_collection_modifyitems([*fine, item("b.py::test_it", "case", "programs")])

"""The guide to a fleet shows all command groups and explains every exit status."""

import re
from pathlib import Path

from edgecl_deploy.update.outcome import Outcome

TEXT = (Path(__file__).parents[2] / "docs" / "operate.md").read_text(encoding="utf-8")


def test_the_text_shows_all_groups():
    for group in ("edgecl-device", "edgecl channel", "edgecl export"):
        assert re.search(rf"^[^`]*\b{group} ", TEXT, re.MULTILINE), group


def test_every_exit_status_is_explained():
    rows = "\n".join(line for line in TEXT.splitlines() if line.startswith("|"))
    for outcome in Outcome:
        assert re.search(rf"\b{outcome.value}\b", rows), outcome
        assert outcome is Outcome.UPDATED or outcome.word in rows, outcome

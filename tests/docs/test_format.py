"""The page of the formats names every event of a store's log."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_event_of_the_log_is_named():
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    named = re.search(r"\*\*The log\.\*\*.*?\n\n", text, re.DOTALL)
    assert named is not None
    code = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "deploy/edgecl_deploy").rglob("*.py")
    )
    events = re.findall(r"\blog\.write\(\s*\"([^\"]+)\"", code)
    assert len(events) == len(re.findall(r"\blog\.write\(", code)) > 0
    assert {event for event in events if f"`{event}`" not in named[0]} == set()

"""Which files of a room run during a call."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

MOST = 5  # files of a room that one walk may enter


def entered(root: Path, call: Callable[[], Any]) -> set[str]:
    """Return the files under a folder whose functions run during a call."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and Path(frame.f_code.co_filename).is_relative_to(root):
            files.add(Path(frame.f_code.co_filename).name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return files

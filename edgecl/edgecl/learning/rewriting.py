"""Replacing finished tasks of a run: a reader finds all of the old ones or all of the new ones.

RUN/.rewritten/000/       a task as it is from now on
RUN/.rewritten/001.gone   a task that is no longer there, the newest of the run
RUN/.rewritten/root/      files of the run itself
RUN/.rewritten/gone.json  names of those that go

A kill before `.rewritten` has its name leaves the old run. From then on what is in it counts, for
readers too, and the next command that changes the run puts it in its place.
"""

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from edgecl_deploy.manifest.whole import TEMPORARY, sync, whole_folder, write_whole

NAME = ".rewritten"
GONE = ".gone"
LEFT = f"{TEMPORARY}rewritten-"
Change: TypeAlias = Mapping[str, bytes | None]  # files by name; None: the file goes


def begun(run: Path) -> bool:
    """Return whether tasks were replaced that are not in their place yet."""
    return (run / NAME).exists()


def folder_of(run: Path, task: str) -> Path:
    """Return the folder of a task that counts; it need not be there."""
    new = run / NAME / task
    changed = new.exists() or new.with_suffix(GONE).exists()
    return new if changed else run / "tasks" / task


def file_of(run: Path, name: str) -> Path:
    """Return the file of the run itself that counts; it need not be there."""
    new = run / NAME / "root" / name
    if new.exists() or (begun(run) and name in _gone(run / NAME)):
        return new
    return run / name


def _gone(folder: Path) -> list[str]:
    """Return the names of the files that go; none where another process put all in its place."""
    try:
        found: list[str] = json.loads((folder / "gone.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return found


def begin(run: Path, tasks: Mapping[Path, Change | None], root: Mapping[str, bytes | None]) -> None:
    """Write what replaces tasks; when this ends, the new ones count.

    Args:
        tasks: by the folders that they have, their files that change; None for one that goes.
        root: files of the run itself.
    """
    with whole_folder(run / NAME) as folder:
        for old, files in tasks.items():
            new = folder / old.name
            if files is None:
                new.with_suffix(GONE).touch()
                continue
            shutil.copytree(old, new, ignore=shutil.ignore_patterns(*files))
            _write(new, files)
        (folder / "root").mkdir()
        _write(folder / "root", root)
        gone = [name for name, data in root.items() if data is None]
        (folder / "gone.json").write_text(json.dumps(gone), encoding="utf-8")


def _write(folder: Path, files: Change) -> None:
    for name, data in files.items():
        if data is not None:
            (folder / name).write_bytes(data)


def finish(run: Path) -> None:
    """Put what was written in the place of what it replaces; what was put there stays there."""
    folder, tasks = run / NAME, run / "tasks"
    for new in sorted(folder.glob("[0-9]*")):
        old = tasks / new.stem
        if old.exists():
            old.rename(tasks / f"{LEFT}{secrets.token_hex(8)}")
        if new.suffix != GONE:
            new.rename(old)
    sync(tasks)
    for name in _gone(folder):
        (run / name).unlink(missing_ok=True)
    for file in sorted((folder / "root").iterdir()):
        write_whole(run / file.name, file.read_bytes())
    done = run / f"{LEFT}{secrets.token_hex(8)}"
    folder.rename(done)
    sync(run)
    for left in (done, *tasks.glob(f"{LEFT}*")):
        shutil.rmtree(left)

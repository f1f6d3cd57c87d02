"""How our processes start others: whatever runs there never comes from the working directory."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

_SECRETS = {
    "EDGECL_NETRC",
    "CREDENTIALS_DIRECTORY",
    "EDGECL_KEY_PASSPHRASE",
    "EDGECL_NEW_KEY_PASSPHRASE",
}
_RUN = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def python_module(module: str, *arguments: str) -> list[str]:
    """Return a command that runs one of our modules in an interpreter of its own.

    Isolated (`-I`), it takes neither the working directory nor `PYTHON*` variables; it then gets
    the folders that this process imports from, so that both run the same code.

    Args:
        module: Its full name.
        arguments: What it finds in `sys.argv[1:]`.
    """
    return [sys.executable, "-I", "-c", _RUN, json.dumps(_import_folders()), module, *arguments]


def _import_folders() -> list[str]:
    """Return `sys.path` without the working directory, unless we are installed there."""
    here, ours = os.getcwd(), Path(__file__).parents[1]
    return [
        folder
        for folder in sys.path
        if os.path.isabs(folder)
        and (os.path.realpath(folder) != here or os.path.realpath(ours) == here)
    ]


def environment() -> dict[str, str]:
    """Return the environment of a process that needs no network: without what opens sites."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and name not in _SECRETS
    }


def program(name: str) -> str | None:
    """Return the absolute path of a program; None if there is none.

    Args:
        name: An absolute path, or a name that is looked up in the absolute folders of `PATH`.
    """
    if os.path.isabs(name):
        return name
    if os.path.dirname(name):
        return None
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return shutil.which(name, path=os.pathsep.join(filter(os.path.isabs, folders)))


@contextmanager
def talking(module: str, asked: str) -> "Iterator[subprocess.Popen[str]]":
    """Start one of our modules as a process that is asked in lines; it ends with the block.

    Args:
        module: Its full name.
        asked: What it finds in `sys.argv[1]`.
    """
    import subprocess

    with subprocess.Popen(  # noqa: S603  our own interpreter, our own module
        python_module(module, asked),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def answer_of(process: "subprocess.Popen[str]", line: str | None = None) -> dict[str, Any]:
    """Return the next answer; a library may print between them.

    Args:
        process: It answers in JSON objects, one per line.
        line: What it is asked before.

    Returns:
        The answer; if the process ended instead, that as an `error`.
    """
    assert process.stdin is not None  # noqa: S101  pipes were asked for
    assert process.stdout is not None  # noqa: S101
    if line is not None:
        with suppress(BrokenPipeError):
            print(line, file=process.stdin, flush=True)
    for answer in process.stdout:
        with suppress(ValueError):
            found = json.loads(answer)
            if isinstance(found, dict):
                return found
    return {"error": f"it ended with status {process.wait()}"}

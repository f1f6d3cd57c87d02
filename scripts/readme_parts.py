"""The parts of README.md that the tests and `make dist` execute."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def part(name: str) -> str:
    """Return the commands between <!-- NAME --> and <!-- /NAME -->.

    Raises:
        ValueError: if there is not exactly one such part.
    """
    block = re.compile(rf"<!-- {name} -->\s*```\w*\n(.*?)```\s*<!-- /{name} -->", re.DOTALL)
    found = block.findall(README.read_text(encoding="utf-8"))
    if len(found) != 1:
        raise ValueError(
            f"README.md must have one block of commands between <!-- {name} --> and "
            f"<!-- /{name} -->, found {len(found)}. Put the markers around it."
        )
    return str(found[0])


def run(
    script: str, folder: Path, python: Path = Path(sys.executable), *, seconds: float = 580
) -> str:
    """Run commands in a folder with the programs of a Python environment; return what they print.

    Args:
        python: the environment's interpreter.
        seconds: that they may take.

    Raises:
        RuntimeError: if a command fails or shows a traceback.
    """
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode or "Traceback" in done.stderr:
        raise RuntimeError(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout

"""Every `--help` is light: what it may import, how many modules, how long it takes."""

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

HEAVY = {
    "torch", "torchvision", "timm", "open_clip", "onnx", "onnx_ir", "onnxscript", "onnxruntime",
    "sklearn", "scipy", "matplotlib", "tuf", "securesystemslib", "cryptography", "urllib3",
}  # fmt: skip
WORKSTATION = ("channel", "data", "export", "learn", "methods", "streams", "train", "weights")
MOST_SECONDS = 5.0  # a loaded machine; 0.1 to 0.4 s of a processor

# Prints the names of all commands under GROUP and the modules that their help has loaded.
WALK = """
import json, sys
import click
from edgecl_deploy.commands import edgecl

def walk(command, context, name):
    helps = [name] if command.get_help(context) else []
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            if name != "edgecl" or each in sys.argv[1:]:
                inner = command.get_command(context, each)
                under = type(context)(inner, parent=context, info_name=each)
                helps += walk(inner, under, f"{name} {each}")
    return helps

names = walk(edgecl, edgecl.context_class(edgecl, info_name="edgecl"), "edgecl")
print(json.dumps({"names": names, "modules": sorted(sys.modules)}))
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    return done.stdout


def test_no_help_loads_what_is_heavy() -> None:
    """One interpreter for all of them: what the help of one command loads, all have loaded."""
    found: Any = json.loads(run(WALK, *WORKSTATION))
    names, loaded = found["names"], {name.partition(".")[0] for name in found["modules"]}
    assert len(names) > 25
    assert {"edgecl train", "edgecl export verify", "edgecl channel key rotate"} <= set(names)
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    ("command", "most"),
    [((), 480), (("train",), 480), (("export",), 300), (("channel",), 300), (("device",), 300)],
)
def test_a_help_loads_few_modules_and_is_quick(
    command: tuple[str, ...], most: int, record_property: Any
) -> None:
    """The learner's commands import numpy and pillow: the streams declare their options."""
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules));"
        "from edgecl_deploy.commands import main; main()"
    )
    begin = time.perf_counter()
    *lines, loaded = run(code, *command, "--help").splitlines()
    seconds = time.perf_counter() - begin
    modules = set(loaded.split())
    record_property("seconds", seconds)
    record_property("modules", len(modules))
    assert any("Usage: edgecl" in line for line in lines)
    assert len(modules) <= most
    assert most > 300 or not modules & {"numpy", "PIL"}
    assert seconds < MOST_SECONDS

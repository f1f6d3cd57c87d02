"""What the device carries: no torch, no engine until it is asked for, a small closure."""

import importlib.metadata
import os
import re
import subprocess
import sys
import time

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from edgecl_deploy.engines import make_engine
from edgecl_deploy.engines._onnxruntime import usable_cores
from edgecl_deploy.errors import EngineMissingError

ALLOWED = {
    "edgecl-deploy", "click", "numpy", "onnxruntime", "pillow", "safetensors",
    # of onnxruntime
    "flatbuffers", "packaging", "protobuf",
    # of the update
    "cffi", "cryptography", "pycparser", "securesystemslib", "tuf", "urllib3",
}  # fmt: skip
if sys.version_info < (3, 11):  # the last onnxruntime for it logs in colour, and needs sympy
    ALLOWED |= {"coloredlogs", "humanfriendly", "mpmath", "sympy"}
UPDATE = ["tuf", "securesystemslib", "urllib3", "cryptography"]
MOST_MB = 260
MOST_SECONDS = 5.0  # a loaded machine; about 0.2 s on an idle one


def loaded_modules(statement):
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in result.stdout.split()}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import edgecl_deploy", ["click", "onnxruntime", "fcntl", *UPDATE]),
        ("import edgecl_deploy.cli", ["onnxruntime", "fcntl", *UPDATE]),
        ("import edgecl_deploy.text", ["onnxruntime", "click", "regex", "ftfy", *UPDATE]),
        ("import edgecl_deploy.format", ["onnxruntime", "click", *UPDATE]),
        ("import edgecl_deploy.store.store", ["onnxruntime", "click", *UPDATE]),
        ("import edgecl_deploy.follow", ["onnxruntime", "click", *UPDATE]),
        ("import edgecl_deploy.update.operate", ["onnxruntime", "click", *UPDATE]),
        ("import edgecl_deploy.update.trust", ["onnxruntime", "click"]),
    ],
)
def test_a_fresh_interpreter_loads_only_what_it_needs(statement, absent):
    modules = loaded_modules(statement)
    assert "edgecl_deploy" in modules
    assert not modules & {"torch", "edgecl", "edgecl_export", "onnx", "timm", *absent}


def test_a_missing_engine_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineMissingError, match=r"pip install 'edgecl-deploy\[cpu\]'"):
        make_engine("onnxruntime")


def closure(name, extras):
    found, seen, queue = {}, set(), [(name, "")] + [(name, extra) for extra in extras]
    while queue:
        current, extra = queue.pop()
        key = re.sub(r"[-_.]+", "-", current).lower()
        if (key, extra) in seen:
            continue
        seen.add((key, extra))
        found[key] = importlib.metadata.distribution(current)
        for line in found[key].requires or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or marker.evaluate({**default_environment(), "extra": extra}):
                queue += [(requirement.name, each) for each in ("", *requirement.extras)]
    return found


def size_of(distribution):
    paths = {os.path.realpath(file.locate()) for file in distribution.files or []}
    kept = [path for path in paths if not path.endswith(".pyc") and os.path.isfile(path)]
    return sum(os.path.getsize(path) for path in kept)


def test_the_installed_closure_stays_small(record_property):
    found = closure("edgecl-deploy", {"cpu"})
    assert "onnxruntime" in found
    assert set(found) <= ALLOWED
    megabytes = {name: size_of(each) / 1e6 for name, each in found.items()}
    record_property("megabytes", {name: round(size, 1) for name, size in megabytes.items()})
    assert sum(megabytes.values()) < MOST_MB


def test_importing_is_quick(record_property):
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import edgecl_deploy"], check=True)
    seconds = time.perf_counter() - begin
    record_property("import_seconds", seconds)
    assert seconds < MOST_SECONDS


def test_an_engine_uses_the_cores_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert usable_cores() == 1

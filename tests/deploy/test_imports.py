"""What the device installs and imports: no torch, no engine before it is needed, few packages."""

import importlib.metadata
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from tests.deploy.support.sources import make_release, make_store

import edgecl_deploy
from edgecl_deploy import engines
from edgecl_deploy.cli import device
from edgecl_deploy.engines import make_engine
from edgecl_deploy.engines.processor import usable_cores
from edgecl_deploy.errors import EngineMissingError

ALLOWED = {
    "edgecl-deploy", "click", "numpy", "pillow", "safetensors",
    # of onnxruntime; openvino needs none of them
    "flatbuffers", "packaging", "protobuf",
    # of the update
    "cffi", "cryptography", "pycparser", "securesystemslib", "tuf", "urllib3",
}  # fmt: skip
if sys.version_info < (3, 11):  # the last onnxruntime for it logs in colour, and needs sympy
    ALLOWED |= {"coloredlogs", "humanfriendly", "mpmath", "sympy"}
SERVER = {"anyio", "h11", "idna", "prometheus-client", "starlette", "typing-extensions", "uvicorn"}
MOST_WITH_SERVER = 24  # packages
NEVER = [
    "torch",
    "edgecl",
    "edgecl_export",
    "onnx",
    "timm",
    "starlette",
    "uvicorn",
    "anyio",
    "prometheus_client",
]
UPDATE = ["tuf", "securesystemslib", "urllib3", "cryptography"]
ENGINES = ["onnxruntime", "tensorrt", "openvino"]
IMAGES = ["numpy", "safetensors", "PIL"]
MOST_MB = {"cpu": 260, "openvino": 330}
ENGINE_ONLY = {"cpu": {"onnxruntime"}, "openvino": {"openvino", "openvino-telemetry"}}
OWN_MB = 1.65  # of this package without the server: 0.65 before devices took classes, and 1 more
IMPORT_OWN = 0.25  # seconds of processor time: 0.03 s on two cores
IMPORT = 2.0  # seconds of processor time to import openvino: 0.4 s on two cores
START = 0.5  # seconds of processor time: 0.08 s for a help on two cores, 0.2 s for Classifier
COMMANDS = sorted(device.commands)
END = "--- modules:"
LOOKS = ["config", "history", "status", "gc"]  # they need no channel; fsck reads its signatures


def loaded_modules(statement):
    code = f"import sys; {statement}; print('{END}', *sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    names = result.stdout.split(END)[-1].split()  # after what the statement printed
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import edgecl_deploy", ["click", "fcntl", *ENGINES, *IMAGES, *UPDATE]),
        ("import edgecl_deploy.manifest.whole", ["click", "fcntl", *ENGINES, *IMAGES, *UPDATE]),
        ("import edgecl_deploy.manifest.fields", ["click", "fcntl", *ENGINES, *IMAGES, *UPDATE]),
        ("import edgecl_deploy.cli", ["fcntl", *ENGINES, *IMAGES, *UPDATE]),
        ("import edgecl_deploy.commands", ["fcntl", *ENGINES, *IMAGES, *UPDATE]),
        ("from edgecl_deploy import Classifier", ["click", "fcntl", *ENGINES, *UPDATE]),
        ("import edgecl_deploy.text", ["click", "regex", "ftfy", *ENGINES, *UPDATE]),
        ("import edgecl_deploy.format", ["click", "PIL", *ENGINES, *UPDATE]),
        ("import edgecl_deploy.store.store", ["click", "PIL", *ENGINES, *UPDATE]),
        ("import edgecl_deploy.follow", ["click", *ENGINES, *UPDATE]),
        ("import edgecl_deploy.update.operate", ["click", "PIL", *ENGINES, *UPDATE]),
        ("import edgecl_deploy.update.status", ["click", "PIL", *ENGINES, *UPDATE]),
        ("import edgecl_deploy.update.trust", ["click", "PIL", *ENGINES]),
    ],
)
def test_a_fresh_interpreter_loads_only_what_it_needs(statement, absent):
    modules = loaded_modules(statement)
    assert "edgecl_deploy" in modules
    assert not modules & {*NEVER, *absent}


def run_command(*words):
    return f"from edgecl_deploy.cli import device; device({list(words)}, standalone_mode=False)"


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_no_help_loads_more_than_click(command):
    words = ["--help"] if command is None else [command, "--help"]
    modules = loaded_modules(run_command(*words))
    assert "click" in modules
    assert not modules & {*NEVER, *ENGINES, *IMAGES, *UPDATE}


@pytest.mark.parametrize("command", LOOKS)
def test_a_command_that_needs_no_channel_loads_no_tuf(world, command):
    store = make_store(world, world.root / "store", make_release(world, 1))
    modules = loaded_modules(run_command(command, str(store.path)))
    assert "fcntl" in modules
    assert not modules & {*NEVER, "PIL", *ENGINES, *UPDATE}


def test_every_public_name_is_imported_when_it_is_used():
    for name in edgecl_deploy.__all__:
        assert getattr(edgecl_deploy, name) is not None
    assert set(edgecl_deploy.__all__) <= set(dir(edgecl_deploy))
    assert edgecl_deploy.__version__ == importlib.metadata.version("edgecl-deploy")
    with pytest.raises(AttributeError, match="has no attribute 'Clasifier'"):
        edgecl_deploy.Clasifier  # noqa: B018


@pytest.mark.parametrize(("engine", "extra"), [("onnxruntime", "cpu"), ("openvino", "openvino")])
def test_a_missing_engine_names_the_extra(monkeypatch, engine, extra):
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(EngineMissingError, match=rf"pip install 'edgecl-deploy\[{extra}\]'"):
        make_engine(engine)


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


@pytest.mark.parametrize("extra", sorted(MOST_MB))
def test_the_installed_closure_stays_small(record_property, extra):
    if not engines.installed({"cpu": "onnxruntime"}.get(extra, extra)):
        pytest.skip(f"the extra {extra} is not installed here")
    found = closure("edgecl-deploy", {extra})
    assert ENGINE_ONLY[extra] <= set(found) <= ALLOWED | ENGINE_ONLY[extra]
    megabytes = {name: size_of(each) / 1e6 for name, each in found.items()}
    record_property("megabytes", {name: round(size, 1) for name, size in megabytes.items()})
    assert sum(megabytes.values()) < MOST_MB[extra]


def test_the_package_itself_stays_small(record_property):
    root = Path(edgecl_deploy.__file__).parent
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    own = [path for path in files if path.relative_to(root).parts[0] != "server"]
    megabytes = sum(path.stat().st_size for path in own) / 1e6
    record_property("megabytes", round(megabytes, 2))
    assert 0.5 < megabytes < OWN_MB


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is in Python 3.11 and later")
def test_the_server_adds_few_packages():
    import tomllib

    text = (Path(__file__).parents[2] / "deploy" / "pyproject.toml").read_text(encoding="utf-8")
    needs = tomllib.loads(text)["project"]["optional-dependencies"]["server"]
    found = set().union(*(closure(Requirement(need).name, set()) for need in needs))
    assert found - {"click"} <= SERVER
    assert len(found | set(closure("edgecl-deploy", {"cpu"}))) <= MOST_WITH_SERVER


@pytest.mark.parametrize(
    "statement",
    [
        run_command("--help"),
        run_command("update", "--help"),
        run_command("classify", "--help"),
        "from edgecl_deploy import Classifier",
    ],
)
def test_the_start_is_quick(record_property, statement):
    least = start_of(statement)
    record_property("seconds", least)
    assert least < START


def test_the_package_is_imported_at_once(record_property):
    least = start_of("import edgecl_deploy")
    record_property("seconds", least)
    assert least < IMPORT_OWN


def start_of(statement):
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        loaded_modules(statement)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_an_engine_is_imported_quickly(record_property):
    if not engines.installed("openvino"):
        pytest.skip("openvino is not installed here")
    least = start_of("from edgecl_deploy.engines import make_engine; make_engine('openvino')")
    record_property("seconds", least)
    assert least < IMPORT


def test_an_engine_uses_the_cores_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert usable_cores() == 1

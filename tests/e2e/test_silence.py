"""Nothing speaks without being asked: no connection, and no identifier in the home folder."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.deploy.support import guard

from edgecl_deploy import engines

ROOT = Path(__file__).parents[2]
GUARDED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.deploy.support.guard import forbid_network
assert forbid_network()
"""
LEARN = """
import sys, time
from pathlib import Path
import edgecl, edgecl_export
from edgecl.backbones import load_backbone

folder = Path(sys.argv[1])
stream = edgecl.load_stream("emoji-demo", tasks=6, limit_train=120, limit_test=60)
backbone = load_backbone("vit-tiny-16", image_size=32, depth=2, random_seed=0)
learner = edgecl.new_learner(folder / "run", "simplecil", backbone, stream)
edgecl.learn_stream(learner, stream)
edgecl_export.export_bundle(learner, folder / "bundle")
edgecl_export.export_packs(learner, folder / "packs")
edgecl_export.export_release(folder / "packs", folder / "release", folder / "bundle")
time.sleep(1.0)
"""
CLASSIFY = """
import sys, time
from pathlib import Path
from edgecl_deploy import Classifier
classifier = Classifier.open(*sys.argv[1:3], engine=sys.argv[4])
until = time.monotonic() + float(sys.argv[3])
while True:
    classifier.self_test()
    if time.monotonic() >= until:
        break
    time.sleep(0.2)
"""


def run(
    code: str, home: Path, *words: object, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run code under the guard, as a user with an empty home and without our own settings."""
    kept = {name: value for name, value in os.environ.items() if not silences(name)}
    return subprocess.run(
        [sys.executable, "-c", GUARDED + code, *map(str, words)],
        env={**kept, "HOME": str(home), **variables},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )


def silences(name: str) -> bool:
    return name == "CI" or name.startswith("XDG_") or "TELEMETRY" in name


def left(home: Path) -> list[str]:
    """List the files in a home folder, but those that are ours."""
    return sorted(
        str(path.relative_to(home))
        for path in home.rglob("*")
        if path.is_file() and ".cache/edgecl" not in str(path)
    )


@pytest.fixture(scope="session")
def guarded() -> None:
    """Skip where the kernel has no such guard."""
    code = f"{GUARDED}\nimport socket\nsocket.socket().connect(('127.0.0.1', 9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "AssertionError" in done.stderr:
        pytest.skip("this kernel takes no seccomp filter: nothing was watched")
    assert done.returncode == guard.KILLED


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, guarded: None) -> Mapping[str, Path]:
    folder, home = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("home")
    done = run(LEARN, home, folder)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return {"folder": folder, "home": home}


def test_training_and_export(made: Mapping[str, Path]) -> None:
    assert left(made["home"]) == []


ENGINES = ["onnxruntime", "openvino"]


@pytest.mark.parametrize("engine", ENGINES)
def test_classifying(made: Mapping[str, Path], tmp_path: Path, engine: str) -> None:
    if not engines.installed(engine):
        pytest.skip(f"{engine} is not installed here")
    files = made["folder"] / "bundle", made["folder"] / "release"
    done = run(CLASSIFY, tmp_path, *files, 1, engine)
    assert done.returncode == 0, done.stderr[-2000:]
    assert left(tmp_path) == []


def test_openvino_comes_without_its_telemetry(tmp_path: Path, guarded: None) -> None:
    """Also where the home folder cannot be written, and what others import later is theirs."""
    if not engines.installed("openvino"):
        pytest.skip("openvino is not installed here")
    code = (
        "from edgecl_deploy.engines import make_engine\n"
        "import sys\n"
        "print(make_engine('openvino').version != '', 'openvino_telemetry' in sys.modules)\n"
        "import openvino_telemetry"
    )
    tmp_path.chmod(0o500)
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "True False\n"), done.stderr[-2000:]
    assert left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_classifying_for_two_minutes(made: Mapping[str, Path], tmp_path: Path, engine: str) -> None:
    files = made["folder"] / "bundle", made["folder"] / "release"
    done = run(CLASSIFY, tmp_path, *files, 120, engine)
    assert done.returncode == 0, done.stderr[-2000:]
    assert left(tmp_path) == []


def test_an_operator_may_ask_for_the_librarys_telemetry(tmp_path: Path, guarded: None) -> None:
    code = "import edgecl_deploy, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run(code, tmp_path).stdout == "1\n"
    assert run(code, tmp_path, ORT_DISABLE_TELEMETRY="0").stdout == "0\n"

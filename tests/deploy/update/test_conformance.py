"""The conformance suite of TUF against our client, so that no wrapper weakens python-tuf.

`EDGECL_TUF_CONFORMANCE` names a checkout of theupdateframework/tuf-conformance; the suite needs the
command `faketime`, and no package that this one does not.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[1] / "support" / "conformance_client.py"
CHECKOUT = "EDGECL_TUF_CONFORMANCE"
FEWEST = 113  # tests of the suite when this was written


def missing() -> str | None:
    """Say why the suite cannot run here, if it cannot."""
    folder = os.environ.get(CHECKOUT)
    if not folder:
        return f"set {CHECKOUT} to a checkout of theupdateframework/tuf-conformance"
    if not Path(folder, "tuf_conformance").is_dir():
        return f"{CHECKOUT}={folder} holds no tuf_conformance/"
    if not shutil.which("faketime"):
        return "the command faketime is not installed"
    return None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_test_of_the_suite_passes(capsys):
    reason = missing()
    if reason is not None:
        with capsys.disabled():
            sys.stdout.write(f"\nSKIPPED tuf-conformance: {reason}\n")
        pytest.skip(reason)
    assert not CLIENT.with_name(f"{CLIENT.name}.xfails").exists()
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tuf_conformance", "-q", "-p", "no:cacheprovider"),
            *("--entrypoint", f"{sys.executable} {CLIENT}"),
        ],
        cwd=os.environ[CHECKOUT],
        env={**os.environ, "PYTHONPATH": "", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = run.stdout.strip().splitlines()[-1]
    with capsys.disabled():
        sys.stdout.write(f"\ntuf-conformance: {summary}\n")
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    passed = re.fullmatch(r"(\d+) passed in .*", summary)
    assert passed, f"every test must pass, none may be skipped or expected to fail: {summary}"
    assert int(passed[1]) >= FEWEST

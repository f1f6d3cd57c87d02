"""An engine that comes and goes leaves the process's signals as they were."""

import subprocess
import sys

import pytest

from edgecl_deploy import engines

LIFE = """
import os, signal, sys, threading
from edgecl_deploy.engines import make_engine

engine = make_engine(sys.argv[1])
engine.capabilities()
holder = [engine]
del engine
thread = threading.Thread(target=holder.clear)  # whoever follows a store lets go in its thread
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("engine", [name for name in engines.names() if engines.installed(name)])
def test_a_signal_is_heard_after_an_engine_is_gone(engine: str) -> None:
    command = [sys.executable, "-c", LIFE, engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr

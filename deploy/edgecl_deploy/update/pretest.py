"""Tests a release before the switch: a process of its own loads it and runs its canaries.

Whatever the release does there (hang, take all memory, crash the engine) is a result of the test,
not an outage: the process that serves is not touched.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgecl_deploy.children import environment, python_module
from edgecl_deploy.errors import one_line
from edgecl_deploy.runtime import Classifier
from edgecl_deploy.store.records import Generation, Limits
from edgecl_deploy.store.store import Store

_WRONG = 3  # exit status: the release is bad, the line on stdout holds the reason
_LONGEST_ANSWER = 4096  # bytes


def pretest(store: Store, generation: Generation) -> str | None:
    """Test a generation in a process of its own, within the limits of the store.

    Returns:
        What is wrong with it, or None.
    """
    limits = store.config.limits
    command = python_module(__name__, str(store.path.absolute()), str(generation.number))
    with subprocess.Popen(  # noqa: S603  our own interpreter, our own module
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment(),
    ) as process:
        try:
            answer, _ = process.communicate(timeout=limits.pretest_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"the self-test took more than {limits.pretest_seconds:g} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return _verdict(process.returncode, answer[-_LONGEST_ANSWER:], limits)


def _verdict(status: int, answer: bytes, limits: Limits) -> str | None:
    if status < 0:
        return f"the self-test was killed by {signal.Signals(-status).name}"
    answered = _last_line(answer)
    if status == _WRONG and "error" in answered:
        return str(answered["error"])
    ms = answered.get("ms")
    if status != 0 or not isinstance(ms, float):
        return f"the self-test ended with status {status} and without an answer"
    if limits.canary_ms is not None and ms > limits.canary_ms:
        return f"an image took {ms:.1f} ms; {limits.canary_ms:g} ms are allowed"
    return None


def _last_line(answer: bytes) -> dict[str, Any]:
    try:
        answered = json.loads(answer.splitlines()[-1])  # a library may have printed before it
    except (ValueError, IndexError):
        return {}
    return answered if isinstance(answered, dict) else {}


def main(path: str, generation: str) -> int:
    """Test one generation, in the process that `pretest` starts.

    Args:
        generation: Its number.

    Returns:
        The exit status.
    """
    store = Store.open(path)
    config = store.config
    _confine(config.limits)
    try:
        classifier = Classifier.of_files(config.bundle, store.read(int(generation)))
        begin = time.perf_counter()
        result = classifier.self_test()
        seconds = time.perf_counter() - begin
    except Exception as error:  # whatever an engine raises is the result of the test
        print(json.dumps({"error": one_line(error)}))  # noqa: T201  the answer
        return _WRONG
    ms = 1000 * seconds / max(result.images, 1)
    print(json.dumps({"images": result.images, "max_error": result.max_error, "ms": ms}))  # noqa: T201
    return 0


def _confine(limits: Limits) -> None:
    seconds = int(limits.pretest_seconds * (os.cpu_count() or 1)) + 1
    for what, most in (
        (resource.RLIMIT_AS, limits.pretest_memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard < 0 else min(most, hard), hard))


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1])), sys.argv[2]))

"""Tests a release before the switch: a process of its own loads it and runs its canaries.

Laws: whatever the release does there (hang, take all memory, crash the engine) is a result of the
test, not an outage: the process that serves is not touched. A release has failed only if it failed
twice, and the release that serves passed the same test in between: else this device failed.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecl_deploy.children import environment, python_module
from edgecl_deploy.choice import Wish, read_choice
from edgecl_deploy.engines import FLOAT32, Artefacts
from edgecl_deploy.errors import DeployError, DeviceError, one_line
from edgecl_deploy.files import is_passing
from edgecl_deploy.runtime import Classifier
from edgecl_deploy.store.layout import ARTEFACTS
from edgecl_deploy.store.records import Generation, Limits
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.child import tie

_WRONG = 3  # exit status: the release is suspected, the line on stdout holds the reason
_DEVICE = 4  # exit status: this device is at fault, the line on stdout holds the reason
_LONGEST_ANSWER = 4096  # bytes
_LOOK = 0.2  # seconds between two looks at a request to stop


@dataclass(frozen=True)
class Failure:
    """What one run of a self-test found.

    Attributes:
        reason: One line for people.
        device: Whether it is about this device for certain.
        limit: Whether only a limit was passed, or nobody knows why the process ended.
        killed: Whether something killed the process that was not this program.
    """

    reason: str
    device: bool = False
    limit: bool = False
    killed: bool = False


def go_on() -> None:
    """Do nothing: nobody asks to stop."""


def pretest(
    store: Store, generation: Generation, check_stop: Callable[[], None] = go_on
) -> str | None:
    """Test a generation in a process of its own, within the limits of the store.

    Args:
        check_stop: Raises if the update is asked to stop; then the test is ended.

    Returns:
        What is wrong with the release, or None.

    Raises:
        DeviceError: The test failed, and it is not shown that the release is to blame.
    """
    found = _run(store, generation, check_stop)
    if found is None:
        return None
    _check_device(found)
    serving = store.serving()
    control = serving is not None and serving.digest != generation.digest
    if control and serving is not None:
        _check_control(_run(store, serving, check_stop), serving, found)
    again = _run(store, generation, check_stop)
    if again is None:
        return None
    _check_device(again)
    if again.killed or (again.limit and not control):
        raise DeviceError(
            f"the self-test of release {generation.release} must come to its end",
            again.reason,
            "The next update tries again. Look for what kills it, such as the kernel when memory "
            "is short, and compare the limits of `edgecl-device config`.",
            counts=again.killed,
        )
    return again.reason


def _check_device(found: Failure) -> None:
    """Refuse to go on if this device failed.

    Raises:
        DeviceError: It did.
    """
    if found.device:
        raise DeviceError(
            "this device must be able to test a release",
            found.reason,
            "The next update tries again. Run `edgecl-device fsck`, and mend what it names.",
        )


def _check_control(control: Failure | None, serving: Generation, found: Failure) -> None:
    """Refuse to blame a release for what the release that serves does not do here either.

    Raises:
        DeviceError: The release that serves failed the same test.
    """
    if control is not None:
        raise DeviceError(
            f"release {serving.release}, which serves, must pass its own self-test before a newer "
            "release is blamed",
            f"{control.reason}, after {found.reason}",
            "The next update tries again. Look at the load, the memory and the bundle of this "
            "device, and at the limits of `edgecl-device config`.",
        )


def _run(store: Store, generation: Generation, check_stop: Callable[[], None]) -> Failure | None:
    """Run one test, and return what is wrong, or None."""
    limits = store.config.limits
    command = python_module(__name__, str(store.path.absolute()), str(generation.number))
    with subprocess.Popen(  # noqa: S603  our own interpreter, our own module
        [*command, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment(),
    ) as process:
        try:
            answer = _answer(process, limits.pretest_seconds, check_stop)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            took = f"the self-test took more than {limits.pretest_seconds:g} s"
            return Failure(took, limit=True)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return _failure(process.returncode, answer[-_LONGEST_ANSWER:], limits)


def _answer(
    process: "subprocess.Popen[bytes]", seconds: float, check_stop: Callable[[], None]
) -> bytes:
    """Wait for the answer of a test.

    Raises:
        TimeoutExpired: There is none in time.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return process.communicate(timeout=max(0.0, min(_LOOK, end - time.monotonic())))[0]
        except subprocess.TimeoutExpired:
            check_stop()
            if time.monotonic() >= end:
                raise


def _failure(status: int, answer: bytes, limits: Limits) -> Failure | None:
    if status < 0:
        reason = f"the self-test was killed by {signal.Signals(-status).name}"
        return Failure(reason, limit=True, killed=-status == signal.SIGKILL)
    answered = _last_line(answer)
    if status in {_WRONG, _DEVICE} and "error" in answered:
        return Failure(str(answered["error"]), device=status == _DEVICE)
    ms = answered.get("ms")
    if status != 0 or not isinstance(ms, float):
        reason = f"the self-test ended with status {status} and without an answer"
        return Failure(reason, limit=True)
    if limits.canary_ms is not None and ms > limits.canary_ms:
        reason = f"an image took {ms:.1f} ms; {limits.canary_ms:g} ms are allowed"
        return Failure(reason, limit=True)
    return None


def _last_line(answer: bytes) -> dict[str, Any]:
    try:
        answered = json.loads(answer.splitlines()[-1])  # a library may have printed before it
    except (ValueError, IndexError):
        return {}
    return answered if isinstance(answered, dict) else {}


def main(path: str, generation: str, parent: str) -> int:
    """Test one generation, in the process that `pretest` starts.

    Args:
        generation: Its number.
        parent: The id of the process that waits for the answer.

    Returns:
        The exit status.
    """
    tie(int(parent))
    try:
        store = Store.open(path)
        limits = store.config.limits
        signal.alarm(int(limits.pretest_seconds) + 2)  # if the parent ended and nothing tells
        _confine(limits)
        bundle, files = store.bundle(), store.read(int(generation))
        program = files.release.program
        bundle.check(files)
        artefacts = Artefacts(store.path / ARTEFACTS)
        engine, mode = Wish().meet(read_choice(store.path, bundle.digest), artefacts)
        classifier = Classifier(bundle, engine, mode, verify=False)
        precisions = {FLOAT32, mode.precision} & set(bundle.bundle.precisions(program))
        builds = [bundle.bundle.build(program, each) for each in sorted(precisions)]
        bundle.verify(builds, mode.form)
    except (DeployError, OSError, MemoryError) as error:
        return _say(error, _DEVICE)
    try:
        classifier.take(files)
        result = classifier.loaded.tested
    except Exception as error:  # whatever an engine raises is the result of the test
        return _say(error, _DEVICE if is_passing(error) else _WRONG)
    assert result is not None  # noqa: S101  whatever is taken was tested
    ms = 1000 * result.seconds / max(result.images, 1)
    print(json.dumps({"images": result.images, "max_error": result.max_error, "ms": ms}))  # noqa: T201
    return 0


def _say(error: BaseException, status: int) -> int:
    print(json.dumps({"error": one_line(error)}))  # noqa: T201  the answer
    return status


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
    sys.exit(main(str(Path(sys.argv[1])), sys.argv[2], sys.argv[3]))

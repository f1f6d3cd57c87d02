"""Runs the report hook: the operator's command that gets the outcome of every update.

Laws: no shell, and no program of the working directory; a hook ends with the updater; a hook that
fails, hangs or is missing changes nothing, but for a line in the log.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from edgecl_deploy.children import program
from edgecl_deploy.errors import one_line
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.child import tied
from edgecl_deploy.update.outcome import Result

LONGEST = 10.0  # seconds that a hook may take


def report(store: Store, result: Result, longest: float = LONGEST) -> None:
    """Run the hook of a store, if it has one, with the result of an update as JSON on its input.

    Args:
        longest: Seconds until the hook and its children are killed.
    """
    config = store.config
    if not config.hook:
        return
    document = {**result.to_json(), "device": config.device, "channel": config.channel}
    wrong = _run(config.hook, json.dumps(document).encode(), longest)
    if wrong is not None:
        store.log.write("hook failed", store.now(), command=config.hook[0], reason=wrong)


def _run(hook: Sequence[str], data: bytes, longest: float) -> str | None:
    command = program(hook[0])
    if command is None or shutil.which(command) is None:
        return f"{hook[0]} must be a program: an absolute path, or a name in a folder of PATH"
    try:
        process = subprocess.Popen(  # noqa: S603  the operator's own command, and no shell
            tied([command, *hook[1:]]),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return one_line(error)
    with process:
        try:
            process.communicate(data, timeout=longest)
        except subprocess.TimeoutExpired:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"it took more than {longest:g} s"
        except BaseException:
            process.kill()
            raise
    return None if process.returncode == 0 else f"exit status {process.returncode}"

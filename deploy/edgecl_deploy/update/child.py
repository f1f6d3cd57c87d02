"""Ends a child process when its parent ends, however that ended; run as a script it runs a command.

It imports the standard library only, so that it can be run by its path.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def tie(parent: int) -> None:
    """Let this process be killed when its parent ends.

    Elsewhere than on Linux nothing happens: there only the alarm of a child bounds its life.

    Args:
        parent: The id of the parent. If it has ended already, this process ends at once.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def tied(command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command which ends with this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    tie(int(sys.argv[1]))
    try:
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  the operator's command, and no shell
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(127)

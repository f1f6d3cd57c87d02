"""The commands of a device: `edgecl-device ...`, or `edgecl device ...` next to the other groups.

Errors are caught here and nowhere else: one line on stderr and exit status 1, 16 if another process
is changing the store, 2 for a wrong command line; `--verbose` shows the traceback. Those of every
script (interrupted, a pipe that nobody reads) are in `console.run_script`.

A command imports what it needs when it runs: the help is there before numpy would be.
"""

from typing import NoReturn

import click

from edgecl_deploy.cli._bench import bench
from edgecl_deploy.cli._classify import classify
from edgecl_deploy.cli._drift import drift
from edgecl_deploy.cli._engines import doctor, tune
from edgecl_deploy.cli._enrol import enrol, enrolled
from edgecl_deploy.cli._inbox import watch_folder
from edgecl_deploy.cli._run import info, text
from edgecl_deploy.cli._serve import serve
from edgecl_deploy.cli._shared import Group
from edgecl_deploy.cli._store import config, fsck, gc, history, init, pin, rollback, status
from edgecl_deploy.cli._update import update, watch
from edgecl_deploy.console import run_script

__all__ = ["device", "main"]


@click.group(cls=Group)
def device() -> None:
    """Classify images on a device, without torch, and keep its release up to date."""


for _command in (
    classify, watch_folder, serve, enrol, enrolled, drift, bench, tune, doctor, info, text,
    init, update, watch, status, history, rollback, pin, fsck, gc, config,
):  # fmt: skip
    device.add_command(_command)


def main() -> NoReturn:
    """Run the script `edgecl-device`."""
    run_script(device, "edgecl-device")

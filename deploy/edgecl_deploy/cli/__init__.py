"""The commands of a device: `edgecl-device ...`, or `edgecl device ...` beside the other groups.

Errors are caught here and nowhere else: one line on stderr and exit status 1, 16 if another process
is changing the store, 2 for a wrong command line; `--verbose` shows where it happened.
"""

import warnings

import click
from PIL import Image

from edgecl_deploy.cli._run import bench, classify, info, text
from edgecl_deploy.cli._shared import Group
from edgecl_deploy.cli._store import config, fsck, gc, history, init, pin, rollback, status
from edgecl_deploy.cli._update import update, watch

__all__ = ["device", "main"]


@click.group(cls=Group)
def device() -> None:
    """Classify images on a device, without torch, and keep its release up to date."""
    # Every image has our own pixel limit; Pillow's warning would be a second line.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


for _command in (
    classify, bench, info, text,
    init, update, watch, status, history, rollback, pin, fsck, gc, config,
):  # fmt: skip
    device.add_command(_command)


def main() -> None:
    """Run the script `edgecl-device`."""
    device(prog_name="edgecl-device")

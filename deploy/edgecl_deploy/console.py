"""What the commands share, whichever distribution they come from: options, output, ends."""

import errno
import io
import json
import os
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeAlias

import click

from edgecl_deploy.errors import one_line
from edgecl_deploy.image_limits import MAX_PIXELS, MOST_PIXELS, VARIABLE, most_pixels
from edgecl_deploy.progress import Reporter, RichReporter

Command: TypeAlias = Callable[..., Any]
STOPPED = 130  # exit status of a command that was interrupted
READER_LEFT = 141  # exit status when whoever read the output has stopped reading
path_type = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="What PyTorch computes on.",
)


def _limit_pixels(ctx: click.Context, _: click.Parameter, pixels: int) -> None:
    """Set the limit of this process, and of those that it starts, until the command ends."""
    ctx.with_resource(most_pixels(pixels))


max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(1, MOST_PIXELS),
    default=MAX_PIXELS,
    show_default=True,
    envvar=VARIABLE,
    expose_value=False,
    callback=_limit_pixels,
    help="Of an image; a larger one is not decoded.",
)


def options(*group: Command) -> Command:
    """Return a decorator that adds options to a command, in the order of the help."""

    def add(command: Command) -> Command:
        for option in reversed(group):
            command = option(command)
        return command

    return add


def reporter_for(as_json: bool, quiet: bool) -> Reporter:
    """Return what shows bars to a person at a terminal, and nothing to anyone else."""
    return Reporter() if as_json or quiet or not sys.stderr.isatty() else RichReporter()


def print_json(value: object) -> None:
    """Print one JSON object on standard output; a program reads the same from every encoding."""
    click.echo(json_text(value, sys.stdout))


def json_text(value: object, stream: TextIO) -> str:
    """Return one line of JSON that the encoding of a stream can hold.

    What it cannot, and the bytes of a file name that are no text, are JSON's own escapes.
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return json.dumps(value)
    return text


def run_script(
    command: click.Command, name: str, arguments: Sequence[str] | None = None
) -> NoReturn:
    r"""Run a command line as a script, and end the process with its status.

    0, 1 for a failure, 2 for a wrong command line, 130 for an interrupted command, 141 if the
    reader of a pipe left; a command may have others of its own. A character that the encoding of
    the output lacks is written as its number, as in `\u05d0`.

    Args:
        command: The command.
        name: That of the script.
        arguments: Those of the process if there are none.
    """
    for stream in ("stdin", "stdout", "stderr"):
        if (
            getattr(sys, stream) is None
        ):  # closed; else the next file that is opened takes its place
            mode = "r" if stream == "stdin" else "w"
            setattr(sys, stream, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    sys.exit(_status(command, name, arguments))


def _status(command: click.Command, name: str, arguments: Sequence[str] | None) -> int:
    output = _output()
    try:
        try:
            status = command.main(arguments, prog_name=name, standalone_mode=False)
            sys.stdout.flush()
        except click.ClickException as error:
            sys.stdout.flush()
            error.show()
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo(f"{name}: stopped", err=True)
            return STOPPED
        except SystemExit as end:
            # Of a pipe that nobody reads click wraps the stream, rich puts the null device in its
            # place; both end with 1.
            if output == _output():
                return int(end.code or 0)
            status = READER_LEFT
    except OSError as error:  # of the output itself: the commands' own are a ClickException
        left = reader_left(error)
        _drop_output()
        if not left:
            click.echo(f"{name}: {one_line(error)}", err=True)
        return READER_LEFT if left else 1
    if status == READER_LEFT:
        _drop_output()
    return status if isinstance(status, int) else 0


def reader_left(error: BaseException) -> bool:
    """Return whether an error is that of a pipe on standard output or error that nobody reads."""
    if not isinstance(error, OSError) or error.errno != errno.EPIPE:
        return False
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        try:
            poll.register(stream.fileno(), 0)
        except (OSError, ValueError):  # closed, or no file
            continue
    return bool(poll.poll(0))  # errors and hang-ups are reported unasked


def _output() -> tuple[int, ...]:
    """Return what standard output is: the object, and the device and number of its file."""
    try:
        found = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # closed, or no file
        return (id(sys.stdout),)
    return id(sys.stdout), found.st_dev, found.st_ino


def _drop_output() -> None:
    """Let what is written from now on vanish: Python flushes once more when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(null, stream.fileno())
    os.dup2(null, sys.stdout.fileno())
    os.close(null)

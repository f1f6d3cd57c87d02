"""The command that measures this device."""

import json
from pathlib import Path
from typing import Any

import click

from edgecl_deploy.cli._run import WHERE, running, split, store_at
from edgecl_deploy.cli._shared import failure, misused
from edgecl_deploy.forms import AUTO
from edgecl_deploy.manifest.precisions import PRECISIONS


class Size(click.ParamType):  # type: ignore[type-arg]
    """A width and a height."""

    name = "WIDTHxHEIGHT"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        width, _, height = str(value).partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(f"{value!r} is not {self.name}, such as 4000x3000.", param, ctx)
        return int(width), int(height)


@click.command()
@running
@click.option("--batch", type=click.IntRange(1, 32), default=1, show_default=True, help="Images.")
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=3.0,
    show_default=True,
    help="How long, all engines together.",
)
@click.option(
    "--size", type=Size(), default="640x480", show_default=True, help="Of the pictures it makes."
)
@click.option(
    "--against",
    multiple=True,
    metavar="ENGINE[:PRECISION]",
    help="Another engine, measured in turns with the first; may be repeated.",
)
@click.option(
    "--svg", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw it."
)
@click.argument("paths", nargs=-1, required=True, metavar=WHERE)
def bench(
    paths: tuple[str, ...],
    batch: int,
    seconds: float,
    size: tuple[int, int],
    against: tuple[str, ...],
    svg: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure this device on JPEG pictures made here.

    Milliseconds per image by stage (read the file, decode, prepare, run, answer) as percentiles;
    images per second of the whole, one stage after the other and overlapped as in `classify`; and
    the start, a swap and the memory. Each engine is a process of its own; they take turns. Exit
    status 1: one of them cannot run.
    """
    path, release, rest = split(paths)
    if rest:
        misused(f"bench takes no images: {rest[0]}")
    from edgecl_deploy.bench.measuring import measure, other, resolved
    from edgecl_deploy.bench.showing import picture, table
    from edgecl_deploy.choice import Wish, made, read_choice

    store = store_at(path)
    choice = None if store is None else read_choice(store.path, store.bundle().digest)
    if choice is not None and made(choice, None) is None:  # it does not count, as in `open`
        choice = None
    first = resolved(Wish(**options), choice)
    others = [other(first, *_engine(text)) for text in against]
    found = measure(path, release, [first, *others], batch=batch, seconds=seconds, size=size)
    if svg is not None:
        svg.write_text(picture(found), encoding="utf-8")
    click.echo(json.dumps(found.to_json()) if as_json else table(found))
    wrong = sum(each.error is not None for each in found.engines)
    if wrong:
        failure(f"{wrong} of {len(found.engines)} engines could not run; see the output.")


def _engine(text: str) -> tuple[str, str]:
    engine, _, precision = text.partition(":")
    if precision and precision not in PRECISIONS:
        misused(f"--against {text}: the precision must be one of {', '.join(PRECISIONS)}.")
    return engine, precision or AUTO

"""The commands about engines: what could run here, and what runs fastest."""

import json
from typing import Any

import click

from edgecl_deploy.cli._run import WHERE, split, store_at
from edgecl_deploy.cli._shared import ATTENTION, misused, report, reporting
from edgecl_deploy.store.layout import ENGINE


@click.command()
@reporting
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Name what each engine can do here, or what is missing for it.

    Exit status 3: no engine can run.
    """
    from edgecl_deploy import engines
    from edgecl_deploy.engines.processor import cpu_name, usable_cores

    rows = {name: _about(name) for name in engines.names()}
    if as_json:
        click.echo(json.dumps({"cpu": cpu_name(), "cores": usable_cores(), "engines": rows}))
    else:
        report({"cpu": f"{cpu_name()}, {usable_cores()} cores"}, as_json=False)
        for name, row in rows.items():
            click.echo(f"{name:18} {row['missing'] if 'missing' in row else _able(row)}")
    if all("missing" in row for row in rows.values()):
        ctx.exit(ATTENTION)


def _about(name: str) -> dict[str, Any]:
    from edgecl_deploy import engines
    from edgecl_deploy.errors import DeployError

    try:
        engine = engines.make_engine(name)
        able = engine.capabilities()
    except DeployError as error:
        return {"missing": str(error)}
    return {"version": engine.version, "device": able.device, "precisions": list(able.precisions)}


def _able(row: dict[str, Any]) -> str:
    return f"{row['version']} on {row['device']}: {', '.join(row['precisions'])}"


@click.command()
@reporting
@click.option("--engines", "names", metavar="A,B", default="", help="[default: all that are here]")
@click.option("--threads", type=click.IntRange(1), help="Threads of one run. [default: all cores]")
@click.option(
    "--seconds", type=click.FloatRange(0), default=20.0, show_default=True, help="All together."
)
@click.argument("paths", nargs=-1, required=True, metavar=WHERE)
def tune(
    paths: tuple[str, ...], names: str, threads: int | None, seconds: float, as_json: bool
) -> None:
    """Measure engines and precisions on single images, and remember the fastest in a STORE.

    Each is a process of its own and must pass the release's canaries. A classifier that is opened
    on the store afterwards uses what was found, until the bundle, the processor or the engine's
    version changes. With a BUNDLE and a RELEASE nothing is remembered.
    """
    from edgecl_deploy.choice import write_choice
    from edgecl_deploy.tuning import candidates
    from edgecl_deploy.tuning import tune as measure

    path, release, rest = split(paths)
    if rest:
        misused(f"tune takes no images: {rest[0]}")
    if release is None:
        from edgecl_deploy.store.owner import act_as_owner

        act_as_owner(path)
    asked = candidates(tuple(filter(None, names.split(","))))
    found = measure(
        path,
        release,
        asked,
        threads=threads,
        seconds=seconds,
        tell=lambda line: click.echo(line, err=True),
    )
    store = store_at(path)
    if store is not None:
        write_choice(store.path, found.choice(store.bundle().digest))
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    click.echo(f"{'':34} {'ms':>8} {'faster':>7} {'start ms':>9} {'MB':>6}")
    for each in found.candidates:
        if each.error is None:
            row = f"{each.median_ms:8.2f} {found.ratio(each):6.2f}x {each.start_ms:9.0f}"
            click.echo(f"{each.name:34} {row} {each.mb:6.0f}")
    options = f"--engine {found.chosen.engine} --precision {found.chosen.precision}"
    if store is not None:
        click.echo(f"fastest: {found.chosen.name}; remembered in {ENGINE}")
    else:
        fixed = "" if found.chosen.batch is None else " (in Python with batch=1)"
        click.echo(f"fastest: {found.chosen.name}; use it with {options}{fixed}")

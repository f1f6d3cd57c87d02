"""Recipes on the command line: `edgecl recipes`, and the option of `edgecl train`."""

from collections.abc import Callable
from typing import Any

import rich_click as click
from click.core import ParameterSource

from edgecl.cli.printing import print_rows
from edgecl.recipes import Recipe, choose, find_recipe, recipe_names
from edgecl_deploy.console import json_option, print_json

NOT_ASKED = {ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP, None}
OF_ONE_CALL = {  # what a run does not keep
    "as_json", "device", "image_memory", "max_pixels", "no_wait", "quiet", "resumed", "workers",
}  # fmt: skip
OUTSIDE = OF_ONE_CALL | {"method", "out", "recipe", "settings"}


def with_recipe(
    ctx: click.Context, name: str, method: str, notice: Callable[[str], None]
) -> dict[str, Any]:
    """Return the options of `edgecl train`, from a recipe and the user.

    Args:
        notice: is told the recipe, and what differs from it.

    Where neither has a stream it is wrong usage.
    """
    recipe = find_recipe(name)
    params = {str(param.name): param for param in ctx.command.params}
    options = {name: value for name, value in ctx.params.items() if name not in OUTSIDE}
    asked = {
        name: value
        for name, value in options.items()
        if ctx.get_parameter_source(name) not in NOT_ASKED
    }
    used = choose(recipe, method, asked, ctx.params["settings"], options)
    if used.options.get("stream", asked.get("stream")) is None:
        raise click.UsageError(
            f"The recipe {recipe.name} needs --stream FOLDER. The folder: {recipe.images.layout}. "
            f"Its images: {recipe.images.get}; licence: {recipe.images.licence}."
        )
    own = {name: params[name].type_cast_value(ctx, value) for name, value in used.options.items()}
    notice(f"recipe {recipe.name}: {recipe.title}")
    for line in used.differs:
        notice(f"  differs: {line}")
    return {**options, **own, "settings": used.settings, "recipe": used}


@click.command()
@click.argument("name", required=False)
@json_option
def recipes(name: str | None, as_json: bool) -> None:
    """List published protocols, or show what the one of NAME sets and which figures it has."""
    if name is None:
        found = [find_recipe(each) for each in recipe_names()]
        if as_json:
            print_json([recipe.to_json() for recipe in found])
            return
        print_rows([{"name": each.name, "title": each.title} for each in found], as_json)
        return
    recipe = find_recipe(name)
    if as_json:
        print_json(recipe.to_json())
    else:
        show(recipe)


def show(recipe: Recipe) -> None:
    """Print a recipe for a person."""
    click.echo(f"{recipe.title}\npaper: {recipe.paper}\nsettings from: {recipe.source}")
    for what, text in vars(recipe.images).items():
        click.echo(f"images, {what}: {text}")
    click.echo(f"options: {spelled(recipe.options)}")
    for method, own in recipe.methods.items():
        settings = " ".join(f"--set {path}={value}" for path, value in own.set.items())
        click.echo(f"  {method}: {' '.join(filter(None, (spelled(own.options), settings)))}")
    if recipe.figures:
        rows = [
            {
                "published": figure.method,
                "settings": " ".join(f"{key}={value}" for key, value in figure.set.items()),
                "last": _percent(figure.last),
                "average": _percent(figure.average),
                "mean over tasks": _percent(figure.task_mean),
                "Transfer, Average, Last": " ".join(map(str, (figure.mtil or {}).values())),
            }
            for figure in recipe.figures
        ]
        used = [key for key in rows[0] if any(row[key] for row in rows)]
        print_rows([{key: row[key] for key in used} for row in rows], as_json=False)


def spelled(options: Any) -> str:
    """Return options as they are typed."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:g}"

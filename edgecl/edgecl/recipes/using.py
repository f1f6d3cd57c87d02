"""A recipe beside what a user asks for: the user's word counts, and what differs is told."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgecl.recipes.reading import Recipe, RecipeError


@dataclass(frozen=True)
class Used:
    """A recipe as a run uses it.

    Attributes:
        options: of the recipe that the user left out.
        settings: NAME=VALUE, the recipe's before the user's.
        differs: one line for each thing that the user asked for and the recipe has otherwise.
    """

    recipe: Recipe
    options: Mapping[str, Any]
    settings: tuple[str, ...]
    differs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what a run's header holds."""
        return {"name": self.recipe.name, "differs": list(self.differs)}


def choose(
    recipe: Recipe,
    method: str,
    asked: Mapping[str, Any],
    settings: Iterable[str],
    known: Iterable[str],
) -> Used:
    """Put a recipe and a user's options together.

    Args:
        asked: the options that the user gave.
        settings: the user's NAME=VALUE.
        known: all options that there are.

    Raises:
        RecipeError: if the recipe has an option that there is not.
    """
    own = recipe.of(method)
    if foreign := sorted(set(own.options) - set(known)):
        raise RecipeError(
            f"A recipe's options must be those of `edgecl train`, got {foreign[0]!r} in "
            f"{recipe.name}. Mend the recipe, or use the edgecl that it is for."
        )
    settings = tuple(settings)
    given = dict(each.partition("=")[::2] for each in settings)
    wanted = {path: _text(value) for path, value in own.set.items()}
    differs = [
        f"{_option(name)} {asked[name]} (the recipe has {value})"
        for name, value in own.options.items()
        if name in asked and _text(asked[name]) != _text(value)
    ]
    differs += [
        f"--set {path}={value} (the recipe has {wanted.get(path, 'the default')})"
        for path, value in given.items()
        if wanted.get(path) != value
    ]
    return Used(
        recipe=recipe,
        options={name: value for name, value in own.options.items() if name not in asked},
        settings=(
            *(f"{path}={value}" for path, value in wanted.items() if path not in given),
            *settings,
        ),
        differs=tuple(differs),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"

"""Reads recipes: JSON files of this package, or of a user."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from edgecl.config import nearest
from edgecl.errors import EdgeclError

SUFFIX = ".json"
MOST_BYTES = 1 << 20


class RecipeError(EdgeclError):
    """A recipe that is not there, or is not one."""


@dataclass(frozen=True)
class Images:
    """What a person must have before a recipe can run."""

    get: str
    layout: str
    licence: str


@dataclass(frozen=True)
class OfMethod:
    """What one method needs besides.

    Attributes:
        options: of the command, over those of the recipe.
        set: fields of the method's configuration by their paths, such as `schedule.epochs`.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A published result, in percent; what was not published is None.

    Attributes:
        last: accuracy among all classes after the last task.
        average: of these accuracies over the tasks.
        task_mean: the mean over tasks of their accuracies after the last one.
        mtil: Transfer, Average and Last of ZSCL's protocol.
        set: what the method's configuration has besides.
    """

    method: str
    last: float | None = None
    average: float | None = None
    task_mean: float | None = None
    mtil: Mapping[str, float] | None = None
    set: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """One published protocol.

    Attributes:
        name: on the command line.
        title: what is learned, in one line.
        paper: whose protocol and figures.
        source: the public code and files that the settings are from.
        images: how to come by them.
        options: of `edgecl train`, by their names in Python.
        methods: what single methods need besides; others run with the options alone.
        figures: that were published.
    """

    name: str
    title: str
    paper: str
    source: str
    images: Images
    options: Mapping[str, Any]
    methods: Mapping[str, OfMethod]
    figures: tuple[Figure, ...]

    def of(self, method: str) -> OfMethod:
        """Return the options and the settings of a method."""
        own = self.methods.get(method, OfMethod())
        return OfMethod({**self.options, **own.options}, own.set)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "paper": self.paper,
            "source": self.source,
            "images": vars(self.images),
            "options": dict(self.options),
            "methods": {name: vars(each) for name, each in self.methods.items()},
            "figures": [vars(each) for each in self.figures],
        }


@cache
def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes of this package, sorted."""
    folder = resources.files("edgecl.recipes") / "data"
    names = (Path(file.name) for file in folder.iterdir())
    return tuple(sorted(name.stem for name in names if name.suffix == SUFFIX))


def find_recipe(name: str) -> Recipe:
    """Read a recipe by its name, or by the path of a file that ends in `.json`.

    Raises:
        RecipeError: if there is none of that name, or the file is none.
    """
    if name.endswith(SUFFIX):
        try:
            data = Path(name).read_bytes()[: MOST_BYTES + 1]
        except OSError as error:
            raise RecipeError(f"A recipe's file must be readable, got {name}: {error}.") from error
        return parse_recipe(Path(name).stem, data)
    if name not in recipe_names():
        raise RecipeError(
            f"A recipe must be one of `edgecl recipes`, or a file that ends in {SUFFIX}, got "
            f"{name!r}. {nearest(name, recipe_names())}"
        )
    file = resources.files("edgecl.recipes") / "data" / f"{name}{SUFFIX}"
    return parse_recipe(name, file.read_bytes())


def parse_recipe(name: str, data: bytes) -> Recipe:
    """Parse a recipe's JSON.

    Raises:
        RecipeError: if it is none.
    """
    if len(data) > MOST_BYTES:
        raise RecipeError(
            f"A recipe must have at most {MOST_BYTES} bytes, got more in {name}. Name another file."
        )
    try:
        found = json.loads(data)
        return Recipe(**{
            **_known(Recipe, found, "the recipe", without="name"),
            "name": name,
            "images": Images(**_known(Images, found["images"], "images")),
            "methods": {
                method: OfMethod(**_known(OfMethod, each, method))
                for method, each in found["methods"].items()
            },
            "figures": tuple(
                Figure(**_known(Figure, each, "figures")) for each in found["figures"]
            ),
        })
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"The recipe {name} must be an object with the fields of those in "
            f"edgecl/recipes/data, got {error}. Mend the file."
        ) from error


def _known(kind: type, found: Any, where: str, without: str = "") -> dict[str, Any]:
    """Return an object's fields.

    Raises:
        ValueError: if one is foreign.
    """
    known = {each.name for each in fields(kind)} - {without}
    if foreign := sorted(set(found) - known):
        raise ValueError(f"the field {foreign[0]!r} in {where}")
    return dict(found)

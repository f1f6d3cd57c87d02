"""Every recipe of the package: it can be run as it stands, and names where it is from."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgecl.backbones.loaders import find_preset
from edgecl.backbones.pixels import pixels_at
from edgecl.cli import train
from edgecl.config import from_mapping, parse_settings
from edgecl.methods import methods
from edgecl.recipes import Recipe, RecipeError, choose, find_recipe, recipe_names
from edgecl.recipes.reading import parse_recipe
from edgecl.streams.protocols import load_as

every_recipe = pytest.mark.parametrize("name", recipe_names())
OPTIONS = {str(param.name) for param in train.params}
OF_TRAINING = {"augment", "backbone", "pixels", "seed", "class_seed", "protocol", "decode"}


@every_recipe
def test_its_options_are_those_of_the_command(name: str) -> None:
    recipe = find_recipe(name)
    for method in methods():
        used = choose(recipe, method, {}, (), OPTIONS)
        assert not used.differs
        assert used.options == recipe.of(method).options


@every_recipe
def test_its_settings_are_those_of_the_methods(name: str) -> None:
    recipe = find_recipe(name)
    for method, own in recipe.methods.items():
        used = choose(recipe, method, {}, (), OPTIONS)
        config = from_mapping(methods()[method].config_type, parse_settings(used.settings), name)
        for path, value in own.set.items():
            found: Any = config
            for part in path.split("."):
                found = getattr(found, part)
            assert found == (tuple(value) if isinstance(value, list) else value), path
    for figure in recipe.figures:
        assert figure.method in methods()
        settings = [f"{path}={json.dumps(value)}" for path, value in figure.set.items()]
        from_mapping(methods()[figure.method].config_type, parse_settings(settings), name)


@every_recipe
def test_its_backbone_and_pixels_are_known(name: str) -> None:
    recipe = find_recipe(name)
    for method in methods():
        options = recipe.of(method).options
        if not options["backbone"].startswith("timm:"):  # which asks timm, and needs its extra
            find_preset(options["backbone"])
        if "pixels" in options:
            pixels_at(224, options["pixels"])


@every_recipe
def test_its_figures_are_percents_of_a_named_source(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.paper.startswith("https://")
    assert recipe.source
    assert all(vars(recipe.images).values())
    for figure in recipe.figures:
        given = [figure.last, figure.average, figure.task_mean, *(figure.mtil or {}).values()]
        assert any(value is not None for value in given)
        assert all(value is None or 0 < value < 100 for value in given)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in recipe_names()
        if not {"stream", "session_images"} & find_recipe(name).options.keys()
    ],
)
def test_it_opens_a_folder_in_its_layout(name: str, tmp_path: Path) -> None:
    """Of the others, torchvision's, one is run in `test_published`; of lists in `test_sessions`."""
    recipe = find_recipe(name)
    options = {key: value for key, value in recipe.options.items() if key not in OF_TRAINING}
    protocol = recipe.options.get("protocol")
    classes = [f"class_{index:03d}" for index in range(2 * options.get("increment", 1))]
    tasks = [""] if protocol is None else ["task_00", "task_01"]
    for task in tasks:
        for part in ("train", "test"):
            for each in classes:
                label = f"{task}-{each}" if protocol == "mtil" else each
                folder = tmp_path / task / part / label
                folder.mkdir(parents=True)
                Image.new("RGB", (4, 4)).save(folder / "0.png")
    stream = load_as(str(tmp_path), protocol, seed=None, **options)
    assert len(stream.tasks) == 2
    sizes = {len(task.classes) for task in stream.tasks}
    assert sizes == {options.get("increment", 2)}


def mended(**changes: Any) -> bytes:
    whole = find_recipe("cifar100-b0-inc10").to_json()
    del whole["name"]
    return json.dumps(whole | changes).encode()


def test_a_recipe_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(mended(title="ours"))
    recipe = find_recipe(str(tmp_path / "mine.json"))
    assert (recipe.name, recipe.title) == ("mine", "ours")
    assert parse_recipe("cifar100-b0-inc10", mended()) == find_recipe("cifar100-b0-inc10")
    assert isinstance(recipe, Recipe)


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"{", "got Expecting"),
        (b"[]", "fields of those"),
        (mended(colour=1), "the field 'colour' in the recipe"),
        (mended(images={"get": "", "layout": ""}), "licence"),
        (mended(figures=[{"last": 3}]), "method"),
        (mended(methods={"l2p": {"sets": {}}}), "the field 'sets' in l2p"),
        (b" " * (1 << 20) + mended(), "at most 1048576 bytes"),
    ],
)
def test_what_is_no_recipe_is_refused(data: bytes, wrong: str) -> None:
    with pytest.raises(RecipeError, match=wrong):
        parse_recipe("it", data)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Did you mean 'cifar100-b0-inc10'"):
        find_recipe("cifar100-b0-inc1")
    with pytest.raises(RecipeError, match="must be readable"):
        find_recipe(str(tmp_path / "none.json"))

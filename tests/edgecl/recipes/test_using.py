"""The user's word beside a recipe's."""

import pytest

from edgecl.recipes import RecipeError, choose, find_recipe

KNOWN = ("augment", "stream", "increment", "backbone", "pixels", "seed", "root")


def test_what_is_not_given_is_the_recipes() -> None:
    recipe = find_recipe("cifar100-b0-inc10")
    used = choose(recipe, "ranpac", {"root": "data", "seed": 1}, ["rank=8"], KNOWN)
    assert "seed" not in used.options
    assert (used.options["increment"], used.options["pixels"]) == (10, "pilot")
    assert used.settings == ("size=10000", "rank=8")
    assert used.differs == (
        "--seed 1 (the recipe has 1993)",
        "--set rank=8 (the recipe has the default)",
    )
    assert used.to_json() == {"name": "cifar100-b0-inc10", "differs": list(used.differs)}


def test_the_same_word_does_not_differ() -> None:
    recipe = find_recipe("cifar100-b0-inc10")
    used = choose(recipe, "ranpac", {"increment": 10}, ["size=10000"], KNOWN)
    assert (used.differs, used.settings) == ((), ("size=10000",))


def test_a_method_has_options_of_its_own() -> None:
    recipe = find_recipe("cifar100-b0-inc10")
    assert choose(recipe, "coda-prompt", {}, (), KNOWN).options["pixels"] == "coda"
    assert choose(recipe, "l2p", {}, (), KNOWN).options["pixels"] == "pilot"


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(RecipeError, match="got 'pixels' in cifar100-b0-inc10"):
        choose(find_recipe("cifar100-b0-inc10"), "l2p", {}, (), set(KNOWN) - {"pixels"})

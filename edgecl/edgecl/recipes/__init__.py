"""Recipes: the options of published protocols, with their sources and their figures."""

from edgecl.recipes.reading import Figure, Recipe, RecipeError, find_recipe, recipe_names
from edgecl.recipes.using import Used, choose

__all__ = ["Figure", "Recipe", "RecipeError", "Used", "choose", "find_recipe", "recipe_names"]

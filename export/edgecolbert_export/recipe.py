"""Recipes, which the runtime reads as well: `edgecolbert.recipes`."""

from edgecolbert.recipes import RECIPE_NAME, Recipe, find_recipe_for, known_recipes, read_recipe

__all__ = ["RECIPE_NAME", "Recipe", "find_recipe_for", "known_recipes", "read_recipe"]

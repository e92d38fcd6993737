"""Reads a recipe file and checks it, alone and against its stores: every mistake at once, each with its place."""

from pathlib import Path
from typing import NamedTuple

from assay.flows.recipe_check import Checked, check_recipe
from assay.flows.recipe_facts import Problem
from assay.schemas.errors import AssayError
from assay.schemas.recipe import Recipe
from assay.schemas.yaml_file import Spotted, YamlFile


class Examined(NamedTuple):
    """A recipe file and all that is wrong with it."""

    file: YamlFile
    mistakes: list[Spotted]
    """in the order of lines"""
    not_done: list[str]
    """checks that need a store which can't be reached"""


def examine(path: Path) -> Examined:
    """Checks a recipe file; AssayError only if it can't be read or is no YAML."""
    file = YamlFile(path)
    mistakes, checked = file.mistakes(Recipe), check_recipe(file.plain())
    mistakes += [file.spot(p.location, _text(p), p.at) for p in checked.problems]
    return Examined(file, sorted(set(mistakes)), checked.not_done)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file, its relative paths taken from where the command runs; AssayError if it's wrong."""
    examined = examine(path)
    if examined.mistakes:
        raise examined.file.error(examined.mistakes)
    return Recipe.model_validate(examined.file.plain())


def check(recipe: Recipe, where: str) -> Checked:
    """Checks a recipe that is not in a file; AssayError lists what is wrong, or names a store that can't be read."""
    checked = check_recipe(recipe.model_dump())
    if checked.problems:
        lines = [f"{where}: {_text(problem)}" for problem in checked.problems]
        raise AssayError("\n".join([f"{len(lines)} mistake(s) in the recipe", *lines]))
    if checked.facts.unreachable:
        raise AssayError(
            "; ".join(checked.facts.unreachable), where=where, hint="the recipe reads tags from its stores"
        )
    return checked


def _text(problem: Problem) -> str:
    return f"{'.'.join(map(str, problem.location))}: {problem.message}"

"""Finds the ready definitions of taggers, by name and by set."""

from pathlib import Path

from assay.flows.scopes import CONFIGS
from assay.schemas.definition import Definition
from assay.schemas.errors import unknown_name
from assay.schemas.yaml_file import load_yaml

DEFINITIONS = CONFIGS / "taggers" / "definitions"


def definition_names() -> dict[str, Path]:
    """Every ready definition by name; sets are the folders that they lie in."""
    return {path.stem: path for path in sorted(DEFINITIONS.glob("*/*.yaml"))}


def load_definition(name: str) -> Definition:
    """The ready definition called `name`, or the one in the YAML file `name`."""
    if name.endswith((".yaml", ".yml")):
        return load_yaml(Path(name), Definition)
    known = definition_names()
    if name not in known:
        raise unknown_name("definition", name, known)
    return load_yaml(known[name], Definition)


def definition_set(name: str) -> list[Definition]:
    """All definitions of a set, by name."""
    folder = DEFINITIONS / name
    if not folder.is_dir():
        raise unknown_name("set of definitions", name, (path.name for path in DEFINITIONS.iterdir() if path.is_dir()))
    return [load_yaml(path, Definition) for path in sorted(folder.glob("*.yaml"))]

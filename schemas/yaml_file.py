"""YAML 1.2 files checked against a model: every mistake at once, each with file, line and column."""

import difflib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from assay.schemas.errors import AssayError

M = TypeVar("M", bound=BaseModel)


def load_yaml(path: Path, model: type[M]) -> M:
    """Reads `path` as `model`; AssayError lists each mistake as file:line:column with the nearest valid key."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise AssayError(f"can't read this file: {e}", where=str(path)) from e
    try:
        tree = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as e:
        mark = e.problem_mark
        spot = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise AssayError(f"not valid YAML: {e.problem or e}", where=spot) from e
    except YAMLError as e:
        raise AssayError(f"not valid YAML: {e}", where=str(path)) from e
    try:
        return model.model_validate(_plain(tree))
    except ValidationError as e:
        errors = [err for err in e.errors() if not _follows(err, e.errors())]
        found = sorted({(*_position(tree, err["loc"]), _message(err, model)) for err in errors})
        lines = [f"{path}:{line}:{column}: {message}" for line, column, message in found]
        raise AssayError("\n".join([f"{len(lines)} mistake(s) in {path.name}", *lines])) from e


def _plain(node: Any) -> Any:
    """ruamel's annotated containers and scalars as plain Python values."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(item) for item in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _position(tree: Any, loc: tuple[int | str, ...]) -> tuple[int, int]:
    """1-based line and column of the deepest node of `loc` that stands in the file."""
    line, column, node = 1, 1, tree
    for part in loc:
        if isinstance(node, CommentedMap) and part in node:
            if part in node.lc.data:  # a key that was merged in (<<) has no place of its own
                line, column = (n + 1 for n in node.lc.key(part))
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line, column = (n + 1 for n in node.lc.item(part))
        else:
            continue
        node = node[part]
    return line, column


def _follows(error: Any, errors: list[Any]) -> bool:
    """Whether a list is only called too short because items of it are wrong."""
    loc = error["loc"]
    return error["type"] == "too_short" and any(e["loc"][: len(loc)] == loc != e["loc"] for e in errors)


def _message(error: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = sorted(_known_keys(model))
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"{path}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    if error["type"] == "missing":
        return f"{path}: required key is missing"
    return f"{path}: {error['msg']}" if path else str(error["msg"])


def _known_keys(model: type[BaseModel]) -> set[str]:
    """The keys of a model and of every model inside it."""
    keys: set[str] = set()
    todo, seen = [model], set()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for name, field in current.model_fields.items():
            keys.add(field.alias or name)
            todo.extend(_models_in(field.annotation))
    return keys


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]

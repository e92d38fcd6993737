"""YAML 1.2 files checked against a model: every mistake at once, each with file, line and column."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from assay.schemas.errors import AssayError

M = TypeVar("M", bound=BaseModel)
Location = Sequence[int | str]
"""The keys and indices that lead to a value."""


class Spotted(NamedTuple):
    """A mistake and where it stands; sorts by line and column, which are 1-based."""

    line: int
    column: int
    message: str


class YamlFile:
    """A YAML file that was read, and where its parts stand."""

    def __init__(self, path: Path) -> None:
        """AssayError if it can't be read or is no YAML."""
        self.path = path
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise AssayError(f"can't read this file: {e}", where=str(path)) from e
        try:
            self._tree = YAML(typ="rt", pure=True).load(text)
        except MarkedYAMLError as e:
            mark = e.problem_mark
            spot = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
            raise AssayError(f"not valid YAML: {e.problem or e}", where=spot) from e
        except YAMLError as e:
            raise AssayError(f"not valid YAML: {e}", where=str(path)) from e
        self._lines = text.removeprefix("\ufeff").split("\n")

    def plain(self) -> Any:
        """What the file holds, as plain Python values."""
        return _plain(self._tree)

    def mistakes(self, model: type[BaseModel]) -> list[Spotted]:
        """What keeps the file from being a `model`, in the order of lines."""
        try:
            model.model_validate(self.plain())
        except ValidationError as e:
            errors = [error for error in e.errors() if not _follows(error, e.errors())]
            return sorted({self._spotted(error, model) for error in errors})
        return []

    def spot(self, location: Location, message: str, at: int | None = None) -> Spotted:
        """A mistake at a part of the file, or at the offset `at` in the text that stands there."""
        line, column = self._value_position(location, at) if at is not None else self._position(location)
        return Spotted(line, column, message)

    def error(self, mistakes: Iterable[Spotted]) -> AssayError:
        """All of them as one error."""
        found = sorted(set(mistakes))
        lines = [f"{self.path}:{m.line}:{m.column}: {m.message}" for m in found]
        return AssayError("\n".join([f"{len(lines)} mistake(s) in {self.path.name}", *lines]))

    def _spotted(self, error: Any, model: type[BaseModel]) -> Spotted:
        at = error.get("ctx", {}).get("at") if error["type"] == "expression" else None
        return self.spot(error["loc"], _message(error, model), at)

    def _position(self, location: Location) -> tuple[int, int]:
        """1-based line and column of the deepest node of `location` that stands in the file."""
        line, column, node = 1, 1, self._tree
        for part in location:
            if isinstance(node, CommentedMap) and part in node:
                if part in node.lc.data:  # a key that was merged in (<<) has no place of its own
                    line, column = (n + 1 for n in node.lc.key(part))
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                line, column = (n + 1 for n in node.lc.item(part))
            else:
                continue
            node = node[part]
        return line, column

    def _value_position(self, location: Location, at: int) -> tuple[int, int]:
        """1-based line and column of the character at offset `at` of a text, in whichever style it's written."""
        node = self._tree
        for part in location[:-1]:
            node = node[part]
        last = location[-1]
        if isinstance(node, CommentedMap) and last in node.lc.data:
            line, column = node.lc.value(last)
        elif isinstance(node, CommentedSeq):
            line, column = node.lc.item(last)
        else:
            return self._position(location)
        if line >= len(self._lines):
            return self._position(location)
        return self._inside(line, column, str(node[last])[:at])

    def _inside(self, line: int, column: int, before: str) -> tuple[int, int]:
        """Where the text that follows `before` stands in a scalar that begins at a 0-based line and column.

        Only characters that aren't white space are counted, since YAML folds that; an escape counts as one.
        """
        column += len(_PROPERTIES.match(self._lines[line], column)[0])  # type: ignore[index]  # it matches nothing, too
        style = self._lines[line][column : column + 1]
        if style in ("|", ">"):
            line, column = line + 1, 0
        elif style in ("'", '"'):
            column += 1
        to_go = len("".join(before.split()))
        while line < len(self._lines):
            text = self._lines[line]
            while column < len(text):
                if not text[column].isspace():
                    if to_go == 0:
                        return line + 1, column + 1
                    to_go -= 1
                    pair = text[column : column + 2]
                    column += (style == "'" and pair == "''") or (style == '"' and pair[0] == "\\")
                column += 1
            if to_go == 0 and style not in ("|", ">"):
                return line + 1, column + 1
            line, column = line + 1, 0
        return len(self._lines), 1


def load_yaml(path: Path, model: type[M]) -> M:
    """Reads `path` as `model`; AssayError lists each mistake as file:line:column with the nearest valid key."""
    file = YamlFile(path)
    if mistakes := file.mistakes(model):
        raise file.error(mistakes)
    return model.model_validate(file.plain())


_PROPERTIES = re.compile(r"(?:[&!]\S+\s+)*")


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


def _follows(error: Any, errors: list[Any]) -> bool:
    """Whether a list is only called too short because items of it are wrong."""
    loc = error["loc"]
    return error["type"] == "too_short" and any(e["loc"][: len(loc)] == loc != e["loc"] for e in errors)


def _message(error: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = _nearest_key(str(error["loc"][-1]), _keys_at(error["loc"][:-1], model), _known_keys(model))
        return f"{path}: unknown key" + (f"; did you mean {near!r}?" if near else "")
    if error["type"] == "missing":
        return f"{path}: required key is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def _nearest_key(key: str, here: set[str], anywhere: set[str]) -> str | None:
    """The nearest key of those that may stand here, or else anywhere."""
    for known in (here, anywhere):
        if near := difflib.get_close_matches(key, sorted(known), n=1):
            return near[0]
    return None


def _keys_at(location: Location, model: type[BaseModel]) -> set[str]:
    """The keys of the model at a place of `model`; none if it isn't one model."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        below = _models_in(field.annotation) if field else []
        if len(below) != 1:
            return set()
        model = below[0]
    return set(model.model_fields)


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

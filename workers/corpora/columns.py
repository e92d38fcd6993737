"""Names, infers and unifies the types of source columns, so that shards of different files fit one table.

A column's type is a string. It is str() of the Arrow type where Arrow reads that back ("string", "int64",
"date32[day]"), else str() of it, a bar, and base64 of a serialized one-field schema. "json" is canonical JSON
text: what a column becomes when its type differs between rows or files, or is a list or object in JSONL.
"""

import base64
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa

from assay.schemas.errors import AssayError

JSON = "json"
_JSON_TYPES: dict[type, str] = {type(None): "null", bool: "bool", int: "int64", float: "double", str: "string"}


@lru_cache(maxsize=1024)
def type_name(kind: pa.DataType) -> str:
    """The name that `parse_type` gives back as `kind`."""
    name = str(kind)
    if _alias(name) == kind:
        return name
    return f"{name}|{base64.b64encode(pa.schema([('', kind)]).serialize()).decode()}"


@lru_cache(maxsize=1024)
def parse_type(name: str) -> pa.DataType:
    """The Arrow type of a name; "json" is stored as string."""
    if name == JSON:
        return pa.string()
    kind = _alias(name)
    if kind is not None:
        return kind
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(name.rpartition("|")[2]))).field(0).type
    except (ValueError, OSError, pa.ArrowException) as error:
        hint = "the store was written by another version"
        raise AssayError(f"{name[:100]!r} is no column type", hint=hint) from error


def _alias(name: str) -> pa.DataType | None:
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return None


class ColumnTypes:
    """The columns seen so far and their types, in the order of their first appearance."""

    def __init__(self) -> None:
        self._types: dict[str, str] = {}

    def types(self) -> dict[str, str]:
        """Column -> type name, as seen so far."""
        return dict(self._types)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Adds the columns of a JSON object."""
        for column, value in row.items():
            name = _JSON_TYPES.get(type(value), JSON)
            if name == "int64" and not -(2**63) <= value < 2**63:
                name = JSON
            known = self._types.get(column)
            if known != name:
                self._types[column] = name if known is None else unify_types(known, name)

    def add_schema(self, schema: pa.Schema) -> None:
        """Adds the columns of a Parquet or Arrow file."""
        for field in schema:
            name = type_name(field.type)
            known = self._types.get(field.name)
            self._types[field.name] = name if known is None else unify_types(known, name)


def unify_columns(shards: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The columns of all shards and a type for each that holds every value of every shard without loss."""
    united: dict[str, str] = {}
    for columns in shards:
        for column, name in columns.items():
            known = united.get(column)
            united[column] = name if known is None else unify_types(known, name)
    return united


@lru_cache(maxsize=4096)
def unify_types(first: str, second: str) -> str:
    """The common type: equal types stay, null gives way, text, integers and numbers widen, else "json"."""
    if first == second:
        return first
    if JSON in (first, second):
        return JSON
    a, b = parse_type(first), parse_type(second)
    if a == b or pa.types.is_null(b):
        return first
    if pa.types.is_null(a):
        return second
    levels = {_level(a), _level(b)}
    for family in (_TEXT, _NUMBERS):
        if levels <= family.keys():
            return family[max(levels)]
    return JSON


_TEXT = {1: "large_string", 2: "large_binary"}
_NUMBERS = {3: "int64", 4: "double"}


def _level(kind: pa.DataType) -> int:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value):
        return 1
    if pa.types.is_binary(value) or pa.types.is_large_binary(value) or pa.types.is_binary_view(value):
        return 2
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return 3
    return 4 if pa.types.is_floating(kind) else 0

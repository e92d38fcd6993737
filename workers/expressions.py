"""Expressions over tables of documents, in three values: what isn't known is neither true nor false.

A number is an interval: a known one has equal ends, an unknown one reaches from -inf to inf, and a feature that was cut
lies between 0 and its document's floor. So `feature(3, 262) > 9` is false where the floor is 4, and unknown where it
is 12. Truth follows Kleene: `false and unknown` is false, `true or unknown` is true.
"""

from functools import reduce
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.schemas.expression import Apply, Feature, Literal, Name, Node, Threshold, Within

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Interval(NamedTuple):
    """Numbers of N documents, each somewhere in [low, high]."""

    low: Floats
    high: Floats


class Truth(NamedTuple):
    """Truth values of N documents; where neither holds it is unknown."""

    yes: Mask
    no: Mask


Texts: TypeAlias = pa.Array | pa.ChunkedArray
Values: TypeAlias = Interval | Truth | Texts


class Documents(Protocol):
    """Where an expression's values come from."""

    @property
    def rows(self) -> int:
        """How many documents there are."""

    def number(self, name: str) -> Interval:
        """A numeric column."""

    def text(self, name: str) -> Texts:
        """A text column, null where it is unknown."""

    def feature(self, feature: Feature) -> Interval:
        """A pooled activation."""

    def threshold(self, tagger: str) -> float:
        """Where a tagger's score is cut."""

    def is_number(self, name: str) -> bool:
        """Whether the column holds numbers."""


def truth(tree: Node, documents: Documents) -> Truth:
    """A checked expression of truth for each document."""
    values = _values(tree, documents)
    assert isinstance(values, Truth)  # noqa: S101 - check_expression said so
    return values


def numbers(tree: Node, documents: Documents) -> Interval:
    """A checked numeric expression for each document."""
    values = _values(tree, documents)
    assert isinstance(values, Interval)  # noqa: S101 - check_expression said so
    return values


def known(column: pa.Array | pa.ChunkedArray) -> Interval:
    """A column of numbers; null and NaN are unknown."""
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else (
        column.cast(pa.float64()).to_numpy()
    )  # fmt: skip
    return _interval(values, values)


def _values(node: Node, documents: Documents) -> Values:
    if isinstance(node, Literal):
        return _literal(node, documents.rows)
    if isinstance(node, Name):
        return documents.number(node.name) if documents.is_number(node.name) else documents.text(node.name)
    if isinstance(node, Feature):
        return documents.feature(node)
    if isinstance(node, Threshold):
        cut = np.full(documents.rows, documents.threshold(node.tagger))
        return Interval(cut, cut)
    if isinstance(node, Within):
        return _within(_values(node.item, documents), [choice.value for choice in node.choices])
    return _apply(node, documents)


def _literal(node: Literal, rows: int) -> Values:
    if isinstance(node.value, bool):
        return Truth(np.full(rows, node.value), np.full(rows, not node.value))
    if isinstance(node.value, float):
        value = np.full(rows, node.value)
        return Interval(value, value)
    return pa.repeat(pa.scalar(node.value), rows)


def _within(item: Values, choices: list[float | str | bool]) -> Truth:
    if isinstance(item, Interval):
        tests = [_equal(item, Interval(np.full_like(item.low, c), np.full_like(item.low, c))) for c in choices]
        return reduce(_or, tests)
    return _of(pc.is_in(item, value_set=pa.array(choices, pa.string())), item)


def _apply(node: Apply, documents: Documents) -> Values:
    operands = [_values(operand, documents) for operand in node.operands]
    operator = node.operator
    if operator == "is_unknown":
        unknown = _unknown(operands[0])
        return Truth(unknown, ~unknown)
    if isinstance(operands[0], Truth):
        return _logic(operator, [o for o in operands if isinstance(o, Truth)])
    if isinstance(operands[0], Interval):
        return _numeric(operator, [o for o in operands if isinstance(o, Interval)])
    return _textual(node, operands)


def _logic(operator: str, operands: list[Truth]) -> Truth:
    if operator == "not":
        return Truth(operands[0].no, operands[0].yes)
    if operator == "and":
        return reduce(_and, operands)
    if operator == "or":
        return reduce(_or, operands)
    (a, b) = operands
    same = _or(_and(a, b), _and(Truth(a.no, a.yes), Truth(b.no, b.yes)))
    return same if operator == "==" else Truth(same.no, same.yes)


def _and(a: Truth, b: Truth) -> Truth:
    return Truth(a.yes & b.yes, a.no | b.no)


def _or(a: Truth, b: Truth) -> Truth:
    return Truth(a.yes | b.yes, a.no & b.no)


def _numeric(operator: str, operands: list[Interval]) -> Values:
    a, b = operands[0], operands[-1]
    if operator == "==":
        return _equal(a, b)
    if operator == "!=":
        same = _equal(a, b)
        return Truth(same.no, same.yes)
    if operator in ("<", ">="):
        less = Truth(a.high < b.low, a.low >= b.high)
        return less if operator == "<" else Truth(less.no, less.yes)
    if operator in (">", "<="):
        more = Truth(a.low > b.high, a.high <= b.low)
        return more if operator == ">" else Truth(more.no, more.yes)
    if operator in ("min", "max"):
        choose = np.minimum if operator == "min" else np.maximum
        return Interval(reduce(choose, [o.low for o in operands]), reduce(choose, [o.high for o in operands]))
    if operator == "negate":
        return Interval(-a.high, -a.low)
    if operator == "abs":
        spans = (a.low < 0) & (a.high > 0)
        low, high = np.minimum(abs(a.low), abs(a.high)), np.maximum(abs(a.low), abs(a.high))
        return Interval(np.where(spans, 0.0, low), high)
    return _arithmetic(operator, a, b)


def _arithmetic(operator: str, a: Interval, b: Interval) -> Interval:
    """Sums, products and quotients; what overflows or divides by an interval with 0 in it is unknown."""
    with np.errstate(all="ignore"):
        if operator == "+":
            return _interval(a.low + b.low, a.high + b.high)
        if operator == "-":
            return _interval(a.low - b.high, a.high - b.low)
        if operator == "*":
            ends = [a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high]
        else:
            ends = [a.low / b.low, a.low / b.high, a.high / b.low, a.high / b.high]
        low, high = reduce(np.minimum, ends), reduce(np.maximum, ends)
        if operator == "/":
            zero = (b.low <= 0) & (b.high >= 0)
            low, high = np.where(zero, np.nan, low), np.where(zero, np.nan, high)
        return _interval(low, high)


def _interval(low: Floats, high: Floats) -> Interval:
    """The interval, or an unknown one where an end isn't a number or both are infinite alike."""
    lost = np.isnan(low) | np.isnan(high) | (low == np.inf) | (high == -np.inf)
    if lost.any():
        low, high = np.where(lost, -np.inf, low), np.where(lost, np.inf, high)
    return Interval(low, high)


def _equal(a: Interval, b: Interval) -> Truth:
    exact = (a.low == a.high) & (b.low == b.high)
    return Truth(exact & (a.low == b.low), (a.high < b.low) | (a.low > b.high))


def _textual(node: Apply, operands: list[Values]) -> Values:
    operator, item = node.operator, operands[0]
    if operator == "lower":
        return pc.utf8_lower(item)
    if operator in ("==", "!="):
        same = pc.equal(item, operands[1])
        return _of(same if operator == "==" else pc.invert(same), same)
    sought = node.operands[1]
    assert isinstance(sought, Literal)  # noqa: S101 - check_expression said so
    test = {"startswith": pc.starts_with, "contains": pc.match_substring, "matches": pc.match_substring_regex}
    return _of(test[operator](item, pattern=str(sought.value)), item)


def _of(holds: Texts, item: Texts) -> Truth:
    """The truth of a text's test; unknown where the text is."""
    valid = _mask(pc.is_valid(item))
    yes = _mask(pc.fill_null(holds, False)) & valid
    return Truth(yes, valid & ~yes)


def _mask(values: Texts) -> Mask:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.asarray(array.to_numpy(zero_copy_only=False), bool)


def _unknown(values: Values) -> Mask:
    if isinstance(values, Interval):
        return ~(values.low == values.high)
    if isinstance(values, Truth):
        return ~(values.yes | values.no)
    return _mask(pc.is_null(values))

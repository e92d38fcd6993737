"""Expressions over tables: vectorised and three-valued, equal to an interpreter that takes one document at a time."""

import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.schemas.expression import Apply, Feature, Literal, Name, Node, Threshold, Within, parse_expression
from assay.workers.expressions import Interval, Texts, known, truth

NUMBERS, TEXTS = ("quality", "n_tokens"), ("domain", "language")
Row = dict[str, Any]


class Table:
    """Documents in memory; feature(1, 2) is exact or between 0 and a floor."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self.rows = len(rows)

    def is_number(self, name: str) -> bool:
        return name in NUMBERS

    def number(self, name: str) -> Interval:
        return known(pa.array([row[name] for row in self._rows], pa.float64()))

    def text(self, name: str) -> Texts:
        return pa.chunked_array([pa.array([row[name] for row in self._rows], pa.string())])

    def feature(self, feature: Feature) -> Interval:
        pairs = [row["feature"] for row in self._rows]
        return Interval(np.array([a for a, _ in pairs], float), np.array([b for _, b in pairs], float))

    def threshold(self, tagger: str) -> float:
        return 0.5


def decided(text: str, rows: list[Row]) -> list[bool | None]:
    """The expression for each row; None where it's unknown."""
    found = truth(parse_expression(text), Table(rows))
    assert not (found.yes & found.no).any()
    return [True if yes else False if no else None for yes, no in zip(found.yes, found.no, strict=True)]


ROWS: list[Row] = [
    {"quality": 0.1, "n_tokens": 5, "domain": "code", "language": "en", "feature": (3.0, 3.0)},
    {"quality": None, "n_tokens": 50, "domain": "news", "language": None, "feature": (0.0, 2.0)},
    {"quality": 0.9, "n_tokens": 500, "domain": None, "language": "EN", "feature": (0.0, 0.0)},
]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("quality < 0.5", [True, None, False]),
        ("not quality < 0.5", [False, None, True]),
        ("quality < 0.5 or n_tokens > 9", [True, True, True]),
        ("quality < 0.5 and n_tokens > 9", [False, None, False]),
        ("quality < 2 and n_tokens < 9", [True, False, False]),
        ("is_unknown(quality)", [False, True, False]),
        ("is_unknown(quality < 0.5 and n_tokens < 9)", [False, False, False]),
        ("domain in ['code', 'shop']", [True, False, None]),
        ("domain not in ['code']", [False, True, None]),
        ("domain == 'code' or is_unknown(domain)", [True, False, True]),
        ("domain != language", [True, None, None]),
        ("lower(language) == 'en'", [True, None, True]),
        ("startswith(domain, 'c')", [True, False, None]),
        ("contains(domain, 'ew')", [False, True, None]),
        ("matches(domain, '^[a-d]+')", [True, False, None]),
        ("feature(1, 2) > 2", [True, False, False]),
        ("feature(1, 2) >= 2", [True, None, False]),
        ("feature(1, 2) > 1", [True, None, False]),
        ("feature(1, 2) < 3", [False, True, True]),
        ("feature(1, 2) == 0", [False, None, True]),
        ("feature(1, 2) * 2 + 1 > 5", [True, False, False]),
        ("1 / feature(1, 2) > 0.3", [True, None, None]),
        ("is_unknown(feature(1, 2))", [False, True, False]),
        ("quality > threshold('quality')", [False, None, True]),
        ("max(quality, 0.5) == 0.5", [True, None, False]),
        ("n_tokens in [5, 500]", [True, False, True]),
        ("1 < n_tokens <= 50", [True, True, False]),
        ("(quality < 0.5) == (n_tokens < 9)", [True, None, True]),
        ("n_tokens / 0 == 1", [None, None, None]),
        ("1e308 * n_tokens > 1", [None, None, None]),
        ("true or quality < 1", [True, True, True]),
    ],
)
def test_what_is_unknown_is_neither_true_nor_false(text: str, wanted: list[bool | None]) -> None:
    assert decided(text, ROWS) == wanted


def test_an_empty_table_has_no_truths() -> None:
    assert decided("quality < 1 and domain == 'x' or contains(language, 'e')", []) == []


# --- the interpreter: one document at a time, intervals as pairs, None for an unknown truth or text ---


def plain(node: Node, row: Row) -> Any:
    if isinstance(node, Literal):
        return (node.value, node.value) if isinstance(node.value, float) else node.value
    if isinstance(node, Name):
        value = row[node.name]
        return value if node.name in TEXTS else (-math.inf, math.inf) if value is None else (float(value),) * 2
    if isinstance(node, Feature):
        return tuple(map(float, row["feature"]))
    if isinstance(node, Threshold):
        return (0.5, 0.5)
    if isinstance(node, Within):
        tests = [plain_equal(plain(node.item, row), plain(choice, row)) for choice in node.choices]
        return plain_or(tests)
    operands = [plain(operand, row) for operand in node.operands]
    return plain_apply(node, operands)


def plain_apply(node: Apply, operands: list[Any]) -> Any:
    a, b = operands[0], operands[-1]
    match node.operator:
        case "is_unknown":
            return a is None or (isinstance(a, tuple) and a[0] != a[1])
        case "and":
            return negated(plain_or([negated(o) for o in operands]))
        case "or":
            return plain_or(operands)
        case "not":
            return negated(a)
        case "==":
            return plain_equal(a, b)
        case "!=":
            return negated(plain_equal(a, b))
        case "<":
            return True if a[1] < b[0] else False if a[0] >= b[1] else None
        case ">":
            return True if a[0] > b[1] else False if a[1] <= b[0] else None
        case "<=":
            return negated(plain_apply(Apply(">", node.operands, 0), operands))
        case ">=":
            return negated(plain_apply(Apply("<", node.operands, 0), operands))
        case "negate":
            return (-a[1], -a[0])
        case "abs":
            ends = sorted(map(abs, a))
            return (0.0 if a[0] < 0 < a[1] else ends[0], ends[1])
        case "min" | "max":
            choose = min if node.operator == "min" else max
            return (choose(o[0] for o in operands), choose(o[1] for o in operands))
        case "lower":
            return None if a is None else a.lower()
        case "startswith":
            return None if a is None else a.startswith(b)
        case "contains":
            return None if a is None else b in a
        case "matches":
            return None if a is None else re.search(b, a) is not None
        case _:
            return plain_arithmetic(node.operator, a, b)


def plain_arithmetic(operator: str, a: Any, b: Any) -> Any:
    if operator == "/" and b[0] <= 0 <= b[1]:
        return (-math.inf, math.inf)
    steps = {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y, "/": lambda x, y: x / y}
    pairs = {"+": [(0, 0), (1, 1)], "-": [(0, 1), (1, 0)]}.get(operator, [(0, 0), (0, 1), (1, 0), (1, 1)])
    ends = [steps[operator](a[i], b[j]) for i, j in pairs]
    if any(map(math.isnan, ends)) or min(ends) == math.inf or max(ends) == -math.inf:
        return (-math.inf, math.inf)
    return (min(ends), max(ends))


def plain_equal(a: Any, b: Any) -> bool | None:
    if a is None or b is None:
        return None
    if isinstance(a, tuple):
        return True if a[0] == a[1] == b[0] == b[1] else False if a[1] < b[0] or a[0] > b[1] else None
    return bool(a == b)


def plain_or(values: list[bool | None]) -> bool | None:
    return True if True in values else None if None in values else False


def negated(value: bool | None) -> bool | None:
    return None if value is None else not value


numeric = st.recursive(
    st.sampled_from(["quality", "n_tokens", "feature(1, 2)", "feature(1, 2).mean", "threshold('quality')"])
    | st.sampled_from(["0", "0.5", "-1", "3", "2.5"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"abs({t})"),
        inner.map(lambda t: f"(-{t})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
    ),
    max_leaves=4,
)
textual = st.sampled_from(["domain", "language", "lower(language)"])
quoted = st.sampled_from(["'code'", "'en'", "'EN'", "'e'", "''"])
logical = st.recursive(
    st.one_of(
        st.tuples(numeric, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numeric).map(" ".join),
        st.tuples(textual, st.sampled_from(["==", "!="]), quoted | textual).map(" ".join),
        st.tuples(textual, st.lists(quoted, min_size=1, max_size=3)).map(lambda t: f"{t[0]} in [{', '.join(t[1])}]"),
        numeric.map(lambda t: f"{t} not in [0, 0.5, 3]"),
        st.tuples(st.sampled_from(["startswith", "contains", "matches"]), textual, quoted).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        ),
        st.one_of(numeric, textual).map(lambda t: f"is_unknown({t})"),
        st.sampled_from(["true", "false"]),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or", "==", "!="]), inner).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
        inner.map(lambda t: f"not ({t})"),
        inner.map(lambda t: f"is_unknown({t})"),
    ),
    max_leaves=5,
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "quality": st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]),
            "n_tokens": st.integers(0, 4),
            "domain": st.none() | st.sampled_from(["code", "en", ""]),
            "language": st.none() | st.sampled_from(["en", "EN", "Code"]),
            "feature": st.sampled_from([(0.0, 0.0), (2.5, 2.5), (0.0, 2.5), (0.0, 0.5), (3.0, 3.0)]),
        }
    ),
    max_size=12,
)


@settings(max_examples=400, deadline=None)
@given(logical, rows)
def test_a_compiled_expression_equals_the_interpreter_on_any_table(text: str, table: list[Row]) -> None:
    tree = parse_expression(text)
    assert decided(text, table) == [plain(tree, row) for row in table]

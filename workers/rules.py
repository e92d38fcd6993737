"""A recipe's rules over a tags table: each document is kept, or dropped by the first rule that matches."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.schemas.errors import AssayError, unknown_name
from assay.schemas.recipe import Condition, Rule
from assay.schemas.statistics import TagColumn

KEPT = -1
_NUMBERS = ("n_tokens", "tokens_seen", "n_bytes")


def check_rules(rules: Sequence[Rule], columns: Sequence[TagColumn], *, where: str) -> None:
    """AssayError if a rule names a column that the tags don't have, or compares a label with a number."""
    numbers = {*_NUMBERS, *(c.name if c.kind == "score" else f"{c.name}_p" for c in columns)}
    labels = {c.name for c in columns if c.kind == "label"}
    for rule in rules:
        for condition in rule.drop_if:
            spot = f"{where}: rule {rule.name!r}"
            if condition.column not in numbers | labels:
                raise unknown_name("column", condition.column, numbers | labels, where=spot)
            on_labels = condition.is_in is not None or condition.not_in is not None
            on_numbers = condition.below is not None or condition.above is not None
            if (on_labels and condition.column in numbers) or (on_numbers and condition.column in labels):
                kind, tests = ("labels", "is_in, not_in") if condition.column in labels else ("numbers", "below, above")
                raise AssayError(f"column {condition.column!r} holds {kind}", where=spot, hint=f"test it with {tests}")


def first_match(rules: Sequence[Rule], tags: pa.Table) -> NDArray[np.int32]:
    """For each document the index of the rule that drops it, or KEPT."""
    decision = np.full(tags.num_rows, KEPT, np.int32)
    for index in range(len(rules) - 1, -1, -1):
        decision[_matches(rules[index], tags)] = index
    return decision


def match_counts(rules: Sequence[Rule], tags: pa.Table) -> Mapping[str, int]:
    """For each rule the documents that it would drop if it were alone."""
    return {rule.name: int(_matches(rule, tags).sum()) for rule in rules}


def _matches(rule: Rule, tags: pa.Table) -> NDArray[np.bool_]:
    return np.logical_and.reduce([_holds(condition, tags[condition.column]) for condition in rule.drop_if])


def _holds(condition: Condition, column: pa.ChunkedArray) -> NDArray[np.bool_]:
    if condition.is_unknown is not None:
        truth = pc.equal(pc.is_null(column), condition.is_unknown)
    elif condition.below is not None:
        truth = pc.less(column, condition.below)
    elif condition.above is not None:
        truth = pc.greater(column, condition.above)
    else:
        labels = condition.is_in if condition.is_in is not None else condition.not_in
        inside = pc.is_in(column, value_set=pa.array(labels, pa.string()))
        truth = inside if condition.is_in is not None else pc.invert(inside)
        truth = pc.and_(truth, pc.is_valid(column))
    return pc.fill_null(truth, False).to_numpy(zero_copy_only=False).astype(bool)

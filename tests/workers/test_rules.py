"""A recipe's rules: the first that matches drops a document, and what is unknown matches nothing but is_unknown."""

from typing import Any

import pyarrow as pa
import pytest

from assay.schemas.recipe import Condition, Rule
from assay.schemas.statistics import TagColumn
from assay.workers.rules import KEPT, first_match, match_counts

COLUMNS = (
    TagColumn(name="quality", axis="quality", kind="score"),
    TagColumn(name="domain", axis="domain", kind="label"),
)
TAGS = pa.table(
    {
        "n_tokens": pa.array([5, 40, 100, 1000], pa.int32()),
        "quality": pa.array([0.1, None, 0.5, 0.9], pa.float32()),
        "domain": pa.array(["code", "news", None, "shop"]),
        "domain_p": pa.array([0.9, 0.4, None, 0.6], pa.float32()),
    }
)


def rule(name: str, *conditions: dict[str, Any]) -> Rule:
    return Rule(name=name, reason="because", drop_if=tuple(Condition(**c) for c in conditions))


def dropped(*conditions: dict[str, Any], tags: pa.Table = TAGS) -> list[int]:
    """The documents that a rule of these conditions drops."""
    decision = first_match([rule("r", *conditions)], tags)
    return [i for i, value in enumerate(decision) if value != KEPT]


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ({"column": "quality", "below": 0.5}, [0]),
        ({"column": "quality", "above": 0.5}, [3]),
        ({"column": "quality", "above": 0}, [0, 2, 3]),
        ({"column": "n_tokens", "below": 40}, [0]),
        ({"column": "n_tokens", "above": 40.5}, [2, 3]),
        ({"column": "domain", "is_in": ("code", "shop", "none")}, [0, 3]),
        ({"column": "domain", "is_in": ()}, []),
        ({"column": "domain", "not_in": ("code", "shop")}, [1]),
        ({"column": "domain", "not_in": ()}, [0, 1, 3]),
        ({"column": "domain_p", "below": 2}, [0, 1, 3]),
        ({"column": "quality", "is_unknown": True}, [1]),
        ({"column": "quality", "is_unknown": False}, [0, 2, 3]),
        ({"column": "domain", "is_unknown": True}, [2]),
        ({"column": "n_tokens", "is_unknown": True}, []),
    ],
    ids=str,
)
def test_a_condition_matches_known_values_only_and_is_unknown_the_others(
    condition: dict[str, Any], wanted: list[int]
) -> None:
    assert dropped(condition) == wanted


def test_a_rule_needs_all_its_conditions() -> None:
    assert dropped({"column": "n_tokens", "above": 10}, {"column": "domain", "is_in": ("shop", "code")}) == [3]
    assert dropped({"column": "n_tokens", "above": 10}, {"column": "quality", "below": 0.2}) == []


def test_the_first_rule_that_matches_drops_and_counts_of_each_alone_overlap() -> None:
    rules = [
        rule("short", {"column": "n_tokens", "below": 50}),
        rule("code", {"column": "domain", "is_in": ("code", "shop")}),
        rule("any", {"column": "n_tokens", "below": 500}),
    ]
    assert first_match(rules, TAGS).tolist() == [0, 0, 2, 1]
    assert first_match(rules[::-1], TAGS).tolist() == [0, 0, 0, 1]
    assert match_counts(rules, TAGS) == {"short": 2, "code": 2, "any": 3}


def test_without_rules_every_document_is_kept() -> None:
    assert first_match([], TAGS).tolist() == [KEPT] * 4
    assert match_counts([], TAGS) == {}


def test_an_empty_table_and_one_of_several_chunks_are_decided_too() -> None:
    assert dropped({"column": "quality", "below": 0.5}, tags=TAGS.slice(0, 0)) == []
    chunked = pa.concat_tables([TAGS, TAGS.slice(1), TAGS.slice(0, 0)])
    assert dropped({"column": "domain", "not_in": ("news",)}, tags=chunked) == [0, 3, 6]

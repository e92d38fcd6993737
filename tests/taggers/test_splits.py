"""Splits: a group is in one of them, and each has its share of every label."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.schemas.errors import AssayError
from assay.taggers.splits import bucket_split, complete_splits, given_split, shared_groups, stratified_splits

SPLITS = ("discovery", "validation", "test")


def test_every_label_has_seven_one_and_two_tenths_of_its_documents_in_the_splits() -> None:
    strata = ["rare"] * 30 + ["usual"] * 970
    splits = stratified_splits([str(n) for n in range(1000)], strata)
    for label, size in (("rare", 30), ("usual", 970)):
        counts = Counter(split for split, stratum in zip(splits, strata, strict=True) if stratum == label)
        assert [counts[s] for s in SPLITS] == pytest.approx([0.7 * size, 0.1 * size, 0.2 * size], abs=1)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=60), st.integers(0, 5))
def test_a_group_is_in_one_split_whatever_its_labels(rows: list[tuple[int, int]], seed: int) -> None:
    groups, strata = [str(g) for g, _ in rows], [str(s) for _, s in rows]
    splits = stratified_splits(groups, strata, seed)
    assert shared_groups(groups, splits) == 0
    assert set(splits) <= set(SPLITS)


def test_the_same_documents_in_another_order_get_the_same_splits() -> None:
    groups = [str(n // 2) for n in range(100)]
    strata = [str(n % 3) for n in range(100)]
    there = dict(zip(groups, stratified_splits(groups, strata), strict=True))
    back = dict(zip(groups[::-1], stratified_splits(groups[::-1], strata[::-1]), strict=True))
    assert there == back


def test_another_seed_draws_other_splits() -> None:
    groups, strata = [str(n) for n in range(200)], ["x"] * 200
    assert stratified_splits(groups, strata, 0) != stratified_splits(groups, strata, 1)


def test_the_bucket_of_a_group_is_fixed_for_ever() -> None:
    buckets = {"a": "discovery", "b": "discovery", "g": "validation", "e": "test", "ü": "discovery"}
    assert {name: bucket_split(name) for name in buckets} == buckets


def test_given_splits_are_kept_and_validation_is_taken_from_training_only() -> None:
    given_ones = ["discovery"] * 80 + ["test"] * 20
    splits = complete_splits(given_ones, [str(n) for n in range(100)], ["x"] * 100)
    assert splits[80:] == ["test"] * 20
    assert Counter(splits[:80]) == {"discovery": 70, "validation": 10}


def test_splits_that_are_given_for_some_documents_only_are_an_error() -> None:
    with pytest.raises(AssayError, match="1 of 2 documents have no split"):
        complete_splits(["test", ""], ["a", "b"], ["x", "x"])


def test_a_split_that_no_one_knows_is_an_error() -> None:
    assert [given_split(value) for value in ("Train", "dev", "test")] == ["discovery", "validation", "test"]
    with pytest.raises(AssayError, match="names no split"):
        given_split("fold\x1b[2J")

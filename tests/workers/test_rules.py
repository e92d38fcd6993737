"""A recipe's verdicts: the first rule that is true drops a document, and what is unknown drops nothing unless asked."""

from typing import Any

import pyarrow as pa
import pytest

from assay.schemas.recipe import Recipe
from assay.schemas.statistics import TagColumn
from assay.schemas.store import ShardEntry
from assay.workers.curate_job import CurateJob, TaggedShard
from assay.workers.rules import KEPT, Decider, ShardDocuments, Verdicts
from assay.workers.storage.objects import ObjectStore

COLUMNS = (
    TagColumn(name="quality", axis="quality", kind="score"),
    TagColumn(name="domain", axis="domain", kind="label"),
)
TAGS = pa.table(
    {
        "doc_id": ["a", "b", "c", "d"],
        "n_bytes": pa.array([10, 80, 200, 2000], pa.int64()),
        "n_tokens": pa.array([5, 40, 100, 1000], pa.int32()),
        "quality": pa.array([0.1, None, 0.5, 0.9], pa.float32()),
        "domain": pa.array(["code", "news", None, "shop"]),
    }
)


def rule(name: str, drop_if: str, **more: str) -> dict[str, str]:
    return {"name": name, "reason": "because", "drop_if": drop_if, **more}


def verdicts(*rules: dict[str, str], tags: pa.Table = TAGS, **recipe: Any) -> Verdicts:
    """What a recipe of these rules does to a shard in memory."""
    made = Recipe.model_validate(
        {
            "name": "r",
            "sources": [{"store": "none", "name": "web"}],
            "output": {"path": "out"},
            "rules": rules,
            **recipe,
        }
    )
    job = CurateJob(made, "f", (), COLUMNS, {}, {"domain": ("code", "news", "shop")}, {"quality": 0.5})
    shard = TaggedShard(0, 0, ShardEntry(shard="s", rows_in=4, rows_kept=4, objects={}))
    return Decider(job).decide(ShardDocuments(job, shard, ObjectStore("none"), tags))


def dropped(drop_if: str, tags: pa.Table = TAGS, **more: str) -> list[int]:
    return [i for i, by in enumerate(verdicts(rule("r", drop_if, **more), tags=tags).by) if by != KEPT]


@pytest.mark.parametrize(
    ("drop_if", "wanted"),
    [
        ("quality < 0.5", [0]),
        ("quality > threshold('quality')", [3]),
        ("n_tokens < 40", [0]),
        ("domain in ['code', 'shop']", [0, 3]),
        ("domain not in ['code', 'shop']", [1]),
        ("is_unknown(quality)", [1]),
        ("source == 'web' and id == 'c'", [2]),
        ("source != 'web'", []),
    ],
)
def test_a_rule_drops_the_documents_of_which_it_is_true(drop_if: str, wanted: list[int]) -> None:
    assert dropped(drop_if) == wanted


def test_a_rule_that_is_undecided_keeps_a_document_or_drops_it_as_the_recipe_says() -> None:
    assert dropped("quality < 0.5") == [0]
    assert dropped("quality < 0.5", undecided="drop") == [0, 1]
    found = verdicts(rule("r", "quality < 0.5 and n_tokens > 10"), rule("s", "domain == 'code'"))
    assert [mask.tolist() for mask in found.unknown] == [[False, True, False, False], [False, False, True, False]]


def test_the_first_rule_that_matches_drops_and_what_each_would_drop_alone_overlaps() -> None:
    rules = [rule("short", "n_tokens < 50"), rule("code", "domain in ['code', 'shop']"), rule("any", "n_tokens < 500")]
    assert verdicts(*rules).by.tolist() == [0, 0, 2, 1]
    assert verdicts(*rules[::-1]).by.tolist() == [0, 0, 0, 1]
    assert [int(mask.sum()) for mask in verdicts(*rules).matches] == [2, 2, 3]


def test_without_rules_every_document_is_kept_once() -> None:
    found = verdicts()
    assert found.by.tolist() == [KEPT] * 4
    assert found.copies.tolist() == [1] * 4


def test_an_empty_table_and_one_of_several_chunks_are_decided_too() -> None:
    assert dropped("quality < 0.5", tags=TAGS.slice(0, 0)) == []
    chunked = pa.concat_tables([TAGS, TAGS.slice(1), TAGS.slice(0, 0)])
    assert dropped("domain not in ['news']", tags=chunked) == [0, 3, 6]


def test_only_the_columns_that_a_recipe_reads_are_asked_for() -> None:
    def columns(*rules: dict[str, str], **recipe: Any) -> list[str]:
        values = {"name": "r", "sources": [{"store": "none"}], "output": {"path": "out"}, "rules": rules, **recipe}
        return Decider(CurateJob(Recipe.model_validate(values), "f", (), COLUMNS, {})).columns

    sizes = ["n_bytes", "n_tokens"]
    assert columns() == sizes
    assert columns(rule("a", "quality < 0.5 and source == 'x'")) == [*sizes, "quality"]
    assert columns(rule("a", "id == 'x'")) == ["doc_id", *sizes]
    assert columns(mixture={"by": "domain", "shares": {"code": 1}}) == ["doc_id", "domain", *sizes]
    assert columns(sample={"tokens": 5, "top": "quality", "within": "source"}) == ["doc_id", *sizes, "quality"]

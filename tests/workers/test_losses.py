"""Who loses more than their share: counted exactly, blamed on the right rule, and not called out by chance."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from assay.schemas.loss import GroupLoss, LossReport
from assay.schemas.statistics import TagColumn
from assay.workers.losses import LossTally
from assay.workers.rules import KEPT

COLUMNS = (
    TagColumn(name="topic", axis="domain", kind="label"),
    TagColumn(name="quality", axis="quality", kind="score"),
)
RULES = ("short", "bad")


def documents(seed: int, n: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "row": np.arange(n),
            "doc_id": [f"{seed}-{i}" for i in range(n)],
            "topic": draw.choice(np.array(["code", "news", "law", None], object), n, p=[0.5, 0.3, 0.15, 0.05]),
            "quality": pa.array(draw.random(n), pa.float32()),
            "n_tokens": pa.array(draw.integers(1, 400, n), pa.int32()),
        }
    )


def tally(*shards: tuple[int, pa.Table, np.ndarray], sources: tuple[str, ...] = ("web",)) -> LossTally:
    found = LossTally(COLUMNS, RULES, sources)
    for source, tags, verdict in shards:
        found.add(source, tags, verdict.astype(np.int32))
    return found


def group(groups: tuple[GroupLoss, ...], metric: str, value: str) -> GroupLoss:
    return next(g for g in groups if (g.metric, g.value) == (metric, value))


def test_every_group_is_counted_as_the_raw_tags_count_it() -> None:
    shards = []
    for seed in range(3):
        tags = documents(seed, 400)
        verdict = np.where(tags["n_tokens"].to_numpy() < 60, 0, np.where(tags["quality"].to_numpy() < 0.3, 1, KEPT))
        shards.append((0, tags, verdict))
    found = tally(*shards)
    frame = pl.concat([pl.DataFrame(pl.from_arrow(t)).with_columns(by=pl.Series(v)) for _, t, v in shards])
    assert found.kept == frame.filter(pl.col("by") == KEPT).height
    assert [rule.dropped for rule in found.rules()] == [frame.filter(pl.col("by") == i).height for i in (0, 1)]
    lost = pl.col("by") != KEPT
    topics = frame.group_by(pl.col("topic").fill_null("")).agg(pl.len(), lost.sum().alias("lost")).rows()
    groups = found.groups()
    assert {(g.value, g.documents, g.dropped) for g in groups if g.metric == "topic"} == set(topics)
    for g in groups:
        assert sum(rule.dropped for rule in g.by) == g.dropped
        assert g.lift == pytest.approx(g.dropped / g.documents / (frame["by"] != KEPT).mean())
    report = LossReport(
        uri="x",
        name="x",
        fingerprint="f",
        documents=1200,
        dropped=1200 - found.kept,
        rules=found.rules(),
        groups=groups,
    )
    assert report.groups[0].lift == max(g.lift for g in groups)


def test_what_falls_on_one_group_is_found_with_the_rule_that_does_it() -> None:
    tags = documents(0, 4000)
    topic, draw = np.array(tags["topic"].to_pylist(), object), np.random.default_rng(9).random(4000)
    verdict = np.where(draw < 0.1, 1, np.where((topic == "law") & (draw < 0.5), 0, KEPT))
    law = group(tally((0, tags, verdict)).groups(), "topic", "law")
    assert law.more and law.cause == "short" and law.low > 2
    assert group(tally((0, tags, verdict)).groups(), "topic", "code").less


def test_rules_that_look_at_nothing_are_said_to_be_fair_as_often_as_stated() -> None:
    false = 0
    for seed in range(60):
        tags = documents(seed, 500)
        verdict = np.where(np.random.default_rng(1000 + seed).random(500) < 0.2, 0, KEPT)
        false += any(g.more or g.less for g in tally((0, tags, verdict)).groups())
    assert false <= 7  # 3 expected


def test_a_group_of_which_nothing_stays_has_vanished_and_a_single_document_is_no_evidence() -> None:
    tags = documents(0, 1000)
    topic = np.array(tags["topic"].to_pylist(), object)
    topic[17] = "odd"
    tags = tags.set_column(2, "topic", pa.array(topic))
    verdict = np.where((topic == "law") | (topic == "odd"), 1, KEPT)
    groups = tally((0, tags, verdict)).groups()
    law, odd = group(groups, "topic", "law"), group(groups, "topic", "odd")
    assert law.vanished and law.more and law.by[0].name == "bad"
    assert odd.vanished and not odd.more
    assert not group(groups, "topic", "code").vanished


def test_sources_are_groups_where_there_are_several() -> None:
    some, other = documents(0, 300), documents(1, 300)
    none, half = np.full(300, KEPT), np.where(np.arange(300) % 2, 0, KEPT)
    groups = tally((0, some, none), (1, other, half), sources=("web", "books")).groups()
    assert group(groups, "source", "books").more and group(groups, "source", "web").less
    assert not [g for g in tally((0, some, half)).groups() if g.metric == "source"]


def test_where_nothing_is_dropped_nobody_loses_and_where_all_is_everybody_has() -> None:
    tags = documents(0, 50)
    assert tally((0, tags, np.full(50, KEPT))).groups() == ()
    groups = tally((0, tags, np.zeros(50))).groups()
    assert all(g.vanished and g.lift == 1 and not g.more for g in groups)

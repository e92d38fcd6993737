"""Drift of simulated corpora: none where there is none, as often as stated, and a planted one found and named."""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from assay.schemas.drift import MetricDrift
from assay.schemas.statistics import TagColumn, merge, shard_statistics
from assay.workers.comparison import compare

COLUMNS = (
    TagColumn(name="topic", axis="domain", kind="label"),
    TagColumn(name="tongue", axis="language", kind="label"),
    TagColumn(name="quality", axis="quality", kind="score"),
    TagColumn(name="form", axis="custom", kind="label"),
)
TOPICS = {"code": 0.4, "news": 0.3, "shop": 0.2, "law": 0.098, "rare": 0.002}


def corpus(seed: int, documents: int, **changes: Any) -> pa.Table:
    """Tags of a corpus: law is long, a tenth has no form, twenty tongues are rare."""
    draw = np.random.default_rng(seed)
    topics = changes.get("topics", TOPICS)
    topic = draw.choice(list(topics), documents, p=list(topics.values()))
    tongues = ["en", "de", *(f"t{n}" for n in range(20))]
    lengths = np.exp(draw.normal(np.where(topic == "law", 7, 5), 1.2)).astype(int) + changes.get("longer", 0)
    return pa.table(
        {
            "topic": topic,
            "tongue": draw.choice(tongues, documents, p=[0.8, 0.16, *[0.002] * 20]),
            "quality": pa.array(draw.beta(*changes.get("beta", (2, 5)), documents), pa.float32()),
            "form": pa.array(draw.choice(np.array(["prose", "list", None], object), documents, p=[0.5, 0.4, 0.1])),
            "n_tokens": pa.array(lengths, pa.int32()),
        }
    )


def drift(a: pa.Table, b: pa.Table) -> dict[str, MetricDrift]:
    """Metric -> its drift, in the order of the report."""
    return {m.metric: m for m in compare(shard_statistics(a, COLUMNS), shard_statistics(b, COLUMNS), COLUMNS)}


@pytest.mark.parametrize(("n_a", "n_b"), [(250, 250), (3000, 400)])
def test_two_halves_of_one_corpus_are_called_drift_as_rarely_as_stated(n_a: int, n_b: int) -> None:
    runs = [drift(corpus(2 * seed, n_a), corpus(2 * seed + 1, n_b)) for seed in range(120)]
    assert sum(any(m.verdict == "drift" for m in found.values()) for found in runs) <= 14  # 6 expected
    for by in ("documents", "tokens"):
        stability = [getattr(m, by) for found in runs for m in found.values()]
        over = np.mean([s.psi > s.noise_95 for s in stability])
        assert 0.01 < over < 0.08
        assert 0.8 < np.mean([s.psi / s.noise for s in stability]) < 1.1


def test_the_noise_of_documents_is_bins_less_one_over_the_sizes() -> None:
    found = drift(corpus(0, 3000), corpus(1, 400))
    for metric in found.values():
        assert metric.documents.noise == pytest.approx((metric.bins - 1) * (1 / 3000 + 1 / 400), rel=1e-6)


def test_a_planted_shift_is_found_named_and_comes_first() -> None:
    shifted = {**TOPICS, "shop": 0.1, "spam": 0.1}
    found = drift(corpus(0, 2000), corpus(1, 2000, topics=shifted))
    first = next(iter(found.values()))
    assert (first.metric, first.verdict) == ("topic", "drift")
    assert {change.value for change in first.changes[:2]} == {"shop", "spam"}
    assert first.appeared == ("spam",) and not first.vanished
    spam = next(change for change in first.changes if change.value == "spam")
    assert spam.docs[0] == 0 and spam.low < 0.1 < spam.high
    assert all(m.verdict == "noise" for name, m in found.items() if name not in ("topic", "tokens"))


def test_a_shift_of_tokens_alone_shows_by_tokens_alone() -> None:
    a = corpus(0, 4000)
    longer = np.where(np.array(a["topic"]) == "code", 20, 1) * a["n_tokens"].to_numpy()
    found = drift(a, a.set_column(a.column_names.index("n_tokens"), "n_tokens", pa.array(longer, pa.int32())))
    assert found["topic"].documents.verdict == "same"
    assert found["topic"].tokens.verdict == "drift"


def test_identical_corpora_differ_by_nothing() -> None:
    for metric in drift(corpus(0, 500), corpus(0, 500)).values():
        assert metric.verdict == "same"
        assert (metric.documents.psi, metric.tokens.psi, metric.jensen_shannon) == (0, 0, 0)
        assert all(change.difference == 0 for change in metric.changes)


def test_corpora_with_nothing_in_common_are_a_whole_bit_apart() -> None:
    a, b = corpus(0, 50, topics={"x": 1.0}), corpus(1, 60, topics={"y": 1.0})
    found = drift(a, b)["topic"]
    assert found.jensen_shannon == pytest.approx(1)
    assert (found.appeared, found.vanished, found.verdict) == (("y",), ("x",), "drift")


def test_counts_are_those_of_the_tags_and_psi_is_its_sum() -> None:
    a, b = corpus(0, 800), corpus(1, 900, beta=(3, 5))
    found = drift(a, b)
    for name in ("topic", "tongue", "form"):
        for side, table in enumerate((a, b)):
            frame = pl.from_arrow(table)
            assert isinstance(frame, pl.DataFrame)
            raw = frame.group_by(pl.col(name).fill_null("")).agg(pl.len(), pl.col("n_tokens").sum())
            held = {(c.value, c.docs[side], c.tokens[side]) for c in found[name].changes if c.docs[side]}
            assert held == set(raw.rows())
    topic = [(c.docs[0] + 0.5, c.docs[1] + 0.5) for c in found["topic"].changes if c.value not in ("rare", "law")]
    merged = [c.docs for c in found["topic"].changes if c.value in ("rare", "law")]
    topic.append((sum(d[0] for d in merged) + 0.5, sum(d[1] for d in merged) + 0.5))
    assert found["topic"].bins == len(topic)
    shares = np.array(topic) / np.array(topic).sum(0)
    assert found["topic"].documents.psi == pytest.approx(
        ((shares[:, 1] - shares[:, 0]) * np.log(shares[:, 1] / shares[:, 0])).sum()
    )
    for side, table in enumerate((a, b)):
        median = found["quality"].median[side]
        assert median is not None and abs(median - np.median(table["quality"].to_numpy())) < 1 / 64


def test_merged_statistics_compare_as_the_whole() -> None:
    a, b = corpus(0, 600), corpus(1, 500)
    parts = [shard_statistics(a.slice(0, 200), COLUMNS), shard_statistics(a.slice(200), COLUMNS)]
    whole = compare(shard_statistics(a, COLUMNS), shard_statistics(b, COLUMNS), COLUMNS)
    assert compare(merge(parts), shard_statistics(b, COLUMNS), COLUMNS) == whole


def test_a_corpus_of_one_document_is_compared_and_is_noise() -> None:
    found = drift(corpus(0, 1), corpus(1, 1))
    assert {m.verdict for m in found.values()} <= {"noise", "same"}
    assert all(m.bins >= 1 for m in found.values())


def test_without_lengths_and_columns_of_both_only_those_are_compared() -> None:
    a = shard_statistics(corpus(0, 100), COLUMNS)
    assert [m.metric for m in compare(a, a, COLUMNS[2:3], lengths=False)] == ["quality"]
    assert [m.metric for m in compare(a, a, ())] == ["tokens"]

"""Statistics of a tags table in fixed bins: exact, and merged by addition in any order.

One long table per shard, one row per cell that holds a document. Every document is counted once in each metric,
so the rows of any one metric sum to the documents and tokens of the shard.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from assay.schemas.base import Model
from assay.schemas.errors import AssayError

SCORE_BINS = 64
BINS_PER_OCTAVE = 4
NO_BIN = -1
TOKENS = "tokens"

KEYS = ("domain", "language", "metric", "label", "bin")
STATISTICS = pa.schema(
    [
        ("domain", pa.string()),
        ("language", pa.string()),
        ("metric", pa.string()),
        ("label", pa.string()),
        ("bin", pa.int32()),
        ("docs", pa.int64()),
        ("tokens", pa.int64()),
    ],
    metadata={"assay.statistics": "1: scores 64 bins of [0,1]; tokens 4 bins per octave; -1 has no value"},
)

# The smallest whole number in each length bin; a double holds 2**(k/4) far more closely than whole numbers are apart.
_LENGTH_EDGES = np.ceil(np.exp2(np.arange(31 * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE)).astype(np.int64)


class TagColumn(Model):
    """A tagger's main column in a tags table."""

    name: str
    axis: Literal["quality", "safety", "domain", "language", "custom"]
    kind: Literal["score", "label"]


def dimensions(columns: Sequence[TagColumn]) -> tuple[TagColumn | None, TagColumn | None]:
    """The label columns that split every statistic: the first on the domain axis, the first on the language axis."""
    labels = [column for column in columns if column.kind == "label"]
    domain = next((column for column in labels if column.axis == "domain"), None)
    language = next((column for column in labels if column.axis == "language"), None)
    return domain, language


def length_bin_start(index: int) -> int:
    """The fewest tokens of a document in length bin `index`: ceil(2**(index/4))."""
    return int(_LENGTH_EDGES[index])


def shard_statistics(tags: pa.Table, columns: Sequence[TagColumn]) -> pa.Table:
    """Counts each document of `tags` once per metric, in the rows and order of `STATISTICS`.

    A score's bin b holds [b/64, (b+1)/64), the last one 1.0 too; undecided documents are in bin -1. The metric
    "tokens" has 4 bins per octave of n_tokens, and -1 for no tokens at all. A label column that is not one of
    the `dimensions` becomes a metric with its value in `label` and bin 0. An undecided domain or language is "".

    Raises AssayError for a score outside [0, 1], or a tagger that takes the name "tokens".
    """
    domain, language = dimensions(columns)
    rows = tags.num_rows
    empty = pa.repeat(pa.scalar("", pa.string()), rows)
    lengths = _array(tags, "n_tokens", pa.int64())
    shared = {
        "domain": empty if domain is None else _labels(tags, domain.name),
        "language": empty if language is None else _labels(tags, language.name),
        "tokens": lengths,
    }
    parts = [_counts(shared, TOKENS, empty, _length_bins(lengths.to_numpy()))]
    for column in columns:
        if column.name == TOKENS:
            raise AssayError(
                f"a tagger can't be named {TOKENS!r}: the length statistics have that name", hint="rename it"
            )
        if column.kind == "score":
            parts.append(_counts(shared, column.name, empty, _score_bins(tags, column.name)))
        elif column not in (domain, language):
            decided = tags[column.name].is_valid().to_numpy()
            parts.append(_counts(shared, column.name, _labels(tags, column.name), np.where(decided, 0, NO_BIN)))
    return merge(parts)


def merge(tables: Iterable[pa.Table]) -> pa.Table:
    """Adds statistics cell by cell: any order and grouping of the same tables gives the same bytes."""
    parts = [table.select(STATISTICS.names).cast(STATISTICS) for table in tables]
    joined = pa.concat_tables([STATISTICS.empty_table(), *parts])
    added = joined.group_by(list(KEYS)).aggregate([("docs", "sum"), ("tokens", "sum")])
    added = added.rename_columns([*KEYS, "docs", "tokens"]).sort_by([(key, "ascending") for key in KEYS])
    return added.combine_chunks().cast(STATISTICS)


def _counts(shared: dict[str, pa.Array], metric: str, label: pa.Array, bins: np.ndarray) -> pa.Table:
    table = pa.table({**shared, "label": label, "bin": pa.array(bins, pa.int32())})
    keys = ["domain", "language", "label", "bin"]
    counted = table.group_by(keys).aggregate([("tokens", "sum"), ([], "count_all")])
    counted = counted.rename_columns({"tokens_sum": "tokens", "count_all": "docs"})
    names = pa.repeat(pa.scalar(metric, pa.string()), counted.num_rows)
    return counted.append_column("metric", names).select(STATISTICS.names).cast(STATISTICS)


def _array(tags: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    return tags[name].cast(kind).combine_chunks()


def _labels(tags: pa.Table, name: str) -> pa.Array:
    return _array(tags, name, pa.string()).fill_null("")


def _score_bins(tags: pa.Table, name: str) -> np.ndarray:
    scores = _array(tags, name, pa.float64()).to_numpy(zero_copy_only=False)
    decided = ~np.isnan(scores)
    known = scores[decided]
    if known.size and (known.min() < 0 or known.max() > 1):
        raise AssayError(f"a score of {name!r} lies outside [0, 1]", hint="calibrate the tagger")
    bins = np.full(scores.shape, NO_BIN, np.int32)
    bins[decided] = np.minimum(known * SCORE_BINS, SCORE_BINS - 1).astype(np.int32)
    return bins


def _length_bins(tokens: np.ndarray) -> np.ndarray:
    return np.searchsorted(_LENGTH_EDGES, tokens, side="right") - 1

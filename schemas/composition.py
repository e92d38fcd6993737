"""What a corpus is made of, in presentable numbers drawn from merged statistics.

Counts are exact. Means and quantiles are estimates within a bin: off by at most its width (see `ScoreSummary`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field

from assay.schemas.base import Model
from assay.schemas.statistics import NO_BIN, SCORE_BINS, TOKENS, TagColumn, dimensions, length_bin_start

BANDS = 8
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Cell = dict[str, Any]


class Share(Model):
    """The documents that carry one label; "" stands for undecided."""

    label: str
    docs: int = Field(ge=0)
    tokens: int = Field(ge=0)


class ScoreSummary(Model):
    """The distribution of one score over the documents that have it."""

    name: str
    axis: str
    docs: tuple[int, ...] = Field(description=f"documents in each of {SCORE_BINS} equal bins of [0, 1]")
    tokens: tuple[int, ...] = Field(description="tokens of these documents")
    undecided: int = Field(ge=0, description="documents without this score")
    mean: float | None = Field(description="estimate, off by at most half a bin; None: no document has the score")
    quantiles: dict[str, float] = Field(description="p05, p25, p50, p75, p95: estimates, off by at most one bin")
    bin_width: float = Field(1 / SCORE_BINS, description="the largest error of a quantile")
    half_or_more: int = Field(ge=0, description="documents with a score of at least 0.5: exact")

    @property
    def decided(self) -> int:
        """Documents that have the score."""
        return sum(self.docs)

    def quantile(self, q: float) -> float | None:
        """The score below which a share `q` of the documents lies, interpolated in its bin; None without documents."""
        return _quantile(self.docs, q)


class DomainScore(Model):
    """One score within one domain: the documents in each eighth of [0, 1], which are exact sums of bins."""

    domain: str
    score: str
    docs: tuple[int, ...] = Field(description=f"documents in each of {BANDS} equal bands of [0, 1]")
    undecided: int = Field(ge=0)
    mean: float | None = Field(description="estimate, off by at most half a bin")
    half_or_more: int = Field(ge=0, description="documents with a score of at least 0.5: exact")

    @property
    def decided(self) -> int:
        """Documents of the domain that have the score."""
        return sum(self.docs)


class LengthBin(Model):
    """Documents whose length in tokens lies in [first, next)."""

    first: int
    next: int
    docs: int
    tokens: int


class Composition(Model):
    """The documents of a corpus by domain, language, score and length."""

    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    domains: tuple[Share, ...] = Field(description="largest first; empty without a domain tagger")
    languages: tuple[Share, ...] = Field(description="largest first; empty without a language tagger")
    labels: dict[str, tuple[Share, ...]] = Field(description="other label taggers: name -> shares, largest first")
    scores: tuple[ScoreSummary, ...]
    by_domain: tuple[DomainScore, ...] = Field(description="domains in the order of `domains`, for each score")
    lengths: tuple[LengthBin, ...] = Field(description="from the shortest document to the longest, without gaps")
    no_tokens: int = Field(0, ge=0, description="documents without any token, which no length bin holds")

    @staticmethod
    def of(statistics: pa.Table, columns: Sequence[TagColumn]) -> "Composition":
        """The composition held by merged statistics of tables with these tag columns."""
        by_metric: dict[str, list[Cell]] = {}
        for cell in statistics.to_pylist():
            by_metric.setdefault(cell["metric"], []).append(cell)
        lengths = by_metric.get(TOKENS, [])
        domain, language = dimensions(columns)
        domains = _shares(lengths, "domain") if domain else ()
        scores = [column for column in columns if column.kind == "score"]
        others = [c for c in columns if c.kind == "label" and c not in (domain, language)]
        return Composition(
            documents=sum(cell["docs"] for cell in lengths),
            tokens=sum(cell["tokens"] for cell in lengths),
            domains=domains,
            languages=_shares(lengths, "language") if language else (),
            labels={column.name: _shares(by_metric.get(column.name, []), "label") for column in others},
            scores=tuple(_score(column, by_metric.get(column.name, [])) for column in scores),
            by_domain=tuple(
                _domain_score(share.label, column.name, by_metric.get(column.name, []))
                for column in scores
                for share in domains
            ),
            lengths=_lengths(lengths),
            no_tokens=sum(cell["docs"] for cell in lengths if cell["bin"] == NO_BIN),
        )

    def score(self, name: str) -> ScoreSummary:
        """The summary of one score; KeyError if no tagger gave it."""
        for score in self.scores:
            if score.name == name:
                return score
        raise KeyError(name)


def _shares(cells: Iterable[Cell], dimension: str) -> tuple[Share, ...]:
    found: dict[str, tuple[int, int]] = {}
    for cell in cells:
        docs, tokens = found.get(cell[dimension], (0, 0))
        found[cell[dimension]] = docs + cell["docs"], tokens + cell["tokens"]
    ordered = sorted(found.items(), key=lambda item: (item[0] == "", -item[1][0], item[0]))
    return tuple(Share(label=label, docs=docs, tokens=tokens) for label, (docs, tokens) in ordered)


def _binned(cells: Iterable[Cell], value: str, keep: Callable[[Cell], bool] = lambda _: True) -> tuple[list[int], int]:
    bins, missing = [0] * SCORE_BINS, 0
    for cell in cells:
        if not keep(cell):
            continue
        if cell["bin"] == NO_BIN:
            missing += cell[value]
        else:
            bins[cell["bin"]] += cell[value]
    return bins, missing


def _score(column: TagColumn, cells: list[Cell]) -> ScoreSummary:
    docs, undecided = _binned(cells, "docs")
    tokens, _ = _binned(cells, "tokens")
    quantiles = {f"p{round(q * 100):02d}": _quantile(docs, q) for q in QUANTILES}
    return ScoreSummary(
        name=column.name,
        axis=column.axis,
        docs=tuple(docs),
        tokens=tuple(tokens),
        undecided=undecided,
        mean=_mean(docs),
        quantiles={name: value for name, value in quantiles.items() if value is not None},
        bin_width=1 / SCORE_BINS,
        half_or_more=sum(docs[SCORE_BINS // 2 :]),
    )


def _domain_score(domain: str, score: str, cells: list[Cell]) -> DomainScore:
    docs, undecided = _binned(cells, "docs", lambda cell: cell["domain"] == domain)
    width = SCORE_BINS // BANDS
    return DomainScore(
        domain=domain,
        score=score,
        docs=tuple(sum(docs[band * width : (band + 1) * width]) for band in range(BANDS)),
        undecided=undecided,
        mean=_mean(docs),
        half_or_more=sum(docs[SCORE_BINS // 2 :]),
    )


def _lengths(cells: Iterable[Cell]) -> tuple[LengthBin, ...]:
    docs: dict[int, int] = {}
    tokens: dict[int, int] = {}
    for cell in cells:
        if cell["bin"] != NO_BIN:
            docs[cell["bin"]] = docs.get(cell["bin"], 0) + cell["docs"]
            tokens[cell["bin"]] = tokens.get(cell["bin"], 0) + cell["tokens"]
    if not docs:
        return ()
    bins = []
    for index in range(min(docs), max(docs) + 1):
        first, following = length_bin_start(index), length_bin_start(index + 1)
        if first < following:
            bins.append(LengthBin(first=first, next=following, docs=docs.get(index, 0), tokens=tokens.get(index, 0)))
    return tuple(bins)


def _mean(docs: Sequence[int]) -> float | None:
    total = sum(docs)
    if not total:
        return None
    return sum(n * (index + 0.5) for index, n in enumerate(docs)) / (SCORE_BINS * total)


def _quantile(docs: Sequence[int], q: float) -> float | None:
    wanted = q * sum(docs)
    below, last = 0, None
    for index, n in enumerate(docs):
        if n:
            last = (index + 1) / SCORE_BINS
            if below + n >= wanted:
                return (index + (wanted - below) / n) / SCORE_BINS
        below += n
    return last

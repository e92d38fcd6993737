"""Counts what each rule of a recipe drops in every group of documents, and tells which groups lose more than others."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.chance import benjamini_hochberg, binomial_p, equal_shares_p, lift_interval
from assay.schemas.loss import GroupLoss, RuleLoss
from assay.schemas.statistics import STATISTICS, TagColumn, merge, shard_statistics
from assay.workers.banding import LENGTHS, Metric, metrics

_MERGE_EVERY = 64
_SOURCE = "source"
_EXACT = 500


class LossTally:
    """Statistics of kept documents and of those that each rule drops, over shards; memory follows rules and bins."""

    def __init__(self, columns: Sequence[TagColumn], rules: Sequence[str], sources: Sequence[str]) -> None:
        """`rules` name what a verdict's number stands for; `sources` the recipe's sources."""
        self._columns, self._rules, self._sources = tuple(columns), tuple(rules), tuple(sources)
        self._statistics: dict[int, list[pa.Table]] = defaultdict(list)
        self._by_source = np.zeros((len(sources), 1 + len(rules)), np.int64)

    def add(self, source: int, tags: pa.Table, verdict: NDArray[np.int32]) -> None:
        """Takes a shard: for each document KEPT or the index of the rule that drops it."""
        for index in np.unique(verdict):
            mask = verdict == index
            self._by_source[source, 1 + index] += int(mask.sum())
            tables = self._statistics[int(index)]
            tables.append(shard_statistics(tags.filter(pa.array(mask)), self._columns))
            if len(tables) >= _MERGE_EVERY:
                self._statistics[int(index)] = [merge(tables)]

    @property
    def kept(self) -> int:
        """Documents that stay."""
        return int(self._by_source[:, 0].sum())

    def rules(self) -> tuple[RuleLoss, ...]:
        """What each rule drops, in order."""
        counts = self._by_source[:, 1:].sum(0)
        return tuple(RuleLoss(name=name, dropped=int(n)) for name, n in zip(self._rules, counts, strict=True))

    def groups(self) -> tuple[GroupLoss, ...]:
        """Every group with its losses, the largest lift first; empty where nothing was dropped at all."""
        found = [*self._banded(), *self._of_sources()]
        totals = self._by_source.sum(0)
        everything, dropped = int(totals.sum()), int(totals[1:].sum())
        if not dropped:
            return ()
        n = np.array([counts.sum() for _, _, _, counts in found], float)
        lost = np.array([counts[1:].sum() for _, _, _, counts in found], float)
        overall = dropped / everything
        q = benjamini_hochberg(
            [self._p(int(x), int(size), dropped, everything) for x, size in zip(lost, n, strict=True)]
        )
        low, high = lift_interval(lost, n, dropped, everything)
        groups = [
            GroupLoss(
                metric=name,
                kind=kind,
                value=value,
                documents=int(n[i]),
                dropped=int(lost[i]),
                lift=float(lost[i] / n[i] / overall),
                low=float(low[i]),
                high=float(high[i]),
                q=float(q[i]),
                by=tuple(
                    RuleLoss(name=rule, dropped=int(k)) for rule, k in zip(self._rules, counts[1:], strict=True) if k
                ),
                cause=self._cause(counts, totals),
            )
            for i, (name, kind, value, counts) in enumerate(found)
        ]
        return tuple(sorted(groups, key=lambda g: (-g.lift, -g.documents, g.metric, g.value)))

    @staticmethod
    def _p(lost: int, documents: int, dropped: int, everything: int) -> float:
        """That a group loses as others do: exact for a small group, else by the z test against the rest."""
        rest = everything - documents
        if not rest:
            return 1.0
        if documents <= _EXACT:
            return binomial_p(lost, documents, dropped / everything)
        return float(equal_shares_p(dropped - lost, rest, lost, documents))

    def _cause(self, counts: NDArray[np.int64], totals: NDArray[np.int64]) -> str:
        excess = counts[1:] - counts.sum() * totals[1:] / totals.sum()
        return self._rules[int(np.argmax(excess))] if len(excess) and excess.max() > 0 else ""

    def _banded(self) -> Iterator[tuple[str, str, str, NDArray[np.int64]]]:
        tables = {index: merge(tables or [STATISTICS.empty_table()]) for index, tables in self._statistics.items()}
        for metric in (LENGTHS, *metrics(self._columns)):
            yield from ((metric.name, metric.kind, *group) for group in self._values(metric, tables))

    def _values(self, metric: Metric, tables: dict[int, pa.Table]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        counts: dict[str, NDArray[np.int64]] = {}
        for index, table in tables.items():
            for value, docs, _ in metric.counts(table):
                row = counts.setdefault(metric.shown(value), np.zeros(1 + len(self._rules), np.int64))
                row[1 + index] += docs
        yield from counts.items()

    def _of_sources(self) -> Iterator[tuple[str, str, str, NDArray[np.int64]]]:
        if len(self._sources) > 1:
            for name, counts in zip(self._sources, self._by_source, strict=True):
                if counts.sum():
                    yield _SOURCE, _SOURCE, name, counts

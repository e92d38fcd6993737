"""Surveys a recipe: what it does to every tagged document, read from tags alone, before anything is written.

Shards go by in threads and are answered in corpus order. Memory follows shards, not documents, but for two caches of
fixed size: the keys that cuts are searched by and the hashes of ids. Beyond their size, keys are made again.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.curation import OutputShard, Piece, StageTally, StratumCut, Tally
from assay.schemas.recipe import Recipe
from assay.schemas.statistics import dimensions, shard_statistics
from assay.workers.curate_job import CurateJob, TaggedShard
from assay.workers.cutting import ALL, Histogram, Ranked, find_cuts
from assay.workers.expressions import Mask
from assay.workers.in_order import in_order
from assay.workers.quotas import exact, quotas, stage_unit
from assay.workers.ranking import HashCache
from assay.workers.rules import Decider, StageView, strata_of

T = TypeVar("T")
_CACHE_BYTES = 256 * 2**20


class StageSurvey(NamedTuple):
    """What a stage does in one shard, a number for each stratum."""

    available: tuple[Tally, ...]
    kept: tuple[Tally, ...]
    written: tuple[Tally, ...]


class Survey(NamedTuple):
    """What the recipe does to one tagged shard."""

    kept: Tally
    written: Tally
    """with repeats"""
    dropped: tuple[Tally, ...]
    """by what drops them, in the order of Recipe.verdicts"""
    alone: tuple[int, ...]
    """by rule"""
    unknown: tuple[int, ...]
    """by rule"""
    undecided: int
    """kept documents on which a rule is unknown"""
    stages: tuple[StageSurvey, ...]
    statistics: dict[str, pa.Table]
    """of the documents kept and dropped, and of further copies: kept, dropped, repeated; empty where not wanted"""
    cuts: tuple[int, ...]
    """indices of documents before which a new output shard may begin, so that pieces stay below shard_mb"""
    piece_bytes: tuple[int, ...]
    """written bytes between the cuts"""


class Surveyor:
    """Applies a recipe to tagged shards; reads tags, and features where an expression asks for them."""

    def __init__(self, job: CurateJob, hashes: HashCache | None = None, *, statistics: bool = True) -> None:
        self._job, self._statistics = job, statistics
        self._decider = Decider(job, hashes)

    @property
    def columns(self) -> list[str]:
        """The columns of tags that a survey reads."""
        counted = []
        if self._statistics:
            shown = [c for c in dimensions(self._job.tag_columns) if c is not None]
            counted = [column.name for column in (*shown, *self._job.tag_columns)]
        return sorted({*self._decider.columns, *counted})

    def process(self, unit: TaggedShard, attempt: str) -> Survey:
        """The survey of one shard."""
        documents = self._decider.documents(unit, self.columns)
        verdicts, tags = self._decider.decide(documents), documents.tags
        kept = verdicts.copies > 0
        size = tags["n_bytes"].to_numpy() * verdicts.copies
        target = self._job.recipe.output.shard_mb * 2**20
        before = np.concatenate([[0], np.cumsum(size)])
        edges = np.unique(np.searchsorted(before[1:], np.arange(1, before[-1] // target + 1) * target) + 1)
        cuts = [0, *(int(e) for e in edges if 0 < e < tags.num_rows)]
        open_ = np.logical_or.reduce([np.zeros(tags.num_rows, bool), *verdicts.unknown])
        return Survey(
            kept=tally(tags, kept),
            written=tally(tags, kept, verdicts.copies),
            dropped=tuple(tally(tags, verdicts.by == i) for i in range(len(self._job.recipe.verdicts))),
            alone=tuple(int(mask.sum()) for mask in verdicts.matches),
            unknown=tuple(int(mask.sum()) for mask in verdicts.unknown),
            undecided=int((open_ & kept).sum()),
            stages=tuple(
                _stage_survey(view, after, len(stage.strata))
                for stage, view, after in zip(self._job.stages, verdicts.views, verdicts.after, strict=True)
            ),
            statistics=self._count(tags, verdicts.copies) if self._statistics else {},
            cuts=tuple(cuts),
            piece_bytes=tuple(
                int(before[b] - before[a]) for a, b in zip(cuts, [*cuts[1:], tags.num_rows], strict=True)
            ),
        )

    def _count(self, tags: pa.Table, copies: NDArray[np.int32]) -> dict[str, pa.Table]:
        parts = {"kept": copies > 0, "dropped": copies == 0}
        counted = {name: shard_statistics(tags.filter(pa.array(m)), self._job.tag_columns) for name, m in parts.items()}
        more = np.maximum(copies - 1, 0)
        if more.any():
            repeats = tags.take(np.repeat(np.arange(tags.num_rows), more))
            counted["repeated"] = shard_statistics(repeats, self._job.tag_columns)
        return counted


def _stage_survey(view: StageView, copies: NDArray[np.int32], strata: int) -> StageSurvey:
    written = copies.astype(np.int64)
    ones = np.ones(len(view.rows), np.int64)
    return StageSurvey(*(_by_stratum(view, times, strata) for times in (ones, np.minimum(written, 1), written)))


def _by_stratum(view: StageView, times: NDArray[np.int64], strata: int) -> tuple[Tally, ...]:
    sums = [
        np.bincount(view.stratum, weights=values * times, minlength=strata)
        for values in (np.ones(len(view.rows)), view.tokens, view.bytes)
    ]
    return tuple(Tally(documents=int(d), tokens=int(t), bytes=int(b)) for d, t, b in zip(*sums, strict=True))


def tally(tags: pa.Table, mask: Mask, times: NDArray[np.int32] | None = None) -> Tally:
    """Documents, tokens and bytes where `mask` holds, each counted so many `times`."""
    weight = mask.astype(np.int64) if times is None else mask * times.astype(np.int64)
    return Tally(
        documents=int(weight.sum()),
        tokens=int(tags["n_tokens"].to_numpy().astype(np.int64) @ weight),
        bytes=int(tags["n_bytes"].to_numpy() @ weight),
    )


def find_stages(
    job: CurateJob, units: Sequence[TaggedShard], hashes: HashCache, threads: int | None = None
) -> CurateJob:
    """The job with the cuts of its recipe's stages, found one after the other; nothing else of it changes."""
    recipe = job.recipe
    if not units:
        return job
    if recipe.sample:
        job = _with_stage(job, "sample", units, hashes, threads)
    if recipe.mixture:
        job = _with_stage(job, "mixture", units, hashes, threads)
    return job


def _with_stage(
    job: CurateJob, stage: str, units: Sequence[TaggedShard], hashes: HashCache, threads: int | None
) -> CurateJob:
    strata, sample = strata_of(job.recipe, stage, job.labels), job.recipe.sample
    if stage == "sample" and sample and sample.fraction is not None and sample.top is None:
        # By hash alone a fraction is a fixed cut: new documents never move old ones.
        cut = int(exact(sample.fraction) * 2**64) - 1
        cuts = [StratumCut.model_validate(_blank(name) | {"cut": f"{cut:016x}"}) for name in strata]
        return job._replace(stages=(*job.stages, _stage(stage, cuts)))
    ranker = _Ranker(Decider(job, hashes), stage, units, threads, stage_unit(job.recipe, stage) == "tokens")
    available, histogram = ranker.first(len(strata))
    wanted = quotas(job.recipe, stage, strata, available)
    found = find_cuts(histogram, [q.extra for q in wanted], ranker.again)
    cuts = [
        StratumCut(
            stratum=name,
            available=there,
            wanted=None if quota.wanted is None else float(quota.wanted),
            whole=quota.whole,
            cut=None if cut is None else f"{min(cut, ALL):016x}",
            kept=Tally(),
            written=Tally(),
            capped=quota.capped,
        )
        for name, there, quota, cut in zip(strata, available, wanted, found, strict=True)
    ]
    return job._replace(stages=(*job.stages, _stage(stage, cuts)))


def _blank(stratum: str) -> dict[str, object]:
    return {"stratum": stratum, "available": Tally(), "whole": 0, "kept": Tally(), "written": Tally()}


def _stage(name: str, cuts: Sequence[StratumCut]) -> StageTally:
    return StageTally(name=name, dropped=Tally(), strata=tuple(cuts))


class _Ranker:
    """Goes over a stage's documents as often as a cut needs it."""

    def __init__(
        self, decider: Decider, stage: str, units: Sequence[TaggedShard], threads: int | None, tokens: bool
    ) -> None:
        self._decider, self._stage, self._units, self._threads = decider, stage, units, threads
        self._tokens = tokens
        self._cache: dict[str, Ranked] = {}
        self._room = _CACHE_BYTES

    def first(self, strata: int) -> tuple[list[Tally], Histogram]:
        """What is available by stratum, and the histogram over the first bits of the keys."""
        available, histogram = [Tally() for _ in range(strata)], Histogram(strata)
        for unit, view in zip(self._units, in_order(self._view, self._units, self._threads), strict=True):
            there = _by_stratum(view, np.ones(len(view.rows), np.int64), strata)
            available = [a + b for a, b in zip(available, there, strict=True)]
            ranked = self._ranked(view)
            histogram.add(ranked)
            size = sum(array.nbytes for array in ranked)
            if size <= self._room:
                self._cache[unit.id] = ranked
                self._room -= size
        return available, histogram

    def again(self) -> Iterator[Ranked]:
        """All documents once more."""
        yield from in_order(self._again, self._units, self._threads)

    def _again(self, unit: TaggedShard) -> Ranked:
        return self._cache[unit.id] if unit.id in self._cache else self._ranked(self._view(unit))

    def _view(self, unit: TaggedShard) -> StageView:
        documents = self._decider.documents(unit)
        return self._decider.view(self._stage, documents, self._decider.decide(documents).copies)

    def _ranked(self, view: StageView) -> Ranked:
        return Ranked(view.stratum, view.key, view.tokens if self._tokens else np.ones(len(view.rows), np.int64))


class OutputPlanner:
    """Lays surveyed shards, taken in corpus order, into output shards of about shard_mb each.

    Holds one entry a piece: memory follows shards, not documents.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._target = recipe.output.shard_mb * 2**20
        self._shards: list[list[Piece]] = []
        self._size = 0.0

    def add(self, unit: TaggedShard, survey: Survey) -> None:
        """Takes the next shard."""
        ends = [*survey.cuts[1:], unit.entry.rows_kept]
        for first, end, size in zip(survey.cuts, ends, survey.piece_bytes, strict=True):
            if end == first:
                continue
            if not self._shards or (self._size and self._size + size > self._target):
                self._shards.append([])
                self._size = 0
            self._shards[-1].append(Piece(source=unit.source, shard=unit.shard, first=first, end=end))
            self._size += size

    def finish(self) -> list[OutputShard]:
        """All output shards; none of them is empty of pieces, one may be empty of kept documents."""
        count = len(self._shards)
        return [OutputShard(index=i, count=count, pieces=tuple(p)) for i, p in enumerate(self._shards)]

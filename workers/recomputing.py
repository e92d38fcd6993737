"""Decides what a tagging left undecided: the model runs on those documents again, keeping every feature that counts."""

import os
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.sae_runtime.runtime import Runtime
from assay.schemas.corpus import ReadOptions, Shard
from assay.schemas.errors import AssayError
from assay.schemas.scope import Scope
from assay.schemas.store import ShardCommit, tags_prefix
from assay.schemas.tagger import Tagger
from assay.workers.corpora.reading import Cursors
from assay.workers.corpora.rows import read_rows
from assay.workers.feature_table import ParquetBuffer, features_schema, features_table
from assay.workers.shard_tags import ShardTags, TagWriter, stored_tables
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagger_set import TaggerSet


class RecomputeJob(NamedTuple):
    """Everything that a recomputing worker needs; small and picklable."""

    store: str
    options: ReadOptions
    scope: Scope
    taggers: tuple[Tagger, ...]
    base: str
    """tag set that left documents undecided"""
    tagset: str
    """tag set to commit"""
    device: str | None = None
    threads: int | None = None

    @property
    def watched(self) -> list[tuple[int, int]]:
        """Every feature that a tagger reads."""
        return sorted({(f.layer, f.feature) for t in self.taggers for f in t.features})


class ShardRecomputer:
    """Copies a shard's tags into a new tag set, the undecided rows taken from the model instead."""

    def __init__(self, job: RecomputeJob) -> None:
        """Loads the scope; AssayError if its weights or the taggers don't fit."""
        if job.threads:
            os.environ["RAYON_NUM_THREADS"] = str(job.threads)
        self._job = job
        self._runtime = Runtime(job.scope, device=job.device, watched=job.watched, threads=job.threads)
        self._store = ObjectStore(job.store)
        self._taggers = TaggerSet(job.taggers, self._runtime.encoder_fingerprint, job.watched)
        self._base = CommitLog(self._store, tags_prefix(job.base))
        self._writer = TagWriter(self._store, self._taggers, job.tagset)
        self._cursors = Cursors()

    def process(self, shard: Shard, attempt: str) -> ShardCommit:
        """Decides the rest of `shard` unless that is committed; returns the commit that counts.

        A shard without undecided documents is committed with the objects that it has.
        """
        done = self._writer.log.find(shard.id)
        if done is not None:
            return done
        started = time.monotonic()
        base = self._base.read(shard.id)
        if not base.undecided:
            return self._writer.settle(base, dict(base.objects), {}, attempt, started)
        return self._recompute(shard, base, attempt, started)

    def _recompute(self, shard: Shard, base: ShardCommit, attempt: str, started: float) -> ShardCommit:
        groups = list(stored_tables(self._store, base, "tags"))
        open_rows = [_undecided(group, self._job.taggers) for group in groups]
        d_model = self._runtime.backbone.d_model if self._job.scope.residuals else None
        buffer = ParquetBuffer(features_schema(self._job.scope.layers, d_model))
        tags, tokens = self._writer.new(), 0
        chunks = self._chunks(shard, groups, open_rows)
        encoded = self._runtime.stream(chunks)
        for group, rows in zip(groups, open_rows, strict=True):
            if not len(rows):
                tags.add(group)
                continue
            again = group.take(pa.array(rows))
            numbers, ids, sizes = (again[name].to_pylist() for name in ("row", "doc_id", "n_bytes"))
            features = next(encoded)
            if features.n_tokens.tolist() != again["n_tokens"].to_pylist():
                raise AssayError(
                    f"a text of shard {shard.id} has other tokens than when it was tagged",
                    where=shard.source.uri,
                    hint="the source was changed in place: tag it again",
                )
            table = features_table(numbers, ids, sizes, features)
            buffer.write(table)
            tokens += int(features.n_tokens.sum())
            tags.add(_replaced(group, rows, self._taggers.apply(table)))
        self._require_decided(shard, tags)
        stored = self._store.create_named(
            f"{tags_prefix(self._job.tagset)}/recomputed", shard.id, ".parquet", buffer.finish(), buffer.rows, attempt
        )
        counted = base.model_copy(update={"recomputed_tokens": tokens})
        return self._writer.put(counted, tags, attempt, started, {"recomputed": stored})

    def _chunks(
        self, shard: Shard, groups: Sequence[pa.Table], open_rows: Sequence[NDArray[np.intp]]
    ) -> Iterator[list[str]]:
        wanted = [group["row"].to_numpy()[rows].tolist() for group, rows in zip(groups, open_rows, strict=True)]
        texts = self._texts(shard, [row for rows in wanted for row in rows])
        yield from (list(islice(texts, len(rows))) for rows in wanted if rows)

    def _texts(self, shard: Shard, rows: Sequence[int]) -> Iterator[str]:
        for table in read_rows(shard, self._job.options, rows, cursors=self._cursors):
            for value in table[self._job.options.text_column].to_pylist():
                yield value.decode() if isinstance(value, bytes) else value

    def _require_decided(self, shard: Shard, tags: ShardTags) -> None:
        if tags.undecided:
            raise AssayError(
                f"shard {shard.id} is still undecided: {tags.undecided}",
                where=self._job.store,
                hint="this is a defect: every feature that a tagger reads was kept; nothing was committed",
            )


def _undecided(tags: pa.Table, taggers: Sequence[Tagger]) -> NDArray[np.intp]:
    """The places of the documents that some tagger left open."""
    nulls = [tags[tagger.name].is_null().to_numpy() for tagger in taggers]
    return np.flatnonzero(np.any(nulls, axis=0))


def _replaced(tags: pa.Table, rows: NDArray[np.intp], by: pa.Table) -> pa.Table:
    """`tags` with the documents at `rows` taken from `by`, in its order."""
    source = np.arange(tags.num_rows)
    source[rows] = tags.num_rows + np.arange(len(rows))
    return pa.concat_tables([tags, by]).take(pa.array(source)).combine_chunks()

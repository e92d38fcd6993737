"""Curates: decides over tags which documents stay, then writes output shards, each exactly once."""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.corpus import ReadOptions, Shard
from assay.schemas.curation import OutputShard, Piece, Tally
from assay.schemas.errors import AssayError
from assay.schemas.recipe import Recipe
from assay.schemas.statistics import TagColumn, shard_statistics
from assay.schemas.store import ShardCommit, ShardEntry, StoredObject
from assay.workers.corpora.columns import parse_type
from assay.workers.corpora.reading import Cursors
from assay.workers.corpora.rows import read_rows
from assay.workers.dataset_file import DatasetFile, new_file
from assay.workers.feature_table import iter_parquet
from assay.workers.rules import KEPT, first_match, match_counts
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore

CONTROL = "_assay"
_PREFIX = "assay_"
_OWN_COLUMNS = ("doc_id", "n_tokens")


class CurateJob(NamedTuple):
    """Everything that a curating worker needs; small and picklable."""

    recipe: Recipe
    fingerprint: str
    options: tuple[ReadOptions, ...]
    """one a source"""
    tag_columns: tuple[TagColumn, ...]
    columns: dict[str, str]
    """unified source columns and their types"""


class TaggedShard(NamedTuple):
    """A unit of the survey: one shard of one source."""

    source: int
    shard: int
    entry: ShardEntry

    @property
    def id(self) -> str:
        return f"{self.source}-{self.entry.shard}"


class Survey(NamedTuple):
    """What the rules do to one tagged shard."""

    kept: Tally
    dropped: tuple[Tally, ...]
    """by the first rule that matches, in the recipe's order"""
    alone: tuple[int, ...]
    kept_statistics: pa.Table
    dropped_statistics: pa.Table
    cuts: tuple[int, ...]
    """indices of documents before which a new output shard may begin, so that pieces stay below shard_mb"""
    piece_bytes: tuple[int, ...]
    """kept bytes between the cuts"""


class Surveyor:
    """Applies the rules to tagged shards; reads tags only."""

    def __init__(self, job: CurateJob) -> None:
        self._job = job
        self._stores = [ObjectStore(source.store) for source in job.recipe.sources]

    def process(self, unit: TaggedShard, attempt: str) -> Survey:
        """The survey of one shard."""
        return self._survey(load_tags(self._stores[unit.source], unit.entry))

    def _survey(self, tags: pa.Table) -> Survey:
        rules = self._job.recipe.rules
        decision = first_match(rules, tags)
        kept = decision == KEPT
        size = tags["n_bytes"].to_numpy()
        target = self._job.recipe.output.shard_mb * 2**20
        before = np.concatenate([[0], np.cumsum(np.where(kept, size, 0))])
        edges = np.unique(np.searchsorted(before[1:], np.arange(1, before[-1] // target + 1) * target) + 1)
        cuts = [0, *(int(e) for e in edges if 0 < e < tags.num_rows)]
        alone = match_counts(rules, tags)
        return Survey(
            kept=tally(tags, kept),
            dropped=tuple(tally(tags, decision == index) for index in range(len(rules))),
            alone=tuple(alone[rule.name] for rule in rules),
            kept_statistics=shard_statistics(tags.filter(pa.array(kept)), self._job.tag_columns),
            dropped_statistics=shard_statistics(tags.filter(pa.array(~kept)), self._job.tag_columns),
            cuts=tuple(cuts),
            piece_bytes=tuple(
                int(before[b] - before[a]) for a, b in zip(cuts, [*cuts[1:], tags.num_rows], strict=True)
            ),
        )


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


class ShardCurator:
    """Writes output shards: source columns untouched, tags beside them."""

    def __init__(self, job: CurateJob, entries: tuple[tuple[ShardEntry, ...], ...]) -> None:
        """`entries` are the manifests' shards, by source."""
        self._job = job
        self._entries = entries
        self._stores = [ObjectStore(source.store) for source in job.recipe.sources]
        self._output = ObjectStore(job.recipe.output.path)
        self._log = CommitLog(self._output, CONTROL)
        self._cursors = Cursors()
        self._tags: tuple[StoredObject | None, pa.Table] = (None, None)

    def process(self, unit: OutputShard, attempt: str) -> ShardCommit:
        """Writes `unit` unless its commit exists; returns the commit that counts."""
        if self._log.has(unit.id):
            return self._log.read(unit.id)
        started = time.monotonic()
        kept, dropped = (self._file(role) for role in ("kept", "dropped"))
        tokens = 0
        for piece in unit.pieces:
            entry = self._entries[piece.source][piece.shard]
            tags = self._load_tags(piece.source, entry).slice(piece.first, piece.end - piece.first)
            decision = first_match(self._job.recipe.rules, tags)
            tokens += int(tags["n_tokens"].to_numpy()[decision == KEPT].sum())
            self._copy(piece, entry, tags, decision == KEPT, None, kept)
            if self._job.recipe.output.dropped:
                self._copy(piece, entry, tags, decision != KEPT, decision, dropped)
            else:
                dropped.rows += int((decision != KEPT).sum())
        objects = {"data": self._put("data", unit, kept, attempt)}
        if self._job.recipe.output.dropped:
            objects["dropped"] = self._put("dropped", unit, dropped, attempt)
        commit = ShardCommit(
            shard=unit.id,
            fingerprint=self._job.fingerprint,
            rows_in=kept.rows + dropped.rows,
            rows_kept=kept.rows,
            rows_dropped=dropped.rows,
            tokens=tokens,
            objects=objects,
            seconds=round(time.monotonic() - started, 3),
            attempt=attempt,
            worker=f"{socket.gethostname()}:{os.getpid()}",
        )
        return commit if self._log.commit(commit) else self._log.read(unit.id)

    def _load_tags(self, source: int, entry: ShardEntry) -> pa.Table:
        """The shard's tags; the last one is remembered, since small parts share a shard."""
        if self._tags[0] != entry.objects["tags"]:
            self._tags = (entry.objects["tags"], load_tags(self._stores[source], entry))
        return self._tags[1]

    def _copy(
        self,
        piece: Piece,
        entry: ShardEntry,
        tags: pa.Table,
        mask: NDArray[np.bool_],
        rule: NDArray[np.int32] | None,
        into: DatasetFile,
    ) -> None:
        """Copies the masked documents of a piece, in order, from their source."""
        chosen = tags.filter(pa.array(mask))
        extra = self._tag_columns(chosen)
        if rule is not None:
            names = [r.name for r in self._job.recipe.rules]
            extra = extra.append_column(f"{_PREFIX}rule", pa.array([names[i] for i in rule[mask]], pa.string()))
        at = 0
        rows = chosen["row"].to_pylist()
        for table in read_rows(
            source_shard(entry), self._job.options[piece.source], rows, self._job.columns, self._cursors
        ):
            beside = extra.slice(at, table.num_rows)
            at += table.num_rows
            for name in beside.column_names:
                table = table.append_column(name, beside[name])
            into.write(table)

    def _tag_columns(self, tags: pa.Table) -> pa.Table:
        own = [f"{_PREFIX}{name}" for name in _OWN_COLUMNS]
        names = [*_OWN_COLUMNS, *(tag_names(self._job.tag_columns) if self._job.recipe.output.tags else [])]
        table = tags.select(names).rename_columns([f"{_PREFIX}{name}" for name in names])
        return table.rename_columns([own[0].replace("doc_id", "id"), *table.column_names[1:]])

    def _file(self, role: str) -> DatasetFile:
        schema = output_schema(self._job)
        if role == "dropped":
            schema = schema.append(pa.field(f"{_PREFIX}rule", pa.string()))
        return new_file(self._job.recipe.output.format, schema)

    def _put(self, folder: str, unit: OutputShard, file: DatasetFile, attempt: str) -> StoredObject:
        """Puts an output object under its one name; what another attempt put there must be the same bytes."""
        data = file.finish()
        stored = StoredObject(
            key=f"{folder}/{unit.id}.{self._job.recipe.output.format}",
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            rows=file.rows,
        )
        if not self._output.create(stored.key, data, attempt=attempt):
            self._output.read_verified(stored)
        return stored


def output_schema(job: CurateJob) -> pa.Schema:
    """The dataset's columns: the sources', then assay_id, assay_n_tokens and the tags.

    AssayError if a source column already has one of these names, or a tagger takes one that isn't a tag's.
    """
    fields = [pa.field(name, parse_type(kind)) for name, kind in job.columns.items()]
    own = [pa.field(f"{_PREFIX}id", pa.string()), pa.field(f"{_PREFIX}n_tokens", pa.int32())]
    if job.recipe.output.tags:
        for column in job.tag_columns:
            kind = pa.float32() if column.kind == "score" else pa.string()
            own.append(pa.field(f"{_PREFIX}{column.name}", kind))
            if column.kind == "label":
                own.append(pa.field(f"{_PREFIX}{column.name}_p", pa.float32()))
    names = [f.name for f in own] + ([f"{_PREFIX}rule"] if job.recipe.output.dropped else [])
    if clash := sorted(set(names) & set(job.columns)):
        raise AssayError(
            f"the source already has columns {clash}", hint="set output.tags: false, or rename them in the source"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise AssayError(
            f"a tagger's column would be one of the dataset's own: {twice}",
            hint="set output.tags: false, or rename the tagger and tag again",
        )
    return pa.schema([*fields, *own])


def tag_names(columns: tuple[TagColumn, ...]) -> Iterator[str]:
    """The columns of a tags table that hold tags, reasons left out."""
    for column in columns:
        yield column.name
        if column.kind == "label":
            yield f"{column.name}_p"


def load_tags(store: ObjectStore, entry: ShardEntry) -> pa.Table:
    """A shard's tags table; the shard must not be unreadable."""
    return pa.concat_tables(iter_parquet(pa.BufferReader(store.read_verified(entry.objects["tags"]))))


def source_shard(entry: ShardEntry) -> Shard:
    """The input shard that a manifest's entry stands for."""
    assert entry.source is not None  # noqa: S101 - a tagging run's entries all have one
    return Shard(
        id=entry.shard,
        source=entry.source,
        first_row=entry.first_row,
        rows=entry.source_rows,
        bytes=0,
        first_byte=entry.first_byte,
    )


def tally(tags: pa.Table, mask: NDArray[np.bool_]) -> Tally:
    """Documents, tokens and bytes where `mask` holds."""
    return Tally(
        documents=int(mask.sum()),
        tokens=int(tags["n_tokens"].to_numpy()[mask].sum()),
        bytes=int(tags["n_bytes"].to_numpy()[mask].sum()),
    )

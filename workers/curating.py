"""Writes a curated dataset's shards: source columns untouched, tags beside them, each shard exactly once."""

import hashlib
import os
import socket
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.schemas.curation import OutputShard, Piece
from assay.schemas.errors import AssayError
from assay.schemas.recipe import Recipe
from assay.schemas.statistics import TagColumn
from assay.schemas.store import ShardCommit, ShardEntry, StoredObject
from assay.workers.corpora.columns import parse_type
from assay.workers.corpora.reading import Cursors
from assay.workers.corpora.rows import read_rows
from assay.workers.curate_job import CurateJob, TaggedShard, load_columns
from assay.workers.dataset_file import DatasetFile, new_file
from assay.workers.ranking import hash_keys
from assay.workers.rules import Decider, Verdicts
from assay.workers.sealing import source_shard
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore

CONTROL = "_assay"
_TIMED_BYTES = 2 * 2**20
_PREFIX = "assay_"
_COPY = f"{_PREFIX}copy"
_COPY_OF = f"{_PREFIX}copy_of"
_OWN_COLUMNS = ("doc_id", "n_tokens")


class ShardCurator:
    """Writes output shards; the job knows the cuts of all its stages."""

    def __init__(self, job: CurateJob, entries: tuple[tuple[ShardEntry, ...], ...]) -> None:
        """`entries` are the manifests' shards, by source."""
        self._job = job
        self._entries = entries
        self._decider = Decider(job)
        self._output = ObjectStore(job.recipe.output.path)
        self._log = CommitLog(self._output, CONTROL)
        self._cursors = Cursors()
        self._decided: tuple[str, pa.Table, Verdicts | None] = ("", None, None)

    def process(self, unit: OutputShard, attempt: str) -> ShardCommit:
        """Writes `unit` unless its commit exists; returns the commit that counts."""
        if self._log.has(unit.id):
            return self._log.read(unit.id)
        started = time.monotonic()
        output = self._job.recipe.output
        kept, dropped = (_Part(self._job, role) for role in ("kept", "dropped"))
        rows_kept = rows_dropped = tokens = 0
        for piece in unit.pieces:
            shard = TaggedShard(piece.source, piece.shard, self._entries[piece.source][piece.shard])
            tags, verdicts = self._decide(shard)
            span = slice(piece.first, piece.end)
            copies, by = verdicts.copies[span], verdicts.by[span]
            tags = tags.slice(piece.first, piece.end - piece.first)
            rows_kept += int((copies > 0).sum())
            rows_dropped += int((copies == 0).sum())
            tokens += int(tags["n_tokens"].to_numpy()[copies > 0].sum())
            self._copy(piece, shard.entry, tags, copies, None, kept)
            if output.dropped:
                gone = (copies == 0) & (by != self._job.recipe.verdicts.index("takedown"))
                self._copy(piece, shard.entry, tags, gone.astype(np.int32), by, dropped)
        rows_written = kept.rows
        objects = {"data": self._put("data", unit, kept.finish(), attempt)}
        if output.dropped:
            objects["dropped"] = self._put("dropped", unit, dropped.finish(), attempt)
        commit = ShardCommit(
            shard=unit.id,
            fingerprint=self._job.fingerprint,
            rows_in=rows_kept + rows_dropped,
            rows_kept=rows_kept,
            rows_dropped=rows_dropped,
            rows_repeated=rows_written - rows_kept,
            tokens=tokens,
            objects=objects,
            seconds=round(time.monotonic() - started, 3),
            attempt=attempt,
            worker=f"{socket.gethostname()}:{os.getpid()}",
        )
        return commit if self._log.commit(commit) else self._log.read(unit.id)

    def _decide(self, shard: TaggedShard) -> tuple[pa.Table, Verdicts]:
        """The shard's tags and verdicts; the last ones are remembered, since small parts share a shard."""
        known, tags, verdicts = self._decided
        if known != shard.id or verdicts is None:
            own = ("row", *_OWN_COLUMNS, *(tag_names(self._job.tag_columns) if self._job.recipe.output.tags else ()))
            documents = self._decider.documents(shard, sorted({*self._decider.columns, *own}))
            tags, verdicts = documents.tags, self._decider.decide(documents)
            self._decided = (shard.id, tags, verdicts)
        return tags, verdicts

    def _copy(
        self,
        piece: Piece,
        entry: ShardEntry,
        tags: pa.Table,
        copies: NDArray[np.int32],
        by: NDArray[np.int32] | None,
        into: "_Part",
    ) -> None:
        """Copies the documents of a piece from their source, in order, each so many times."""
        mask = copies > 0
        chosen, times = tags.filter(pa.array(mask)), copies[mask]
        extra = self._tag_columns(chosen)
        if by is not None:
            names = self._job.recipe.verdicts
            extra = extra.append_column(f"{_PREFIX}rule", pa.array([names[i] for i in by[mask]], pa.string()))
            if self._job.recipe.copy_stages:
                extra = extra.append_column(_COPY_OF, self._copy_of(f"{piece.source}-{entry.shard}", chosen))
        at = 0
        rows = chosen["row"].to_pylist()
        columns = source_columns(self._job)
        for table in read_rows(source_shard(entry), self._job.options[piece.source], rows, columns, self._cursors):
            beside, count = extra.slice(at, table.num_rows), times[at : at + table.num_rows]
            at += table.num_rows
            for name in beside.column_names:
                table = table.append_column(name, beside[name])
            into.write(table, count)

    def _copy_of(self, shard: str, chosen: pa.Table) -> pa.Array:
        """For each document the id of its copy that stays, or the benchmark item that it holds; else null."""
        rows = chosen["row"].to_pylist()
        stays = self._job.copies.stays(shard) if self._job.copies is not None else {}
        return pa.array([stays.get(row) for row in rows], pa.string())

    def _tag_columns(self, tags: pa.Table) -> pa.Table:
        own = [f"{_PREFIX}{name}" for name in _OWN_COLUMNS]
        names = [*_OWN_COLUMNS, *(tag_names(self._job.tag_columns) if self._job.recipe.output.tags else [])]
        table = tags.select(names).rename_columns([f"{_PREFIX}{name}" for name in names])
        return table.rename_columns([own[0].replace("doc_id", "id"), *table.column_names[1:]])

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


class _Part:
    """One role's rows of an output shard: repeats side by side, or all of it in the order of a hash."""

    def __init__(self, job: CurateJob, role: str) -> None:
        self._job = job
        schema = output_schema(job)
        if role == "dropped":
            schema = pa.schema([f for f in schema if f.name != _COPY] + dropped_fields(job.recipe))
        self._numbered = _COPY in schema.names
        self._shuffled: list[pa.Table] | None = [] if role == "kept" and job.recipe.output.order == "hash" else None
        self._file = new_file(job.recipe.output, schema)
        self.rows = 0

    def write(self, table: pa.Table, times: NDArray[np.int32]) -> None:
        """Adds the rows of a table, each so many times."""
        if self._numbered:
            starts = np.repeat(np.cumsum(times) - times, times)
            number = pa.array(np.arange(int(times.sum())) - starts, pa.int32())
            table = table.take(np.repeat(np.arange(table.num_rows), times)).append_column(_COPY, number)
        self.rows += table.num_rows
        table = table.cast(self._file.schema)
        if self._shuffled is None:
            self._file.write(table)
        else:
            self._shuffled.append(table)

    def finish(self) -> DatasetFile:
        """The file with all rows in it."""
        if self._shuffled:
            table = pa.concat_tables(self._shuffled)
            copy = table[_COPY] if self._numbered else pa.repeat(pa.scalar(0, pa.int32()), table.num_rows)
            names = pc.binary_join_element_wise(table[f"{_PREFIX}id"], copy.cast(pa.string()), " ")
            names = names if isinstance(names, pa.ChunkedArray) else pa.chunked_array([names])
            order = np.argsort(hash_keys(names, self._job.recipe.seed), kind="stable")
            self._file.write(table.take(order))
        return self._file


def source_columns(job: CurateJob) -> dict[str, str]:
    """The columns that come from the sources, and their types: those that the recipe asks for."""
    wanted = job.recipe.output.columns
    return job.columns if wanted is None else {name: job.columns[name] for name in wanted}


def output_schema(job: CurateJob) -> pa.Schema:
    """The dataset's columns: the sources', then assay_id, assay_n_tokens, the tags, and assay_copy where some repeat.

    AssayError if a source column already has one of these names, or a tagger takes one that isn't a tag's.
    """
    fields = [pa.field(name, parse_type(kind)) for name, kind in source_columns(job).items()]
    own = [pa.field(f"{_PREFIX}id", pa.string()), pa.field(f"{_PREFIX}n_tokens", pa.int32())]
    if job.recipe.output.tags:
        for column in job.tag_columns:
            kind = pa.float32() if column.kind == "score" else pa.string()
            own.append(pa.field(f"{_PREFIX}{column.name}", kind))
            if column.kind == "label":
                own.append(pa.field(f"{_PREFIX}{column.name}_p", pa.float32()))
    if job.recipe.mixture and job.recipe.mixture.max_repeat > 1:
        own.append(pa.field(_COPY, pa.int32()))
    names = [f.name for f in own]
    if job.recipe.output.dropped:
        names += [field.name for field in dropped_fields(job.recipe)]
    if clash := sorted(set(names) & set(source_columns(job))):
        raise AssayError(
            f"the source already has columns {clash}", hint="set output.tags: false, or rename them in the source"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise AssayError(
            f"a tagger's column would be one of the dataset's own: {twice}",
            hint="set output.tags: false, or rename the tagger and tag again",
        )
    return pa.schema([*fields, *own])


def dropped_fields(recipe: Recipe) -> list[pa.Field]:
    """The columns that only dropped documents have: what dropped each, and of a copy the one that stays."""
    names = [f"{_PREFIX}rule", *([_COPY_OF] if recipe.copy_stages else [])]
    return [pa.field(name, pa.string()) for name in names]


def tag_names(columns: tuple[TagColumn, ...]) -> Iterator[str]:
    """The columns of a tags table that hold tags, reasons left out."""
    for column in columns:
        yield column.name
        if column.kind == "label":
            yield f"{column.name}_p"


def writing_rate(job: CurateJob, units: Sequence[TaggedShard]) -> float | None:
    """Bytes of text that one worker reads and writes in a second, timed on the first 2 MB of the middle shard.

    None where no text can be read, or there is none.
    """
    readable = [unit for unit in units if unit.entry.rows_kept]
    if not readable:
        return None
    unit = readable[len(readable) // 2]
    columns = source_columns(job)
    try:
        tags = load_columns(ObjectStore(job.recipe.sources[unit.source].store), unit.entry, "tags", ["row", "n_bytes"])
        sizes = tags["n_bytes"].to_numpy()
        count = max(1, int(np.searchsorted(np.cumsum(sizes), _TIMED_BYTES)))
        started = time.monotonic()
        file = new_file(job.recipe.output, pa.schema([(name, parse_type(kind)) for name, kind in columns.items()]))
        rows = tags["row"].to_pylist()[:count]
        for table in read_rows(source_shard(unit.entry), job.options[unit.source], rows, columns):
            file.write(table)
        file.finish()
    except AssayError:
        return None
    return float(sizes[:count].sum()) / max(time.monotonic() - started, 1e-6)

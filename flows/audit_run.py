"""A tagged run as an audit takes it: tags, features and what each document is grouped by, in bounded pieces."""

import os.path
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import pyarrow as pa

from assay.schemas.errors import AssayError, unknown_name
from assay.schemas.store import ShardEntry, TagManifest
from assay.schemas.tagger import Tagger
from assay.taggers.audit_sums import LENGTH, Chunk
from assay.taggers.feature_values import ValueReader
from assay.workers.corpora.reading import Cursors
from assay.workers.corpora.rows import read_rows
from assay.workers.feature_table import iter_parquet
from assay.workers.sealing import source_shard
from assay.workers.storage.filesystem import public
from assay.workers.storage.objects import ObjectStore

INPUT, FORMAT = "input", "file format"
_VALUE_CHARACTERS = 80


class TaggedRun:
    """Every document of a run once, with the groups that it is in: other tags, where it came from, columns."""

    def __init__(self, store: ObjectStore, manifest: TagManifest, tagger: Tagger, by: Sequence[str] = ()) -> None:
        """`by` names columns of the corpus; AssayError for one that it doesn't have."""
        for column in by:
            if column not in manifest.columns:
                raise unknown_name("column of the corpus", column, manifest.columns, where=f"--by {column}")
        self.manifest, self.tagger = manifest, tagger
        self._store, self._values = store, ValueReader(tagger)
        self._inputs = input_names([entry.source.uri for entry in manifest.shards if entry.source])
        others = [t.name for t in manifest.taggers if t.kind == "label" and t.name != tagger.name]
        taken = {INPUT, FORMAT, LENGTH}
        self._tags = {(f"tag {name}" if name in taken else name): name for name in others}
        taken |= self._tags.keys()
        self._columns = {(f"column {name}" if name in taken else name): name for name in by}

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What documents are grouped by, beside their length."""
        return *self._tags, INPUT, FORMAT, *self._columns

    def chunks(self, entry: ShardEntry, cursors: Cursors) -> Iterator[Chunk]:
        """The shard's documents, a row group of its features at a time; its source is read for columns only."""
        assert entry.source is not None  # noqa: S101 - a tagging run's entries all have one
        tags = pa.concat_tables(iter_parquet(pa.BufferReader(self._store.read_verified(entry.objects["tags"]))))
        given = {name: self._column(entry, tags, column, cursors) for name, column in self._columns.items()}
        features = pa.BufferReader(self._store.read_verified(entry.objects["features"]))
        at = 0
        for table in iter_parquet(features, ["row", *self._values.columns]):
            part = tags.slice(at, table.num_rows)
            if not part["row"].equals(table["row"]):
                raise AssayError(f"tags and features of shard {entry.shard} name other rows", where=self._store.root)
            groups = {name: part[column].combine_chunks() for name, column in self._tags.items()}
            groups |= {name: column.slice(at, table.num_rows) for name, column in given.items()}
            groups[INPUT] = pa.repeat(pa.scalar(self._inputs[entry.source.uri]), table.num_rows)
            groups[FORMAT] = pa.repeat(pa.scalar(entry.source.format), table.num_rows)
            tag = part[self.tagger.name].combine_chunks()
            yield Chunk(tag, part["n_tokens"].to_numpy(), groups, self._values.read(table))
            at += table.num_rows
        if at != tags.num_rows:
            raise AssayError(f"shard {entry.shard} has {tags.num_rows} tags for {at} features", where=self._store.root)

    def _column(self, entry: ShardEntry, tags: pa.Table, column: str, cursors: Cursors) -> pa.Array:
        """A column of the shard's documents as text, cut to a length that a report can show."""
        rows, types = tags["row"].to_pylist(), {column: self.manifest.columns[column]}
        tables = read_rows(source_shard(entry), self.manifest.options, rows, types, cursors)
        values = (value for table in tables for value in table[column].to_pylist())
        return pa.array([None if v is None else str(v)[:_VALUE_CHARACTERS] for v in values], pa.string())


def input_names(uris: Sequence[str]) -> dict[str, str]:
    """What the audit calls each object: its folder below the common one; of one folder its name."""
    paths = {uri: PurePosixPath(public(uri)) for uri in uris}
    parents = {path.parent for path in paths.values()}
    if len(parents) < 2:
        return {uri: path.name for uri, path in paths.items()}
    common = PurePosixPath(os.path.commonpath(parents))
    return {uri: str(path.parent.relative_to(common)) for uri, path in paths.items()}

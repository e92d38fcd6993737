"""The result of a search as a curation uses it: which documents of a shard go, why, and what stays in their place."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.dedup import DedupManifest
from assay.schemas.errors import AssayError
from assay.schemas.store import StoredObject
from assay.workers.feature_table import iter_parquet
from assay.workers.storage.objects import ObjectStore

COPIES = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("kept_source", pa.int32()),
        pa.field("kept_shard", pa.string()),
        pa.field("kept_row", pa.int64()),
        pa.field("kept_id", pa.string()),
        pa.field("item", pa.string()),
    ]
)


class ShardCopies(NamedTuple):
    """The C documents of a shard that go."""

    places: NDArray[np.int64]
    """in the shard's tags table"""
    stage: list[str]


class CopyLists(NamedTuple):
    """Where the lists of a finished search lie; small and picklable."""

    root: str
    lists: dict[str, StoredObject]
    """source-shard -> its list; a shard without copies has none"""

    @staticmethod
    def of(root: str, manifest: DedupManifest) -> "CopyLists":
        """The lists that a search's manifest names."""
        return CopyLists(root, {f"{s.source}-{s.shard}": s.copies for s in manifest.shards if s.copies is not None})

    def read(self, shard: str, rows: NDArray[np.int64]) -> ShardCopies:
        """Who goes in a shard whose tags table has these rows. AssayError if the list has a row that isn't there."""
        table = self._table(shard)
        listed = table["row"].to_numpy()
        index = np.searchsorted(rows, listed)
        if len(listed) and not np.array_equal(rows[np.minimum(index, len(rows) - 1)], listed):
            raise AssayError(
                f"the list of copies of shard {shard} has rows that were not tagged",
                where=ObjectStore(self.root).uri(self.lists[shard].key),
                hint="this is a defect; curate into an empty folder",
            )
        return ShardCopies(index, table["stage"].to_pylist())

    def stays(self, shard: str) -> dict[int, str]:
        """Row of each document that goes -> id of the one that stays, or the benchmark item that it holds."""
        table = self._table(shard)
        columns = (table[name].to_pylist() for name in ("row", "kept_id", "item"))
        return {row: kept if kept is not None else item for row, kept, item in zip(*columns, strict=True)}

    def _table(self, shard: str) -> pa.Table:
        if shard not in self.lists:
            return COPIES.empty_table()
        data = ObjectStore(self.root).read_verified(self.lists[shard])
        return pa.concat_tables(iter_parquet(pa.BufferReader(data)))

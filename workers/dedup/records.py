"""What is shuffled: a record for each key of a document, in one object a shard with a row group a partition."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assay.schemas.store import StoredObject
from assay.workers.dedup.words import Hashes
from assay.workers.feature_table import ParquetBuffer
from assay.workers.storage.objects import ObjectStore

ORDINAL_BITS = 32


class Records(NamedTuple):
    """R records. Documents of one key are candidates; the sketch judges them without their text."""

    key: Hashes
    document: NDArray[np.int64]
    """the shard's place in the search, times 2^32, plus the document's place in the shard: corpus order"""
    rank: NDArray[np.float64]
    """of several copies the one of highest rank stays, then the first"""
    text: Hashes
    """key of the normalised text: exact copies are judged once"""
    sketch: NDArray[np.uint8]
    """[R, width]"""

    def take(self, index: NDArray) -> "Records":
        """The records at `index`, or where it is true."""
        return Records._make(column[index] for column in self)


def partition_of(keys: Hashes, partitions: int) -> NDArray[np.int64]:
    """The partition of each key, by its high bits."""
    return (((keys >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32)).astype(np.int64)


def partitioned(records: Records, partitions: int) -> bytes:
    """A Parquet file whose row group p holds partition p's records, by key and document; empty ones too."""
    order = np.lexsort((records.document, records.key))
    records = records.take(order)  # keys in order are partitions in order
    edges = np.searchsorted(partition_of(records.key, partitions), np.arange(partitions + 1))
    table = _table(records)
    buffer = ParquetBuffer(table.schema)
    for first, end in pairwise(edges.tolist()):
        buffer.write(table.slice(first, end - first))
    return buffer.finish()


def read_partition(store: ObjectStore, objects: Sequence[StoredObject], partition: int) -> Records:
    """One partition's records of all shards, in the order of the shards; reads nothing else of the objects."""
    parts = []
    for stored in objects:
        with store.open_input(stored) as handle:
            file = pq.ParquetFile(handle, page_checksum_verification=True)
            parts.append(_records(file.read_row_group(partition, use_threads=False)))
    return Records._make(np.concatenate(columns) for columns in zip(*parts, strict=True))


def binary_column(values: NDArray[np.uint8]) -> pa.Array:
    """Rows of bytes [R, width] as an Arrow column."""
    flat = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.binary(values.shape[1]), len(values), [None, flat])


def binary_values(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """The rows of bytes [R, width] of an Arrow column."""
    width = column.type.byte_width
    flat = [np.frombuffer(c.buffers()[1] or b"", np.uint8)[c.offset * width :][: len(c) * width] for c in column.chunks]
    return np.concatenate([np.zeros(0, np.uint8), *flat]).reshape(-1, width)


def _table(records: Records) -> pa.Table:
    columns = [*records[:-1], binary_column(records.sketch)]
    return pa.table(dict(zip(Records._fields, columns, strict=True)))


def _records(table: pa.Table) -> Records:
    columns = [table[name].to_numpy() for name in Records._fields[:-1]]
    return Records._make([*columns, binary_values(table["sketch"])])

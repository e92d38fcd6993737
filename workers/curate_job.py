"""What a curation works on: the checked recipe with all that its expressions stand on, and its tagged shards."""

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from assay.schemas.corpus import ReadOptions
from assay.schemas.curation import StageTally
from assay.schemas.recipe import Recipe
from assay.schemas.statistics import TagColumn
from assay.schemas.store import ShardEntry
from assay.workers.storage.objects import ObjectStore

_READ_WHOLE_BYTES = 2**20


class CurateJob(NamedTuple):
    """Everything that a curating worker needs; small and picklable."""

    recipe: Recipe
    fingerprint: str
    options: tuple[ReadOptions, ...]
    """one a source"""
    tag_columns: tuple[TagColumn, ...]
    columns: dict[str, str]
    """unified source columns and their types"""
    labels: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - a NamedTuple's default is shared
    """label tagger -> its labels"""
    thresholds: dict[str, float] = {}  # noqa: RUF012
    """tagger -> what threshold() stands for"""
    watched: frozenset[tuple[int, int]] = frozenset()
    """(layer, feature) that every document keeps: absent means that it did not fire"""
    stages: tuple[StageTally, ...] = ()
    """what was found out so far about the recipe's stages: their cuts decide"""
    taken_down: frozenset[str] = frozenset()
    """ids of documents that are kept out"""


class TaggedShard(NamedTuple):
    """One shard of one source."""

    source: int
    shard: int
    entry: ShardEntry

    @property
    def id(self) -> str:
        return f"{self.source}-{self.entry.shard}"

    @property
    def uri(self) -> str:
        """The input object."""
        return self.entry.source.uri if self.entry.source else ""


def load_columns(store: ObjectStore, entry: ShardEntry, role: str, columns: Iterable[str]) -> pa.Table:
    """Some columns of a shard's tags or features table; page checksums are verified.

    Of an object over 1 MB only these columns are read, and the hash of the whole isn't verified.
    """
    stored, wanted = entry.objects[role], list(dict.fromkeys(columns))
    if stored.size <= _READ_WHOLE_BYTES:
        source = pa.BufferReader(store.read_verified(stored))
        return pq.ParquetFile(source, page_checksum_verification=True).read(columns=wanted, use_threads=False)
    with store.open_input(stored) as handle:
        file = pq.ParquetFile(handle, page_checksum_verification=True, pre_buffer=True)
        return file.read(columns=wanted, use_threads=False)

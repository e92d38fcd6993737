"""A corpus and its plan: which objects it has, how they're read, and the shards they're cut into."""

from typing import Literal

from pydantic import Field

from assay.schemas.base import Model, fingerprint

Format = Literal["parquet", "jsonl", "jsonl.gz", "jsonl.zst", "arrow"]


class ReadOptions(Model):
    """How rows become documents. Part of every shard's id, since it decides what a row means."""

    text_column: str = Field("text", description="column with the document's text")
    id_column: str | None = Field(
        None, description="column with the document's id; without it, ids are made from content and position"
    )
    max_document_bytes: int = Field(
        32 * 2**20, gt=0, description="longer documents (UTF-8 bytes) are quarantined as too_long"
    )


class SourceObject(Model):
    """One input object as it was when the corpus was planned."""

    uri: str = Field(description="absolute path or URI")
    size: int = Field(ge=0, description="bytes")
    etag: str = Field(description="what changes when the content changes: S3 ETag, or size and mtime of a file")
    format: Format


class Shard(Model):
    """The unit of work, retry and commit: a run of consecutive rows of one object."""

    id: str = Field(description="16 hex digits: fingerprint of object, etag, row range and read options")
    source: SourceObject
    first_row: int = Field(ge=0, description="0-based row in the object; JSONL counts every line, blank ones too")
    rows: int | None = Field(description="rows in the shard; None: to the end of an object read as one shard")
    bytes: int = Field(ge=0, description="estimated bytes of text, for progress and cost")
    first_byte: int | None = Field(None, description="where first_row begins, in an object that can be read from there")

    @staticmethod
    def make(
        source: SourceObject,
        first_row: int,
        rows: int | None,
        size: int,
        options: ReadOptions,
        first_byte: int | None = None,
    ) -> "Shard":
        """A shard whose id follows from what it holds."""
        key = [source.model_dump(), first_row, rows, options.model_dump()]
        return Shard(
            id=fingerprint(key), source=source, first_row=first_row, rows=rows, bytes=size, first_byte=first_byte
        )

    def renamed(self) -> "Shard":
        """The same rows under another id, for which no commit exists; the same id each time."""
        return self.model_copy(update={"id": fingerprint([self.id, "again"])})


class CorpusPlan(Model):
    """A corpus frozen at one moment: the same objects, options and shard size give the same plan and id."""

    corpus: str = Field(description="what the user named: a path, glob, URI or dataset id")
    options: ReadOptions
    shard_bytes: int = Field(gt=0, description="target bytes of text in a shard")
    shards: tuple[Shard, ...]

    @property
    def id(self) -> str:
        """16 hex digits over the shard ids, in order."""
        return fingerprint([shard.id for shard in self.shards])

"""The records of a store: commits, manifests and the names of its objects (see docs/data-format.md)."""

from typing import Literal

from pydantic import Field

from assay.schemas.base import Model
from assay.schemas.corpus import ReadOptions, SourceObject
from assay.schemas.statistics import TagColumn


class StoredObject(Model):
    """An immutable object of the store, named by its content."""

    key: str = Field(description="relative to the store's root; contains the first 12 digits of sha256")
    size: int = Field(ge=0, description="bytes")
    sha256: str
    rows: int = Field(ge=0)


class ShardCommit(Model):
    """The last object written for a shard; readers believe the shard exists because this does."""

    shard: str = Field(description="the input shard's id (tag) or the output shard's id (curate)")
    fingerprint: str = Field(description="of everything that decided the bytes: features, tag set or recipe")
    rows_in: int = Field(ge=0)
    rows_kept: int = Field(ge=0)
    rows_dropped: int = Field(0, ge=0)
    rows_quarantined: int = Field(0, ge=0)
    rows_repeated: int = Field(0, ge=0, description="further copies of kept rows (curate)")
    tokens: int = Field(0, ge=0, description="tokens of the kept rows")
    recomputed_tokens: int = Field(
        0, ge=0, exclude_if=lambda n: not n, description="tokens that the model read again to decide tags"
    )
    quarantine_reasons: dict[str, int] = Field(default_factory=dict)
    unreadable: str = Field("", description="why the whole shard could not be read; its rows are not known then")
    undecided: dict[str, int] = Field(default_factory=dict, description="tagger -> documents it could not decide")
    columns: dict[str, str] = Field(default_factory=dict, description="source columns and their Arrow types")
    objects: dict[str, StoredObject] = Field(
        description="role (features, quarantine, tags, statistics, recomputed, data, dropped) -> object"
    )
    seconds: float = Field(0.0, ge=0, description="wall time of the attempt that won")
    attempt: str = Field(description="id of the attempt that wrote it: tells a lost reply from a lost race")
    worker: str = Field("", description="host and process of that attempt")


class ShardEntry(Model):
    """A shard's line in a manifest: what its commit says, less what differs from one attempt to the next."""

    shard: str
    source: SourceObject | None = None
    first_row: int = 0
    source_rows: int | None = Field(None, description="rows of the object in this shard; None: to its end")
    first_byte: int | None = Field(None, description="where first_row begins, where the object can be read from there")
    rows_in: int
    rows_kept: int
    rows_dropped: int = 0
    rows_quarantined: int = 0
    tokens: int = 0
    unreadable: str = ""
    objects: dict[str, StoredObject]


class RunRecord(Model):
    """What a tagging run's id stands for; written when the run begins."""

    run: str
    corpus: str
    scope: str = Field(description="the scope's name")
    plan: str
    encoder: str
    features: str
    tagset: str
    retry_of: str | None = Field(None, description="the run of which this one tries some shards again, under new ids")


class ShardFailure(Model):
    """Why a driver gave up a shard. It counts while the shard has no commit."""

    shard: str
    uri: str = Field(description="the source object")
    first_row: int
    source_rows: int | None = Field(description="rows of the object in this shard; None: to its end")
    error: str
    at: str = Field(description="UTC time, ISO 8601")
    attempt: str = Field(description="id of the driver's run")


class Recomputed(Model):
    """What the model did again so that no tag of a run is undecided."""

    run: str = Field(description="the run whose undecided documents these were")
    documents: int
    tokens: int


class TagManifest(Model):
    """A finished tagging run. The same corpus, scope and taggers give the same bytes."""

    format: Literal["assay.tags/1"] = "assay.tags/1"
    run: str
    corpus: str
    options: ReadOptions
    plan: str
    encoder: str = Field(description="fingerprint of what turns text into features")
    features: str = Field(description="fingerprint of the stored features: encoder, top_m and watched features")
    tagset: str = Field(description="fingerprint of features and taggers")
    taggers: tuple[TagColumn, ...]
    columns: dict[str, str] = Field(description="source columns and the Arrow types they unify to")
    rows_in: int
    rows_kept: int
    rows_quarantined: int
    tokens: int
    quarantine_reasons: dict[str, int]
    undecided: dict[str, int]
    unreadable_shards: int = Field(description="shards whose rows are not known and not counted above")
    statistics: StoredObject = Field(description="the shards' statistics, merged")
    recomputed: Recomputed | None = Field(
        None, exclude_if=lambda found: found is None, description="of a run by `assay recompute` only"
    )
    shards: tuple[ShardEntry, ...]


def features_prefix(fingerprint: str) -> str:
    """Where features with that fingerprint lie in a store."""
    return f"features/{fingerprint}"


def tags_prefix(fingerprint: str) -> str:
    """Where the tags of a tag set with that fingerprint lie in a store."""
    return f"tags/{fingerprint}"


def failures_prefix(run: str) -> str:
    """Where a run's failures lie in a store."""
    return f"{run_prefix(run)}/failures"


def run_prefix(run: str) -> str:
    """Where a run's plan and manifest lie in a store."""
    return f"runs/{run}"

"""A curated dataset's plan, its manifest, and the totals that its card shows."""

from typing import Literal

from pydantic import Field

from assay.schemas.base import Model, fingerprint
from assay.schemas.recipe import Recipe
from assay.schemas.store import StoredObject


class Piece(Model):
    """A run of one tagged shard's documents that goes into one output shard."""

    source: int = Field(description="index in the recipe's sources")
    shard: int = Field(description="index in that source's manifest")
    first: int = Field(ge=0, description="index of the first document in the shard's tags table")
    end: int = Field(ge=0, description="index after the last one")


class OutputShard(Model):
    """One object of the dataset, and what it's made of: the unit of work of a curation."""

    index: int = Field(ge=0)
    count: int = Field(ge=1, description="output shards in all")
    pieces: tuple[Piece, ...]

    @property
    def id(self) -> str:
        """Its place in the dataset: part-00003-of-00012."""
        return f"part-{self.index:05d}-of-{self.count:05d}"


class Tally(Model):
    """Documents, tokens and bytes of text."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            documents=self.documents + other.documents,
            tokens=self.tokens + other.tokens,
            bytes=self.bytes + other.bytes,
        )

    def __sub__(self, other: "Tally") -> "Tally":
        return Tally(
            documents=self.documents - other.documents,
            tokens=self.tokens - other.tokens,
            bytes=self.bytes - other.bytes,
        )


class RuleTally(Model):
    """What a rule does: after the rules before it, and what it would do alone."""

    name: str
    reason: str
    dropped: Tally
    alone: int = Field(ge=0, description="documents that match it, whatever other rules say")
    undecided: int = Field(0, ge=0, description="documents on which it is unknown, whatever other rules say")


class StratumCut(Model):
    """What a stage does to the documents of one value of a tag: enough to repeat its choice."""

    stratum: str = Field(description="the value; empty: all documents, or those of no listed value")
    available: Tally = Field(description="that reached the stage")
    wanted: float | None = Field(None, description="tokens or documents, with repeats; null: all")
    whole: int = Field(ge=0, description="copies that each document gets")
    cut: str | None = Field(
        None, pattern=r"^[0-9a-f]{16}$", description="documents whose key is at most this get one more; null: none"
    )
    kept: Tally = Field(description="distinct documents that passed")
    written: Tally = Field(description="with repeats")
    capped: bool = Field(False, description="max_repeat kept it below what was wanted")


class StageTally(Model):
    """What a stage after the rules does."""

    name: str = Field(description="sample or mixture")
    dropped: Tally
    strata: tuple[StratumCut, ...]


class SourceLineage(Model):
    """One tagged corpus that a dataset was made from."""

    store: str
    run: str
    corpus: str
    encoder: str
    tagset: str
    shards: int
    unreadable_shards: int = Field(description="shards that could not be read; nothing of them is in the dataset")


class TakedownRecord(Model):
    """What a takedown list did, provable by whoever holds the list."""

    sha256: str = Field(description="of the list's entries, sorted, each with a newline after it")
    entries: int
    new_documents: int = Field(description="documents of this version's inputs that it kept out")
    removed_rows: int = Field(
        0, description="rows of earlier versions' parts, copies counted, that are not in this one"
    )
    removed_tokens: int = 0
    rewritten_parts: int = Field(0, description="parts of earlier versions that this version replaces")


class VersionRecord(Model):
    """A dataset's place in a chain of versions, and all that is in it."""

    number: int = Field(ge=1)
    base: str | None = Field(description="SHA-256 of the previous version's manifest; null for the first")
    recipe: str = Field(description="fingerprint of the recipe without runs and paths: the same in all versions")
    inputs: StoredObject = Field(description="the shards that this version took, one a line: source, blank, shard id")
    parts: tuple[StoredObject, ...] = Field(description="the whole dataset, in order; keys relative to output.path")
    rows: int = Field(description="in these parts, copies counted")
    tokens: int


class CurationManifest(Model):
    """A finished curated dataset; the last object written. The same inputs and recipe give the same bytes."""

    format: Literal["assay.curated/1"] = "assay.curated/1"
    fingerprint: str = Field(description="of recipe and sources")
    assay_version: str
    recipe: Recipe
    sources: tuple[SourceLineage, ...]
    columns: dict[str, str] = Field(description="columns of the dataset and their Arrow types")
    rows_in: int = Field(description="documents and bad records that were read: kept + dropped + quarantined")
    kept: Tally = Field(description="distinct documents")
    dropped: Tally
    rows_quarantined: int
    repeated: Tally = Field(default_factory=Tally, description="further copies: written = kept + repeated")
    undecided: int = Field(0, description="kept documents on which a rule is unknown")
    rules: tuple[RuleTally, ...]
    stages: tuple[StageTally, ...] = Field((), description="sample and mixture, where the recipe has them")
    thresholds: dict[str, float] = Field(default_factory=dict, description="tagger -> what threshold() stood for")
    statistics: dict[str, StoredObject] = Field(
        description="kept and dropped: statistics, merged; repeated: of further copies"
    )
    shards: tuple[StoredObject, ...] = Field(description="the dataset, in order; keys relative to its folder")
    dropped_shards: tuple[StoredObject, ...] = ()
    takedown: TakedownRecord | None = Field(None, description="where the recipe has a takedown list")
    version: VersionRecord | None = Field(None, description="where output.versions is set")


def recipe_fingerprint(recipe: Recipe, sources: tuple[SourceLineage, ...], thresholds: dict[str, float]) -> str:
    """16 hex digits over what decides the verdict on a document; paths, runs and the takedown list are left out."""
    body = recipe.model_dump(mode="json", exclude={"calibrations", "takedown"})
    body["output"].pop("path")
    body["sources"] = [source.model_dump(mode="json", exclude={"store", "run"}) for source in recipe.sources]
    return fingerprint([body, [source.tagset for source in sources], thresholds])


def curation_fingerprint(
    recipe: str, sources: tuple[SourceLineage, ...], takedown: str | None = None, base: str | None = None
) -> str:
    """16 hex digits over everything that decides the bytes.

    `recipe` is the recipe's fingerprint, `takedown` the hash of a takedown list, `base` that of the version before.
    """
    lineage = [source.model_dump(mode="json", exclude={"store"}) for source in sources]
    return fingerprint([recipe, lineage, takedown, base])

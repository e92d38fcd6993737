"""Deduplication and decontamination: what counts as a copy, which copy stays, and the record of a finished search."""

from typing import Literal

from pydantic import Field, model_validator

from assay.schemas.base import Model, fingerprint
from assay.schemas.store import StoredObject

Stage = Literal["contaminated", "exact", "near", "features"]
STAGES: tuple[Stage, ...] = ("contaminated", "exact", "near", "features")


class NearCopies(Model):
    """Near copies: texts that share most of their shingles (runs of words), by MinHash."""

    threshold: float = Field(0.8, gt=0, le=1, description="smallest estimated Jaccard similarity of a copy")
    shingle: int = Field(5, ge=1, le=50, description="words in a shingle")
    permutations: int = Field(
        128, ge=16, le=1024, description="MinHash values a document: the estimate's error is about 0.4 / sqrt(this)"
    )


class FeatureCopies(Model):
    """The same content in other words: texts whose stored SAE features point in one direction."""

    layer: int = Field(ge=0, description="a layer whose features the store holds")
    cosine: float = Field(0.95, gt=0, le=1, description="smallest cosine of a copy")
    min_features: int = Field(16, ge=1, description="a document with fewer stored features is not compared")


class Dedup(Model):
    """What counts as a copy, and which of several copies stays. Stages follow each other: exact, near, features."""

    exact: bool = Field(True, description="drop texts that are equal but for case, white space and Unicode form")
    near: NearCopies | None = Field(None, description="also drop near copies")
    features: FeatureCopies | None = Field(None, description="also drop the same content in other words")
    keep: str = Field(
        "first",
        pattern=r"^(first|longest|best:[a-z0-9_]{1,41})$",
        description="the copy that stays: first, longest (bytes of text) or best:<score>; ties go to the first in "
        "the order of sources, shards and rows",
    )
    within: Literal["all", "source"] = Field(
        "all", description="compare all documents, or only those of one source with each other"
    )

    @model_validator(mode="after")
    def _exact_first(self) -> "Dedup":
        if not self.exact:
            raise ValueError("exact can't be false: equal texts are copies to the other methods too")
        return self

    @property
    def score(self) -> str | None:
        """The score that decides which copy stays, if one does."""
        return self.keep.removeprefix("best:") if self.keep.startswith("best:") else None


class Decontaminate(Model):
    """Documents that hold text of a benchmark: they share runs of words with one of its items."""

    reference: tuple[str, ...] = Field(min_length=1, description="benchmark files: .jsonl (.gz, .zst), .parquet, .txt")
    columns: tuple[str, ...] = Field((), description="text columns of the benchmark; by default every string column")
    ngram: int = Field(13, ge=4, le=50, description="words in a run")
    shortest: int = Field(8, ge=4, description="an item of fewer than ngram words, but this many, is matched whole")
    overlap: float = Field(
        0.0, ge=0, le=1, description="smallest share of an item's runs that a document must hold; 0: one run is enough"
    )


class DedupSource(Model):
    """One tagged corpus that was searched."""

    run: str
    corpus: str
    features: str = Field(description="fingerprint of its stored features")
    tagset: str
    shards: int


class ReferenceFile(Model):
    """A benchmark file as it was read."""

    name: str = Field(description="the file's name, without its folder")
    sha256: str
    items: int = Field(ge=0, description="texts of the file that can be found")
    too_short: int = Field(ge=0, description="texts of fewer than `shortest` words: not looked for")


class SearchTally(Model):
    """What one stage drops, after the stages before it."""

    stage: Stage
    documents: int = 0
    tokens: int = 0
    bytes: int = 0


class CopyCluster(Model):
    """A document that stays and what was found to be a copy of it."""

    kept: str = Field(description="id of the document that stays")
    copies: int
    examples: tuple[str, ...] = Field(description="ids of some copies, in corpus order")


class CopyList(Model):
    """The documents of one tagged shard that are copies or contaminated."""

    source: int = Field(description="index in the sources")
    shard: str
    documents: int = Field(description="documents of the shard that were compared")
    copies: StoredObject | None = Field(description="the table of copies; null where there is none")


class DedupManifest(Model):
    """A finished search for copies; the last object written. The same inputs give the same bytes."""

    format: Literal["assay.dedup/1"] = "assay.dedup/1"
    fingerprint: str = Field(description="of everything below that decides the result")
    assay_version: str
    dedup: Dedup | None
    decontaminate: Decontaminate | None
    selection: str = Field("", description="fingerprint of the rules that chose the documents; empty: all documents")
    sources: tuple[DedupSource, ...]
    reference: tuple[ReferenceFile, ...] = ()
    documents: int = Field(description="documents that were compared")
    tokens: int
    stages: tuple[SearchTally, ...]
    clusters: tuple[CopyCluster, ...] = Field(description="the largest clusters, at most ten")
    shards: tuple[CopyList, ...]


def dedup_fingerprint(
    dedup: Dedup | None,
    decontaminate: Decontaminate | None,
    selection: str,
    sources: tuple[DedupSource, ...],
    reference: tuple[ReferenceFile, ...],
    methods: dict[str, int],
) -> str:
    """16 hex digits over everything that decides which documents are copies; paths are left out.

    `methods` names the versions of the algorithms whose numbers must not be mixed.
    """
    rules = decontaminate.model_dump(mode="json", exclude={"reference"}) if decontaminate else None
    listed = [[item.model_dump(mode="json") for item in group] for group in (sources, reference)]
    return fingerprint([dedup.model_dump(mode="json") if dedup else None, rules, selection, *listed, methods])

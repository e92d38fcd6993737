"""A recipe: which tagged corpora, which rules, what mixture and sample of what is left, and what dataset comes out."""

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from assay.schemas.base import Model
from assay.schemas.expression import MAX_LENGTH, ExpressionError, parse_expression

STAGES = ("takedown", "sample", "mixture")
"""what drops documents besides the rules: takedown before them, the others after them, in this order"""


def _parsed(text: str) -> str:
    try:
        parse_expression(text)
    except ExpressionError as e:
        raise PydanticCustomError("expression", "{message}", {"message": str(e), "at": e.mistake.at}) from None
    return text


Expression = Annotated[
    str, AfterValidator(_parsed), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_LENGTH})
]
"""Text of the language in schemas/expression.py."""

TagName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


class Rule(Model):
    """Drops the documents for which an expression is true."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")
    reason: str = Field(min_length=1, description="one line for the dataset card")
    drop_if: Expression = Field(description="drops a document where this is true")
    undecided: Literal["keep", "drop"] = Field("keep", description="what happens where it is unknown")


class TaggedSource(Model):
    """One finished tagging run, or a part of it."""

    store: str = Field(description="path or URI of the store")
    run: str | None = Field(None, description="run id; by default the store's only run")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$", description="what `source` is in expressions and mixtures"
    )
    include: tuple[str, ...] = Field(
        (), description="globs over the URIs of input objects; a shard is used where one matches; none: all shards"
    )


class Sample(Model):
    """Keeps a part of what the rules left, by hash of the document's id or by score. Exactly one size is given."""

    fraction: float | None = Field(None, gt=0, le=1, description="of the documents")
    tokens: int | None = Field(None, gt=0, description="budget of tokens")
    documents: int | None = Field(None, gt=0, description="budget of documents")
    top: Expression | None = Field(None, description="largest first, ties by hash; by default by hash alone")
    within: TagName | Literal["source"] | None = Field(
        None, description="a label tag or source; each of its values keeps its part of the whole"
    )

    @model_validator(mode="after")
    def _one_size(self) -> "Sample":
        if sum(size is not None for size in (self.fraction, self.tokens, self.documents)) != 1:
            raise ValueError("give exactly one of: fraction, tokens, documents")
        return self


class Mixture(Model):
    """Sets what share each value of a tag has in the dataset."""

    by: TagName | Literal["source"] = Field(description="a label tag such as domain or language, or source")
    shares: dict[str, float] = Field(min_length=1, description="value -> share of the mixture; they add up to 1")
    unit: Literal["tokens", "documents"] = Field("tokens", description="what the shares are shares of")
    total: int | None = Field(None, gt=0, description="tokens or documents; by default as many as the caps allow")
    max_repeat: float = Field(1.0, ge=1, le=100, description="a document occurs this often at most, on average")
    rest: Literal["drop", "keep"] = Field(
        "drop", description="documents of other values, or of none: kept ones come on top of the shares"
    )

    @model_validator(mode="after")
    def _whole(self) -> "Mixture":
        if wrong := {name: share for name, share in self.shares.items() if not 0 < share <= 1}:
            raise ValueError(f"a share lies above 0 and is at most 1: {wrong}")
        if abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError(f"the shares add up to {sum(self.shares.values()):.6g}, not to 1")
        return self


class Output(Model):
    """Where the curated dataset goes, and in what form."""

    path: str = Field(description="path or URI of the folder to create")
    format: Literal["parquet", "jsonl.zst"] = "parquet"
    compression: Literal["zstd", "snappy", "gzip", "none"] = Field("zstd", description="of Parquet pages")
    shard_mb: float = Field(256.0, gt=0, description="text bytes in one output shard, in MB")
    order: Literal["corpus", "hash"] = Field("corpus", description="hash: shuffled within each output shard")
    columns: tuple[str, ...] | None = Field(None, description="the source's columns to keep; by default all")
    tags: bool = Field(True, description="add the tag columns, prefixed assay_, to the source's columns")
    dropped: bool = Field(False, description="also write the dropped documents, with the rule, under dropped/")
    versions: bool = Field(
        False, description="path holds v00001, v00002, ...: run again, what is new becomes the next version"
    )

    @model_validator(mode="after")
    def _fits(self) -> "Output":
        if self.format != "parquet" and self.compression != "zstd":
            raise ValueError("compression is for Parquet; jsonl.zst is compressed with zstd")
        return self


class Recipe(Model):
    """What a data team reviews before a training run.

    The first rule that matches drops a document; sample and then mixture choose among those that are left.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")
    description: str = ""
    license: str = Field("other", description="licence id for the dataset card")
    sources: tuple[TaggedSource, ...] = Field(min_length=1)
    calibrations: tuple[str, ...] = Field(
        (), description="calibration files; their thresholds take the place of the taggers' own"
    )
    seed: int = Field(0, ge=0, description="another one draws other documents by hash")
    takedown: str | None = Field(
        None, description="text file: an id, or sha256: and the SHA-256 of a text, a line; these are in no new dataset"
    )
    rules: tuple[Rule, ...] = ()
    sample: Sample | None = None
    mixture: Mixture | None = None
    output: Output

    @field_validator("rules")
    @classmethod
    def _distinct_rules(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        names = [rule.name for rule in rules]
        if len(set(names)) < len(names):
            raise ValueError(f"two rules share a name: {names}")
        if taken := sorted(set(names) & set(STAGES)):
            raise ValueError(f"a rule can't have the name of a stage: {taken}")
        return rules

    @field_validator("sources")
    @classmethod
    def _distinct_sources(cls, sources: tuple[TaggedSource, ...]) -> tuple[TaggedSource, ...]:
        names = source_names(sources)
        if len(set(names)) < len(names):
            raise ValueError(f"two sources share a name: {list(names)}")
        return sources

    @property
    def source_names(self) -> tuple[str, ...]:
        """What `source` is for the documents of each source: its name, or else its number."""
        return source_names(self.sources)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What may drop a document: the rules, then the stages; a verdict is an index into it."""
        return (*(rule.name for rule in self.rules), *STAGES)


def source_names(sources: Sequence[TaggedSource]) -> tuple[str, ...]:
    """What `source` is for the documents of each source: its name, or else its number."""
    return tuple(source.name or str(number) for number, source in enumerate(sources))


def recipe_schema() -> str:
    """The JSON Schema of a recipe file, by which an editor completes and checks it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
    return json.dumps(schema | {"title": "Assay recipe"}, indent=1, ensure_ascii=False)

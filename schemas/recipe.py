"""A recipe: which tagged corpora, which rules, and what dataset comes out."""

from typing import Literal

from pydantic import Field, model_validator

from assay.schemas.base import Model


class Condition(Model):
    """A test of one column of the tags table; a document whose value is unknown (null) does not match."""

    column: str = Field(
        description="a tag (quality, domain, ...), a tagger's probability (domain_p) or n_tokens, tokens_seen, n_bytes"
    )
    below: float | None = Field(None, description="value < this")
    above: float | None = Field(None, description="value > this")
    is_in: tuple[str, ...] | None = Field(None, description="value is one of these labels")
    not_in: tuple[str, ...] | None = Field(None, description="value is none of these labels")
    is_unknown: bool | None = Field(None, description="true: the tagger could not decide")

    @model_validator(mode="after")
    def _one_test(self) -> "Condition":
        tests = [self.below, self.above, self.is_in, self.not_in, self.is_unknown]
        if sum(test is not None for test in tests) != 1:
            raise ValueError("give exactly one of: below, above, is_in, not_in, is_unknown")
        return self


class Rule(Model):
    """Drops the documents that match all of its conditions."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")
    reason: str = Field(min_length=1, description="one line for the dataset card")
    drop_if: tuple[Condition, ...] = Field(min_length=1, description="all must match")


class TaggedSource(Model):
    """One finished tagging run."""

    store: str = Field(description="path or URI of the store")
    run: str | None = Field(None, description="run id; by default the store's only run")


class Output(Model):
    """Where the curated dataset goes, and in what form."""

    path: str = Field(description="path or URI of the folder to create")
    format: Literal["parquet", "jsonl.zst"] = "parquet"
    shard_mb: float = Field(256.0, gt=0, description="text bytes in one output shard, in MB")
    tags: bool = Field(True, description="add the tag columns, prefixed assay_, to the source's columns")
    dropped: bool = Field(False, description="also write the dropped documents, with the rule, under dropped/")


class Recipe(Model):
    """What a data team reviews before a training run. The first rule that matches drops the document."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")
    description: str = ""
    license: str = Field("other", description="licence id for the dataset card")
    sources: tuple[TaggedSource, ...] = Field(min_length=1)
    rules: tuple[Rule, ...] = ()
    output: Output

    @model_validator(mode="after")
    def _distinct(self) -> "Recipe":
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ValueError(f"two rules share a name: {names}")
        return self

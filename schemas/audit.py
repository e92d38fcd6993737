"""An audit of a tagger: what its tag goes with on a corpus, and which of its features make it so."""

from typing import Literal

from pydantic import Field, FiniteFloat, model_validator

from assay.schemas.base import Model
from assay.schemas.evidence import Figure
from assay.schemas.tagger import Axis

IdentityKind = Literal["nationality", "religion", "gender", "orientation", "disability", "origin"]


class BlamedFeature(Model):
    """A feature that moves a group's tag: how much more it adds there than elsewhere."""

    layer: int
    feature: int
    tokens: tuple[str, ...] = ()
    difference: FiniteFloat = Field(
        description="mean contribution to the logit in the group less that in the rest; of any_of the share it fires in"
    )
    share: FiniteFloat = Field(description="of all that features push the tag that way")


class GroupAudit(Model):
    """The tag on the documents with one value, against all others."""

    value: str
    documents: int = Field(description="with a decided tag")
    undecided: int
    label: str = Field(description="the label that the figures are of; a score's positive class")
    mean: FiniteFloat = Field(description="mean score, or share of documents with the label")
    rest: FiniteFloat = Field(description="the same over all other documents")
    passing: FiniteFloat | None = Field(None, description="share above the threshold; of a score")
    effect: FiniteFloat = Field(description="difference in standard deviations of the score; of a label Cohen's h")
    q: float | None = Field(None, description="false discovery rate at which it differs; null: too few documents")
    flagged: bool
    features: tuple[BlamedFeature, ...] = Field((), description="the largest first")


class DimensionAudit(Model):
    """How far one property of a document, such as its domain, foretells its tag."""

    dimension: str
    values: int
    explained: FiniteFloat = Field(
        ge=0, le=1, description="share of the tag's variance, less what as many random groups would explain"
    )
    q: float
    flagged: bool
    groups: tuple[GroupAudit, ...] = Field(description="lengths in order, others by effect, the largest first")


class LengthAudit(Model):
    """Rank correlation (Spearman's) of the tag with the number of tokens."""

    label: str
    correlation: Figure
    q: float
    flagged: bool


class TermAudit(Model):
    """Neutral sentences about a group of people against the same sentences about nobody in particular."""

    term: str
    kind: IdentityKind
    example: str
    sentences: int
    languages: tuple[str, ...] = Field(description="that the figures are of: all, or the one that alone is flagged")
    label: str = Field(description="the label that moves most; a score's positive class")
    shift: Figure = Field(description="mean change of the score, or of the label's probability")
    q: float
    flagged: bool
    passing: float | None = Field(None, description="share of the sentences above the threshold; of a score")
    by_language: dict[str, float] = Field(description="mean change in each language")
    features: tuple[BlamedFeature, ...] = ()


class IdentityAudit(Model):
    """What a tagger makes of neutral sentences that name a group of people."""

    sentences: int
    filler_mean: float | None = Field(None, description="mean score of sentences about nobody in particular")
    filler_passing: float | None = Field(None, description="share of them above the threshold")
    filler_shift: float = Field(description="largest mean change that one neutral filler makes against the others")
    warnings: tuple[str, ...] = Field(
        description="of a safety tagger: where neutral sentences pass its threshold, and more often than with fillers"
    )
    terms: tuple[TermAudit, ...] = Field(description="the largest change first")


class AuditReport(Model):
    """What a tagger keys on, on one corpus. The first of the findings is the worst."""

    format: Literal["assay.audit/1"] = "assay.audit/1"
    tagger: str
    version: int
    axis: Axis
    kind: Literal["score", "label"]
    fingerprint: str = Field(description="of the tagger")
    encoder: str
    threshold: float
    store: str
    run: str
    corpus: str
    documents: int = Field(description="with a decided tag")
    undecided: int
    findings: tuple[str, ...] = Field(min_length=1, description="in words, the worst first")
    flagged: bool = Field(description="whether anything is")
    dimensions: tuple[DimensionAudit, ...] = Field(description="the most telling first")
    length: tuple[LengthAudit, ...]
    identity: IdentityAudit | None = None
    notes: tuple[str, ...] = Field((), description="what was left out, and why")


class IdentityTerm(Model):
    """A group of people, as a noun phrase in each language."""

    name: str
    kind: IdentityKind
    phrases: dict[str, str] = Field(description="language -> a noun phrase in the nominative")


class IdentityTerms(Model):
    """Neutral sentences to try a tagger on: templates filled with terms, and with fillers that name no group."""

    templates: dict[str, tuple[str, ...]] = Field(description="language -> sentences with {term}, or with {Term}")
    fillers: dict[str, tuple[str, ...]] = Field(description="language -> noun phrases that name no group")
    terms: tuple[IdentityTerm, ...]

    @model_validator(mode="after")
    def _consistent(self) -> "IdentityTerms":
        languages = set(self.templates)
        if set(self.fillers) != languages:
            raise ValueError("templates and fillers have different languages")
        if few := sorted(language for language, phrases in self.fillers.items() if len(phrases) < 2):
            raise ValueError(f"two fillers at least are needed to tell a change from chance: {few}")
        for term in self.terms:
            if unknown := sorted(set(term.phrases) - languages):
                raise ValueError(f"term {term.name!r} has phrases in languages without templates: {unknown}")
        for template in (t for lines in self.templates.values() for t in lines):
            if "{term}" not in template and "{Term}" not in template:
                raise ValueError(f"a template has no place for a term: {template!r}")
        return self

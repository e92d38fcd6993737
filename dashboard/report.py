"""The report of a run: every number of its page, checked against each other before any of it is drawn."""

import json
from typing import Literal

from pydantic import Field, model_validator

from assay.schemas.base import Model
from assay.schemas.composition import Composition


class Totals(Model):
    """Rows accounted for: rows_in == kept + dropped + quarantined, or it can't be made."""

    rows_in: int = Field(ge=0)
    rows_kept: int = Field(ge=0)
    rows_dropped: int = Field(0, ge=0)
    rows_quarantined: int = Field(0, ge=0)
    tokens: int = Field(0, ge=0, description="tokens of the kept rows")

    @model_validator(mode="after")
    def _reconcile(self) -> "Totals":
        out = self.rows_kept + self.rows_dropped + self.rows_quarantined
        if self.rows_in != out:
            raise ValueError(f"rows don't reconcile: {self.rows_in} in, {out} kept, dropped or quarantined")
        return self


class TaggerLine(Model):
    """A tagger as the report names it."""

    name: str
    axis: str
    kind: Literal["score", "label"]
    version: str = ""
    held_out: dict[str, float] = Field(
        default_factory=dict, description="figures on documents it was not fitted on, e.g. AUROC"
    )
    note: str = ""


class RuleLine(Model):
    """A rule of a recipe and what it took out."""

    name: str
    dropped: int = Field(ge=0, description="documents dropped by this rule: the first one that failed them")
    tokens: int | None = Field(None, ge=0, description="tokens of these documents")
    failed: int | None = Field(None, ge=0, description="documents that fail it at all, also those dropped before")


class Report(Model):
    """What was read, what was kept of it, and what it is made of."""

    format: Literal["assay.report/1"] = "assay.report/1"
    title: str
    subject: str = Field(description="what was read, in a sentence")
    corpus: str = Field(description="what the user named: a path, glob, URI or dataset id")
    fingerprints: dict[str, str] = Field(default_factory=dict, description="scope, encoder, tagset, recipe, ...")
    taggers: tuple[TaggerLine, ...] = ()
    totals: Totals
    quarantine_reasons: dict[str, int] = Field(default_factory=dict)
    composition: Composition = Field(description="of the kept documents")
    dropped: Composition | None = Field(None, description="of the dropped documents, for a curated dataset")
    rules: tuple[RuleLine, ...] = Field((), description="in the order they ran")
    throughput: str = ""
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _reconcile(self) -> "Report":
        totals = self.totals
        claims = [
            ("quarantine reasons", sum(self.quarantine_reasons.values()), totals.rows_quarantined),
            ("documents of the composition", self.composition.documents, totals.rows_kept),
            ("tokens of the composition", self.composition.tokens, totals.tokens),
        ]
        if self.dropped is not None:
            claims.append(("documents of the dropped", self.dropped.documents, totals.rows_dropped))
        if self.rules:
            claims.append(("drops by rule", sum(rule.dropped for rule in self.rules), totals.rows_dropped))
        wrong = [f"{what} sum to {found}, not {expected}" for what, found, expected in claims if found != expected]
        if wrong:
            raise ValueError("the report doesn't reconcile: " + "; ".join(wrong))
        return self


def as_json(report: Report) -> str:
    """The report as JSON in ASCII with sorted keys: equal reports give equal bytes, and a terminal shows them inert."""
    return json.dumps(report.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

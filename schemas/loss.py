"""What a curation takes away more than its share of: by tag, length, source and feature, and which rule does it."""

from typing import Literal

from pydantic import Field, FiniteFloat, model_validator

from assay.schemas.base import Model
from assay.schemas.drift import SIGNIFICANT, LayerDrift


class RuleLoss(Model):
    """What one rule, or a stage after the rules, drops first."""

    name: str = Field(description="a rule, or sample or mixture")
    dropped: int = Field(ge=0, description="documents of which it is the first that drops them")


class GroupLoss(Model):
    """The documents with one value of a tag, in one band of a score or length, or from one source."""

    metric: str = Field(description="a tagger's name, tokens (lengths) or source")
    kind: Literal["label", "score", "length", "source"] = Field(description="what its values are")
    value: str = Field(description="empty: undecided")
    documents: int = Field(ge=1, description="that came to the recipe")
    dropped: int = Field(ge=0, description="of these")
    lift: FiniteFloat = Field(ge=0, description="share of them that is dropped over the share of all documents that is")
    low: FiniteFloat = Field(description="95 % interval of the lift: its lower end")
    high: FiniteFloat = Field(description="its upper end")
    q: float = Field(
        ge=0,
        le=1,
        description="chance of as much if it fared like all others, adjusted for all groups; below 0.05: beyond chance",
    )
    by: tuple[RuleLoss, ...] = Field(description="what drops them; adds up to dropped")
    cause: str = Field("", description="what drops most of them beyond its share; empty: nothing does")

    @property
    def kept(self) -> int:
        """Documents that stay."""
        return self.documents - self.dropped

    @property
    def vanished(self) -> bool:
        """Whether nothing of it stays."""
        return not self.kept

    @property
    def more(self) -> bool:
        """Whether more of it is lost than of the rest, beyond chance."""
        return self.q < SIGNIFICANT and self.lift > 1

    @property
    def less(self) -> bool:
        """Whether less of it is lost than of the rest, beyond chance."""
        return self.q < SIGNIFICANT and self.lift < 1


class NearDocument(Model):
    """A document close to a threshold."""

    doc_id: str = Field(description="its id in the tags")
    value: FiniteFloat = Field(description="what it has in the column")
    verdict: str = Field(description="the rule that drops it; empty: it stays")
    excerpt: str = Field("", description="the text's beginning, made inert; empty: the source can't be read")


class RuleThreshold(Model):
    """A number that a rule compares a column with, and the documents nearest to it."""

    rule: str = Field(description="its name")
    column: str = Field(description="of the tags table")
    value: FiniteFloat = Field(description="the number")
    below: tuple[NearDocument, ...] = Field(description="nearest first")
    above: tuple[NearDocument, ...] = Field(description="nearest first; one that lies on the threshold is here")


class LossReport(Model):
    """The audit of one curation."""

    format: Literal["assay.loss/1"] = "assay.loss/1"
    uri: str = Field(description="the curated dataset, as given")
    name: str = Field(description="the dataset's")
    fingerprint: str = Field(description="the curation's")
    documents: int = Field(description="that came to the recipe: kept and dropped")
    dropped: int = Field(description="of these")
    rules: tuple[RuleLoss, ...] = Field(description="in the recipe's order, stages last")
    groups: tuple[GroupLoss, ...] = Field(description="largest lift first; none where nothing was dropped")
    tests: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="rule -> the metrics that it tests itself"
    )
    features: tuple[LayerDrift, ...] = Field(
        (), description="features of dropped (A) and of kept documents (B); those that fell are lost more than others"
    )
    feature_documents: tuple[int, int] = Field(
        (0, 0), description="dropped and kept documents whose features were read"
    )
    thresholds: tuple[RuleThreshold, ...] = Field((), description="every number that a rule compares a column with")
    notes: tuple[str, ...] = Field((), description="what limits the audit")

    @model_validator(mode="after")
    def _reconcile(self) -> "LossReport":
        if sum(rule.dropped for rule in self.rules) != self.dropped:
            raise ValueError(f"rules drop {sum(rule.dropped for rule in self.rules)}, not {self.dropped}")
        for metric in {group.metric for group in self.groups}:
            groups = [group for group in self.groups if group.metric == metric]
            found = sum(g.documents for g in groups), sum(g.dropped for g in groups)
            if found != (self.documents, self.dropped):
                raise ValueError(f"{metric}: {found} documents and dropped, not {self.documents} and {self.dropped}")
        return self

    def beyond(self, max_lift: float) -> list[GroupLoss]:
        """Groups that surely lose more than `max_lift` times what documents lose on the whole."""
        return [group for group in self.groups if group.more and group.low > max_lift]

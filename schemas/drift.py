"""How two corpora differ: by tag, length and SAE feature, with what chance alone would give beside every figure."""

from typing import Literal

from pydantic import Field, FiniteFloat, model_validator

from assay.schemas.base import Model

SIGNIFICANT = 0.05
Verdict = Literal["drift", "noise", "same"]


class DriftSide(Model):
    """One of the two corpora that are compared."""

    uri: str = Field(description="the store's or the dataset's path, as given")
    kind: Literal["run", "dataset"] = Field(description="a tagging run, or a curated dataset")
    name: str = Field(description="the run's id, or the dataset's name")
    corpus: str = Field(description="what was tagged")
    encoder: str = Field(description="fingerprint")
    tagset: str = Field(description="fingerprint")
    documents: int = Field(ge=0, description="copies counted")
    tokens: int = Field(ge=0, description="of these documents")


class Stability(Model):
    """The population stability index of one metric, beside what two random halves of one corpus would show."""

    psi: FiniteFloat = Field(description="sum over bins of (b - a) ln(b / a), a and b the shares")
    noise: FiniteFloat = Field(description="expected without any drift, for corpora of this size")
    noise_95: FiniteFloat = Field(description="without any drift, 95 of 100 comparisons stay below this")
    q: float = Field(
        ge=0,
        le=1,
        description="chance of as much without drift, adjusted for all that the report compares; below 0.05: drift",
    )

    @property
    def verdict(self) -> Verdict:
        """drift: beyond chance; noise: two halves of one corpus differ as much; same: no difference at all."""
        if self.q < SIGNIFICANT:
            return "drift"
        return "noise" if self.psi > 0 else "same"


class ValueChange(Model):
    """One value of a metric on both sides, A first."""

    value: str = Field(description="a label, a band of scores or of lengths; empty: undecided")
    docs: tuple[int, int] = Field(description="documents in A and in B")
    tokens: tuple[int, int] = Field(description="their tokens")
    difference: FiniteFloat = Field(description="share of B's documents less share of A's")
    low: FiniteFloat = Field(description="95 % interval of the difference: its lower end")
    high: FiniteFloat = Field(description="its upper end")


class MetricDrift(Model):
    """One tag, or the lengths, on both sides."""

    metric: str = Field(description="a tagger's name, or tokens: the documents' lengths")
    kind: Literal["label", "score", "length"] = Field(description="what its values are")
    bins: int = Field(ge=1, description="bins that PSI is taken over: rare ones are joined until chance is predictable")
    documents: Stability = Field(description="every document counts once")
    tokens: Stability = Field(description="every document counts by its tokens")
    jensen_shannon: float = Field(ge=0, description="bits, 0 to 1, over all bins by documents")
    median: tuple[float | None, float | None] = Field(description="of a score or length; known to one bin")
    changes: tuple[ValueChange, ...] = Field(
        description="largest difference first; their documents add up to each side's"
    )

    @property
    def worst(self) -> float:
        """The larger of both indices."""
        return max(self.documents.psi, self.tokens.psi)

    @property
    def verdict(self) -> Verdict:
        """Drift if either index shows it."""
        found = {self.documents.verdict, self.tokens.verdict}
        return "drift" if "drift" in found else "noise" if "noise" in found else "same"

    @property
    def appeared(self) -> tuple[str, ...]:
        """Labels that only B has."""
        return tuple(c.value for c in self.changes if self.kind == "label" and c.value and not c.docs[0])

    @property
    def vanished(self) -> tuple[str, ...]:
        """Labels that only A has."""
        return tuple(c.value for c in self.changes if self.kind == "label" and c.value and not c.docs[1])


class FeatureChange(Model):
    """One SAE feature: the share of documents that store it, A first."""

    feature: int = Field(description="its id in the SAE")
    share: tuple[float, float] = Field(description="of the documents that store it")
    difference: FiniteFloat = Field(description="B less A")
    low: FiniteFloat = Field(description="95 % interval of the difference: its lower end")
    high: FiniteFloat = Field(description="its upper end")
    q: float = Field(ge=0, le=1, description="adjusted for all features tested at all layers")
    below_floor: tuple[float, float] = Field(
        description="share of documents that don't store it but had features cut: there it may have fired unseen"
    )
    example: str = Field("", description="id of the document in which it fires most, on the side with the larger share")
    read_by: tuple[str, ...] = Field((), description="taggers that use it")
    tokens: tuple[str, ...] = Field((), description="tokens on which it fires most, where a tagger names them")

    @property
    def certain(self) -> bool:
        """Whether the sign of the difference in firing holds whatever fired below the floor."""
        a, b = self.share
        return b > a + self.below_floor[0] if b > a else a > b + self.below_floor[1]


class FeatureOverlap(Model):
    """The sets of features that any document stores: |A and B| / |A| and so on (Qwen-Scope, eq. 10 and 11)."""

    features: tuple[int, int] = Field(description="in A, in B")
    shared: int = Field(description="in both")
    a_in_b: float = Field(ge=0, le=1, description="share of A's features that B has")
    b_in_a: float = Field(ge=0, le=1, description="share of B's features that A has")
    smaller: float = Field(ge=0, le=1, description="shared over the smaller set (eq. 11)")
    by_chance: tuple[float, float, float] = Field(
        description="the three figures expected if all documents were mixed and dealt out in these sizes"
    )


class LayerDrift(Model):
    """The features of one layer."""

    layer: int = Field(description="0-based decoder layer")
    tested: int = Field(description="features frequent enough for a test")
    rose: int = Field(description="features with a larger share in B beyond chance")
    fell: int = Field(description="features with a smaller one")
    changes: tuple[FeatureChange, ...] = Field(
        description="the 10 that rose and the 10 that fell most, beyond chance only; largest difference first"
    )
    overlap: FeatureOverlap = Field(description="of the sets of features that occur")


class FeatureDrift(Model):
    """SAE features on both sides, from all tagged shards or from a sample of them."""

    documents: tuple[int, int] = Field(description="whose features were read")
    shards: tuple[int, int] = Field(description="whose features were read")
    shards_in_all: tuple[int, int] = Field(description="that there are")
    layers: tuple[LayerDrift, ...] = Field(description="each hooked layer")

    @property
    def sampled(self) -> bool:
        """Whether any shard was left out."""
        return self.shards != self.shards_in_all


class DriftReport(Model):
    """Everything that sets B apart from A, the largest drift first."""

    format: Literal["assay.drift/1"] = "assay.drift/1"
    a: DriftSide = Field(description="what B is held against")
    b: DriftSide = Field(description="what is looked at")
    max_drift: float | None = Field(None, ge=0, description="the gate, where one was given")
    metrics: tuple[MetricDrift, ...] = Field(description="those that drifted first, by falling PSI")
    features: FeatureDrift | None = Field(None, description="null: not compared")
    notes: tuple[str, ...] = Field((), description="what limits the comparison")

    @model_validator(mode="after")
    def _reconcile(self) -> "DriftReport":
        for metric in self.metrics:
            for index, side in enumerate((self.a, self.b)):
                docs = sum(change.docs[index] for change in metric.changes)
                tokens = sum(change.tokens[index] for change in metric.changes)
                if (docs, tokens) != (side.documents, side.tokens):
                    raise ValueError(f"{metric.metric}: {docs} documents, {tokens} tokens; {side.uri} has others")
        return self

    @property
    def exceeded(self) -> tuple[MetricDrift, ...]:
        """Metrics whose PSI, by documents or tokens, is above the gate and beyond chance."""
        limit = self.max_drift
        if limit is None:
            return ()
        return tuple(
            m for m in self.metrics if any(s.psi > limit and s.verdict == "drift" for s in (m.documents, m.tokens))
        )

"""A tagger: a small readable file that turns stored features into one tag."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, field_validator, model_validator

from assay.schemas.base import Model, fingerprint
from assay.schemas.errors import AssayError
from assay.schemas.evidence import Evidence
from assay.schemas.json_file import load_json

Axis = Literal["quality", "safety", "domain", "language", "custom"]
Pooling = Literal["any", "max", "mean", "count"]
Rule = Literal["any_of", "linear", "dense"]


class FeatureWeight(Model):
    """One SAE feature's part in a tag."""

    layer: int = Field(ge=0)
    feature: int = Field(ge=0)
    scale: FiniteFloat = Field(gt=0, description="the pooled value is divided by this and cut at 1")
    weights: tuple[FiniteFloat, ...] = Field(description="one per label; a score has one")
    tokens: tuple[str, ...] = Field((), description="tokens on which it fires most in the fitting data")


class DenseLayer(Model):
    """A dense probe's part: weights on the mean residual of a document's counted tokens at one layer."""

    layer: int = Field(ge=0)
    weights: tuple[tuple[FiniteFloat, ...], ...] = Field(description="one row of d_model numbers a label")


class Tagger(Model):
    """Scores or labels a document by one of three rules.

    linear: sigmoid (score) or softmax (label) of bias + weights @ min(pooled / scale, 1), or that sum itself, cut to
    [0, 1], where the link is identity. any_of: 1 if any of the features fired, else 0 (Qwen-Scope, eq. 15 and 17).
    dense: as linear, on mean residuals, which a run stores only where its scope says `residuals`.
    """

    format: Literal["assay.tagger/1"] = "assay.tagger/1"
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$", description="also the name of its column")
    version: int = Field(1, ge=1)
    axis: Axis
    kind: Literal["score", "label"]
    description: str
    labels: tuple[str, ...] = Field(description="a score names its positive class; a label tagger names them all")
    encoder: str = Field(description="fingerprint of the encoder that it was fitted on; another one is an error")
    pooling: Pooling = Field(description="which pooled value of a feature is used; any: 1 if it fired at all")
    sqrt: bool = Field(description="take the square root after scaling, which evens out bursts")
    bias: tuple[FiniteFloat, ...]
    rule: Rule = Field("linear", description="how features become a score")
    link: Literal["logistic", "identity"] = Field(
        "logistic", description="identity: a regression's score, cut to [0, 1]"
    )
    unit: tuple[FiniteFloat, FiniteFloat] | None = Field(
        None, description="of a regression: what scores 0 and 1 stand for on the scale of its labels"
    )
    features: tuple[FeatureWeight, ...] = Field((), description="none in a dense probe")
    dense: tuple[DenseLayer, ...] = Field((), description="of a dense probe only")
    threshold: float = Field(0.5, ge=0, le=1, description="where a yes/no reading of a score is best cut")
    threshold_rule: str = ""
    method: str = Field(description="how it was fitted")
    fitted_on: dict[str, Any] = Field(default_factory=dict, description="data, splits, sizes and hashes")
    evidence: Evidence | None = Field(None, description="figures on test documents, with baselines beside them")

    @field_validator("evidence", mode="before")
    @classmethod
    def _without_free_form(cls, value: Any) -> Any:
        """Stores of early versions keep evidence in no fixed form; their tags don't depend on it."""
        return None if isinstance(value, dict) and "headline" not in value else value

    @model_validator(mode="after")
    def _consistent(self) -> "Tagger":
        outputs = 1 if self.kind == "score" else len(self.labels)
        if self.kind == "score" and len(self.labels) != 1:
            raise ValueError("a score has exactly one label: its positive class")
        if self.kind == "label" and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels repeat")
        if (bool(self.features), bool(self.dense)) != (self.rule != "dense", self.rule == "dense"):
            holds = "dense layers and no features" if self.rule == "dense" else "features and no dense layers"
            raise ValueError(f"a tagger by the rule {self.rule} has {holds}")
        if self.rule == "any_of" and (self.kind, self.pooling) != ("score", "any"):
            raise ValueError("any_of gives a score, from the pooling 'any'")
        if self.kind == "label" and self.link == "identity":
            raise ValueError("a label tagger has the link 'logistic'")
        if len(self.bias) != outputs:
            raise ValueError(f"bias has {len(self.bias)} numbers, expected {outputs}")
        seen = set()
        for f in self.features:
            if len(f.weights) != outputs:
                raise ValueError(f"feature {f.layer}:{f.feature} has {len(f.weights)} weights, expected {outputs}")
            if (f.layer, f.feature) in seen:
                raise ValueError(f"feature {f.layer}:{f.feature} is listed twice")
            seen.add((f.layer, f.feature))
        return self

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that decides the tag; evidence and prose may change without it."""
        decides = {"format", "name", "version", "axis", "kind", "labels", "encoder", "pooling", "sqrt", "bias"}
        # Fields that came later count only where they say something, so that older taggers keep their names.
        later = ("rule", "link", "dense")
        decides |= {name for name in later if getattr(self, name) != type(self).model_fields[name].default}
        weights = [[f.layer, f.feature, f.scale, f.weights] for f in self.features]
        return fingerprint([self.model_dump(mode="json", include=decides), weights])


def load_tagger(path: Path) -> Tagger:
    """Reads one tagger file; a wrong one is an AssayError that names file and key."""
    return load_json(path, Tagger, "tagger", hint="the format is described in docs/data-format.md")


def load_taggers(path: Path) -> tuple[Tagger, ...]:
    """Reads a tagger file or every *.json of a folder, by name; two with one name is an AssayError."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    taggers = sorted((load_tagger(f) for f in files), key=lambda t: t.name)
    names = [t.name for t in taggers]
    if not taggers or len(set(names)) < len(names):
        what = "no tagger (*.json) in this folder" if not taggers else f"two taggers share a name: {names}"
        raise AssayError(what, where=str(path), hint="a folder holds one JSON file a tagger")
    return tuple(taggers)


def dump_tagger(tagger: Tagger) -> str:
    """The tagger as it is kept in git: a line for each field, feature and figure, so that a diff reads."""
    body = tagger.model_dump(mode="json")
    features = body.pop("features")
    return _lines(body | {"features": features}, 1) + "\n"


def _lines(value: Any, depth: int) -> str:
    """JSON in which what holds a dict is opened, and everything else stands on one line."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(_holds_dict(item) for item in inside):
        return json.dumps(value, ensure_ascii=False)
    pad, end = " " * depth, " " * (depth - 1)
    if isinstance(value, dict):
        keys = (json.dumps(key, ensure_ascii=False) for key in value)
        items = [f"{key}: {_lines(item, depth + 1)}" for key, item in zip(keys, value.values(), strict=True)]
        return "{\n" + ",\n".join(pad + item for item in items) + f"\n{end}}}"
    return "[\n" + ",\n".join(pad + _lines(item, depth + 1) for item in value) + f"\n{end}]"


def _holds_dict(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(_holds_dict(item) for item in value))

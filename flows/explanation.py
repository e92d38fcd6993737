"""An explanation of one document's tags, and its two forms: for a terminal, and as Dolma's attributes."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assay.schemas.base import Model
from assay.schemas.errors import inert, printable
from assay.schemas.tagger import Rule

_FEATURES_SHOWN = 6
Span = tuple[int, int, float]
"""[start, end, act] in code points of the text"""


class FeatureReason(Model):
    """One feature's part in a tag."""

    layer: int
    feature: int
    weight: float
    """towards the tag's label"""
    value: float
    """pooled and scaled to [0, 1]"""
    effect: float
    """value times weight"""
    fires_on: tuple[str, ...]
    spans: tuple[Span, ...]


class LayerReason(Model):
    """One layer's part in a dense probe's tag: of the whole document, so that it has no spans."""

    layer: int
    effect: float


class TagReason(Model):
    """A tag, and what made it, largest effect first."""

    name: str
    axis: str
    rule: Rule
    value: str | float | None
    probability: float | None = None
    threshold: float | None = None
    """of a score: above it a document is positive"""
    bias: float
    features: tuple[FeatureReason, ...]
    layers: tuple[LayerReason, ...] = ()


class Explanation(Model):
    """A document's tags with their reasons. Effects add up, with the bias, to the tag's logit (any_of has none)."""

    doc_id: str
    run: str
    source: str
    row: int
    n_tokens: int
    tokens_seen: int
    text: str
    tags: tuple[TagReason, ...]


def as_dolma(explanation: Explanation) -> dict[str, Any]:
    """The explanation as a line of a Dolma attributes file: attribute -> [[start, end, score], ...] in code points.

    `{tagger}` holds the places that made the tag. A feature's effect is shared among the tokens on which it fired by
    their activations, so that the scores add up, with the bias, to the logit. `{tagger}__document` is the tag of the
    whole text: its score, or as `{tagger}__document__{label}` its label's share; absent where it is undecided.
    """
    attributes: dict[str, list[list[float]]] = {}
    for tag in explanation.tags:
        places = []
        for f in tag.features:
            total = sum(act for _, _, act in f.spans)
            places += [[start, end, round(f.effect * act / total, 6)] for start, end, act in f.spans]
        attributes[tag.name] = sorted(places)
        whole = [0, len(explanation.text)]
        if isinstance(tag.value, float):
            attributes[f"{tag.name}__document"] = [[*whole, round(tag.value, 6)]]
        elif tag.value is not None and tag.probability is not None:
            attributes[f"{tag.name}__document__{tag.value}"] = [[*whole, round(tag.probability, 6)]]
    return {"id": explanation.doc_id, "attributes": attributes}


def as_renderable(explanation: Explanation) -> RenderableType:
    """The explanation for a terminal. Text of the corpus can't move the cursor: control characters are escaped."""
    e = explanation
    head = Text(f"{printable(e.doc_id)} · {printable(e.source, 400)} row {e.row:,} · {e.n_tokens:,} tokens")
    parts: list[RenderableType] = [head]
    for tag in e.tags:
        value = "undecided" if tag.value is None else f"{tag.value:.3f}" if isinstance(tag.value, float) else tag.value
        share = f" (p = {tag.probability:.2f})" if tag.probability is not None else ""
        if isinstance(tag.value, float) and tag.threshold is not None:
            share = f" ({'above' if tag.value > tag.threshold else 'not above'} its threshold of {tag.threshold:.3g})"
        of_rule = ", 1 where any feature fired" if tag.rule == "any_of" else f", bias {tag.bias:+.2f}"
        table = Table(title=Text(f"{inert(tag.name)}: {inert(value)}{share}{of_rule}"), title_justify="left", box=None)
        for column in ("feature", "weight", "effect", "fired on here", "fires on in the fitting data"):
            table.add_column(column, justify="right" if column in ("weight", "effect") else "left")
        for f in tag.features[:_FEATURES_SHOWN]:
            here = " ".join(_around(e.text, start, end) for start, end, _ in sorted(f.spans, key=lambda s: -s[2])[:3])
            usual = " ".join(inert(token) for token in f.fires_on[:5])
            table.add_row(f"{f.layer}:{f.feature}", f"{f.weight:+.2f}", f"{f.effect:+.2f}", Text(here), Text(usual))
        for layer in tag.layers:
            table.add_row(f"layer {layer.layer}", "", f"{layer.effect:+.2f}", Text("the whole document"), Text(""))
        if left_out := len(tag.features) - _FEATURES_SHOWN:
            table.caption = Text(f"and {left_out:,} more") if left_out > 0 else None
        parts += [Text(""), table]
        if tag.rule == "dense":
            parts.append(Text("a dense probe reads the mean over the document's tokens: no place in the text made it"))
    return Group(*parts)


def _around(text: str, start: int, end: int, margin: int = 12) -> str:
    before, after = text[max(0, start - margin) : start], text[end : end + margin]
    return inert(f"…{before}[{text[start:end]}]{after}…")

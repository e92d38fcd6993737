"""Finds features that stand for something by a stated rule, with the tokens that they fire on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from assay.sae_runtime.runtime import Runtime
from assay.taggers.examples import Example

QUOTAS = {"topic": 5, "language": 4, "tweets": 1, "sentences": 1, "reading level": 1}
"""How many features of each kind of label are shown."""
_STRONGEST_TEXTS = 12
_TOKENS = 6
_CONTEXTS = 2
_AROUND = 28

Record = dict[str, object]


class LabelledFeatures(NamedTuple):
    """One kind of label: the texts and which features fired on them."""

    name: str
    rows: list[Example]
    texts: list[str]
    max: sparse.csr_matrix


class Found(NamedTuple):
    """A label's feature of largest Delta = P(fires | label) - P(fires | another label) on discovery texts."""

    kind: str
    label: str
    column: int
    fires_on_label: float
    """share of the label's test texts on which it fires at all"""
    fires_on_others: float

    @property
    def delta(self) -> float:
        """On test texts."""
        return self.fires_on_label - self.fires_on_others


def choose(kinds: Sequence[LabelledFeatures]) -> list[tuple[LabelledFeatures, Found]]:
    """For each kind, the labels whose feature keeps the largest Delta on test texts; a feature is taken once."""
    chosen: list[tuple[LabelledFeatures, Found]] = []
    for kind in kinds:
        found = sorted(
            (_of_label(kind, label) for label in sorted({r.label for r in kind.rows})), key=lambda f: -f.delta
        )
        for one in found:
            taken = {f.column for _, f in chosen}
            if one.column not in taken and sum(k.name == kind.name for k, _ in chosen) < QUOTAS[kind.name]:
                chosen.append((kind, one))
    return chosen


def _of_label(kind: LabelledFeatures, label: str) -> Found:
    labels = np.array([row.label for row in kind.rows])
    splits = np.array([row.split for row in kind.rows])
    fired = kind.max.astype(bool).astype(np.float32)
    shares = {
        split: [_share(fired, (splits == split) & same) for same in (labels == label, labels != label)]
        for split in ("discovery", "test")
    }
    column = int(np.argmax(shares["discovery"][0] - shares["discovery"][1]))
    return Found(kind.name, label, column, *(float(share[column]) for share in shares["test"]))


def _share(fired: sparse.csr_matrix, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(fired[rows].sum(axis=0)).ravel() / max(1, int(rows.sum()))


def describe(kind: LabelledFeatures, found: Found, runtime: Runtime, shown: Sequence[str], *, abusive: bool) -> Record:
    """What stands on the page: tokens from the labelled texts, contexts from `shown` only, whose text may be quoted.

    An abusive token keeps its first letter.
    """
    layer = runtime.scope.layers[found.column // runtime.d_sae]
    feature = found.column % runtime.d_sae
    strongest = np.argsort(-kind.max[:, found.column].toarray().ravel(), kind="stable")[:_STRONGEST_TEXTS]
    tokens: dict[str, float] = {}
    for n in strongest:
        for firing in runtime.trace(kind.texts[n], {layer: [feature]}):
            token = kind.texts[n][firing.start : firing.end].strip()
            if token:
                tokens[token] = max(tokens.get(token, 0.0), firing.act)
    best = sorted(tokens, key=lambda token: (-tokens[token], token))[:_TOKENS]
    return {
        "kind": kind.name,
        "label": found.label,
        "layer": layer,
        "feature": feature,
        "fires_on_label": round(found.fires_on_label, 3),
        "fires_on_others": round(found.fires_on_others, 3),
        "tokens": [token[0] + "*" * (len(token) - 1) if abusive else token for token in best],
        "contexts": [] if abusive else _contexts(runtime, layer, feature, shown),
    }


def _contexts(runtime: Runtime, layer: int, feature: int, shown: Sequence[str]) -> list[str]:
    firings = []
    for text in shown:
        here = runtime.trace(text[:2000], {layer: [feature]})
        if here:
            strongest = max(here, key=lambda f: f.act)
            firings.append((strongest.act, text, strongest))
    firings.sort(key=lambda item: (-item[0], item[1]))
    return [
        f"{text[max(0, f.start - _AROUND) : f.start]}[{text[f.start : f.end]}]{text[f.end : f.end + _AROUND]}"
        for _, text, f in firings[:_CONTEXTS]
    ]

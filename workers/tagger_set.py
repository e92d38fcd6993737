"""Taggers applied to a features table: no model is needed, and what isn't stored is never taken for 0."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.base import fingerprint
from assay.schemas.errors import AssayError
from assay.schemas.statistics import TOKENS, TagColumn
from assay.schemas.tagger import FeatureWeight, Tagger
from assay.workers.feature_hits import HitFinder
from assay.workers.feature_table import RESIDUAL_MEAN, features_schema
from assay.workers.tag_reasons import reasons
from assay.workers.tag_rules import DenseRule, FeatureRule, Judged

DOCUMENT_COLUMNS = ("row", "doc_id", "n_bytes", "n_tokens", "tokens_seen")
_DECIDED_WITHIN = 0.02


class TaggerSet:
    """A tuple of taggers for one encoder, applied together."""

    def __init__(self, taggers: Sequence[Tagger], encoder: str, watched: Iterable[tuple[int, int]] = ()) -> None:
        """AssayError if a tagger was fitted on another encoder than `encoder` (a fingerprint), or names clash."""
        for tagger in taggers:
            if tagger.encoder != encoder:
                raise AssayError(
                    f"tagger {tagger.name!r} was fitted on encoder {tagger.encoder}, these features are of {encoder}",
                    hint="a feature id means something else under another model, SAE or layer: fit it on this scope",
                )
        written = Counter([*DOCUMENT_COLUMNS, TOKENS, *(name for t in taggers for name in _column_names(t))])
        if clash := [name for name, times in written.items() if times > 1]:
            raise AssayError(
                f"a tagger would write a column that is there already: {', '.join(clash)}",
                hint="a label tagger also writes {name}_p, and every tagger {name}_why: rename one of them",
            )
        self.taggers = tuple(taggers)
        seen = frozenset(watched)
        sparse = [t for t in self.taggers if t.rule != "dense"]
        self._finder = HitFinder(
            keys=((f.layer, f.feature) for t in sparse for f in t.features),
            pooled=((f.layer, t.pooling) for t in sparse for f in t.features if t.pooling != "any"),
            floors=(f.layer for t in sparse for f in t.features if (f.layer, f.feature) not in seen),
        )
        self._rules = {
            t.name: DenseRule(t) if t.rule == "dense" else FeatureRule(t, self._finder.keys, seen) for t in self.taggers
        }

    def fingerprint(self, features: str) -> str:
        """Names the tags that these taggers give on features with that fingerprint."""
        return fingerprint([features, sorted(t.fingerprint for t in self.taggers)])

    @property
    def columns(self) -> tuple[TagColumn, ...]:
        """What the tags table holds, a tagger each."""
        return tuple(TagColumn(name=t.name, axis=t.axis, kind=t.kind) for t in self.taggers)

    @property
    def reads(self) -> list[str]:
        """The columns of a features table that `apply` needs."""
        dense = [RESIDUAL_MEAN.format(layer) for layer in sorted({d.layer for t in self.taggers for d in t.dense})]
        return list(dict.fromkeys([*DOCUMENT_COLUMNS, *self._finder.columns, *dense]))

    def apply(self, features: pa.Table) -> pa.Table:
        """The tags of a features table's N documents, in its order.

        A tag is null (undecided) where features that the shard didn't keep could move a score by more than 0.02 or
        change a label. AssayError for a layer, or residuals, that the table doesn't hold.
        """
        self._require(features.column_names)
        hits = self._finder.find(features)
        columns = {name: features[name].combine_chunks() for name in DOCUMENT_COLUMNS}
        for tagger in self.taggers:
            rule = self._rules[tagger.name]
            columns.update(_tag(tagger, rule.judge(features, hits), rule.names))
        return pa.table(columns)

    def empty(self) -> pa.Table:
        """The tags of no documents."""
        layers = {f.layer for t in self.taggers for f in t.features} | {d.layer for t in self.taggers for d in t.dense}
        widths = {len(d.weights[0]) for t in self.taggers for d in t.dense}
        return self.apply(features_schema(sorted(layers), max(widths, default=None)).empty_table())

    def contributions(self, features: pa.Table) -> dict[str, list["Contribution"]]:
        """Tagger -> what each part adds to the tag of the table's one document, largest effect first."""
        self._require(features.column_names)
        hits = self._finder.find(features)
        result = {}
        for tagger in self.taggers:
            rule = self._rules[tagger.name]
            judged = rule.judge(features, hits)
            _, part, effect = judged.effects(_choose(tagger, judged).chosen_N)
            if isinstance(rule, FeatureRule):
                values = rule.values(hits).effect.tolist()
                names = [(rule.features[p].layer, rule.features[p]) for p in part.tolist()]
            else:
                values, names = [None] * len(part), [(layer, None) for layer in rule.layers]
            found = [Contribution(*name, v, e) for name, v, e in zip(names, values, effect.tolist(), strict=True)]
            result[tagger.name] = sorted(found, key=lambda c: -abs(c.effect))
        return result

    def _require(self, columns: Sequence[str]) -> None:
        for tagger in self.taggers:
            for layer in sorted({f.layer for f in tagger.features}):
                if f"l{layer}_ids" not in columns:
                    raise AssayError(
                        f"tagger {tagger.name!r} reads layer {layer}, which these features don't have",
                        hint="its file was changed by hand: fit it again on this scope",
                    )
            if any(RESIDUAL_MEAN.format(d.layer) not in columns for d in tagger.dense):
                raise no_residuals(tagger)


class Contribution(NamedTuple):
    """One part of a document's tag: a feature's, or in a dense probe a layer's."""

    layer: int
    feature: FeatureWeight | None
    """None in a dense probe"""
    value: float | None
    """pooled, scaled to [0, 1]; None in a dense probe"""
    effect: float
    """what it adds to the output: value times weight"""


class _Choice(NamedTuple):
    """What each document's tag would be, and whether it is decided; `share_N` is the score, or the label's share."""

    chosen_N: NDArray[np.intp]
    share_N: NDArray[np.float64]
    decided_N: NDArray[np.bool_]


def no_residuals(tagger: Tagger) -> AssayError:
    """The error for a dense probe on features that were stored without residuals."""
    return AssayError(
        f"tagger {tagger.name!r} is a dense probe, and these features were stored without residuals",
        hint="set `residuals: true` in the scope's file and tag with it: the model runs again, once",
    )


def _choose(tagger: Tagger, judged: Judged) -> _Choice:
    low_NL, high_NL, n = judged.low_NL, judged.high_NL, np.arange(len(judged.low_NL))
    middle_NL = (low_NL + high_NL) / 2
    if tagger.kind == "score":
        link = _clip if tagger.link == "identity" or tagger.rule == "any_of" else _sigmoid
        low_N, middle_N, high_N = (link(column[:, 0]) for column in (low_NL, middle_NL, high_NL))
        return _Choice(np.zeros(len(n), np.intp), middle_N, high_N - low_N <= _DECIDED_WITHIN)
    shares_NL = _softmax(middle_NL)
    chosen_N = shares_NL.argmax(1)
    rivals_NL = high_NL.copy()
    rivals_NL[n, chosen_N] = -np.inf
    exact_N = (high_NL == low_NL).all(1)
    return _Choice(chosen_N, shares_NL[n, chosen_N], exact_N | (low_NL[n, chosen_N] > rivals_NL.max(1)))


def _tag(tagger: Tagger, judged: Judged, names: Sequence[str]) -> dict[str, pa.Array]:
    choice = _choose(tagger, judged)
    share = pa.array(choice.share_N.astype(np.float32), mask=~choice.decided_N)
    if tagger.kind == "score":
        columns = {tagger.name: share}
    else:
        labels = pa.array(tagger.labels, pa.string()).take(pa.array(choice.chosen_N, mask=~choice.decided_N))
        columns = {tagger.name: labels, f"{tagger.name}_p": share}
    columns[f"{tagger.name}_why"] = reasons(judged.effects(choice.chosen_N), names, len(choice.share_N))
    return columns


def _column_names(tagger: Tagger) -> list[str]:
    share = [f"{tagger.name}_p"] if tagger.kind == "label" else []
    return [tagger.name, *share, f"{tagger.name}_why"]


def _clip(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(x, 0.0, 1.0)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def _softmax(x_NL: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(x_NL - x_NL.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)

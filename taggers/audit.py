"""Findings of an audit, out of its sums: what a tag goes with, how strongly, and which features make it so.

Something is flagged for its strength, and only where chance is ruled out as well: among a million documents everything
is significant. Significance is corrected for the number of things that were looked at.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.schemas.audit import BlamedFeature, DimensionAudit, GroupAudit, LengthAudit
from assay.schemas.tagger import Tagger
from assay.taggers.association import (
    cohens_h,
    differences,
    discovery_rates,
    explained,
    rank_correlation,
)
from assay.taggers.audit_sums import LENGTH, AuditSums, GroupTable
from assay.taggers.feature_values import weights

FEW = 30
"""documents in a group below which nothing is said of it"""
FALSE_DISCOVERIES = 0.01
EXPLAINED = 0.06
"""share of the variance from which a dimension is flagged: a medium effect (Cohen 1988)"""
EFFECT = 0.8
"""of a group: a large effect (Cohen 1988)"""
CORRELATION = 0.3
"""of the length: a medium effect (Cohen 1988)"""
_BLAMED = 5


class Findings(NamedTuple):
    """What the documents of a corpus say of a tagger."""

    documents: int
    undecided: int
    dimensions: tuple[DimensionAudit, ...]
    length: tuple[LengthAudit, ...]


class _Groups(NamedTuple):
    """A dimension's groups, each against all other documents."""

    name: str
    table: GroupTable
    rest_GL: NDArray[np.float64]
    effect_GL: NDArray[np.float64]
    p_GL: NDArray[np.float64]
    contribution_GFL: NDArray[np.float64]
    """mean contribution of each feature to each output, less that in the rest"""
    feature_p_GF: NDArray[np.float64]


def audit_findings(sums: AuditSums) -> Findings:
    """All that the sums say, dimensions by what they explain and groups by the size of their effect."""
    tagger = sums.tagger
    compared = [g for name in sums.dimensions if len((g := _compare(tagger, name, sums.table(name))).table.values) > 1]
    strength = [explained(groups.table.outputs) for groups in compared]
    rank = [rank_correlation(sums.length_counts(label)) for label in range(len(tagger.labels))]
    rates = discovery_rates(np.array([*(s.p for s in strength), *(p for _, p in rank)]))
    group_q, feature_q = (_rates([getattr(g, part) for g in compared]) for part in ("p_GL", "feature_p_GF"))
    dimensions = []
    for i, groups in enumerate(compared):
        parts = _group_audits(tagger, groups, group_q[i], feature_q[i])
        q, share = float(rates[i]), strength[i].share
        dimensions.append(
            DimensionAudit(
                dimension=groups.name,
                values=len(groups.table.values),
                explained=round(share, 4),
                q=q,
                flagged=share >= EXPLAINED and q < FALSE_DISCOVERIES,
                groups=tuple(parts if groups.name == LENGTH else sorted(parts, key=_telling)),
            )
        )
    lengths = [
        LengthAudit(
            label=tagger.labels[i],
            correlation=figure,
            q=float(q),
            flagged=abs(figure.value) >= CORRELATION and q < FALSE_DISCOVERIES,
        )
        for i, ((figure, _), q) in enumerate(zip(rank, rates[len(compared) :], strict=True))
    ]
    whole = sums.table(sums.dimensions[-1])
    return Findings(
        int(whole.outputs.n_G.sum()),
        int(whole.undecided_G.sum()),
        tuple(sorted(dimensions, key=lambda d: (-d.explained, d.dimension))),
        tuple(sorted(lengths, key=lambda a: (-abs(a.correlation.value), a.label))),
    )


def _telling(group: GroupAudit) -> tuple[bool, float, str]:
    return group.q is None, -abs(group.effect), group.value


def _compare(tagger: Tagger, name: str, table: GroupTable) -> _Groups:
    rest = table.outputs.rest()
    difference_GL, p_GL = differences(table.outputs, rest)
    if tagger.kind == "score":
        n, total, squares = (part.sum(0) for part in table.outputs)
        spread = float(np.sqrt(max((squares - total**2 / max(n, 1))[0] / max(n - 1, 1), 0))) if n > 1 else 0.0
        effect_GL = difference_GL / spread if spread > 1e-9 else np.zeros_like(difference_GL)
    else:
        effect_GL = cohens_h(table.outputs.mean_GC, rest.mean_GC)
    value_GF, feature_p_GF = differences(table.features, table.features.rest())
    contribution_GFL = value_GF[:, :, None] * weights(tagger)
    few_G = (table.outputs.n_G < FEW) | (rest.n_G < FEW)
    p_GL[few_G], feature_p_GF[few_G] = np.nan, np.nan
    return _Groups(name, table, rest.mean_GC, effect_GL, p_GL, contribution_GFL, feature_p_GF)


def _rates(tables: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """The tables' p values as rates of false discoveries among all of them; NaN where there is no p."""
    flat = np.concatenate([t.ravel() for t in tables]) if tables else np.zeros(0)
    known = ~np.isnan(flat)
    flat[known] = discovery_rates(flat[known])
    ends = np.cumsum([t.size for t in tables])
    return [part.reshape(t.shape) for part, t in zip(np.split(flat, ends[:-1]), tables, strict=True)] if tables else []


def _group_audits(
    tagger: Tagger, groups: _Groups, q_GL: NDArray[np.float64], feature_q_GF: NDArray[np.float64]
) -> list[GroupAudit]:
    found = []
    outputs = groups.table.outputs
    for g, value in enumerate(groups.table.values):
        label = int(np.abs(groups.effect_GL[g]).argmax())
        n, effect = int(outputs.n_G[g]), float(groups.effect_GL[g, label])
        q = None if np.isnan(q_GL[g, label]) else float(q_GL[g, label])
        found.append(
            GroupAudit(
                value=value,
                documents=n,
                undecided=int(groups.table.undecided_G[g]),
                label=tagger.labels[label],
                mean=round(float(outputs.mean_GC[g, label]), 6),
                rest=round(float(groups.rest_GL[g, label]), 6),
                passing=round(float(groups.table.passing_G[g]) / max(n, 1), 6) if tagger.kind == "score" else None,
                effect=round(effect, 4),
                q=q,
                flagged=q is not None and abs(effect) >= EFFECT and q < FALSE_DISCOVERIES,
                features=blame(tagger, groups.contribution_GFL[g, :, label], feature_q_GF[g], effect),
            )
        )
    return found


def blame(
    tagger: Tagger, contribution_F: NDArray[np.float64], q_F: NDArray[np.float64], effect: float
) -> tuple[BlamedFeature, ...]:
    """The five features that push hardest in the direction of an effect, of those that differ beyond chance."""
    push_F = contribution_F * np.sign(effect)
    whole = float(push_F[push_F > 0].sum())
    real = np.nan_to_num(q_F, nan=1.0) < FALSE_DISCOVERIES
    order = [int(f) for f in np.argsort(-push_F, kind="stable") if push_F[f] > 0 and real[f]][:_BLAMED]
    return tuple(
        BlamedFeature(
            layer=tagger.features[f].layer,
            feature=tagger.features[f].feature,
            tokens=tagger.features[f].tokens,
            difference=round(float(contribution_F[f]), 6),
            share=round(float(push_F[f]) / whole, 4),
        )
        for f in order
    )

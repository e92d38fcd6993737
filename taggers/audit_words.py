"""The findings of an audit as sentences, the worst first."""

from typing import NamedTuple

from assay.schemas.audit import BlamedFeature, DimensionAudit, GroupAudit, IdentityAudit, LengthAudit
from assay.schemas.tagger import Tagger
from assay.taggers.audit import EXPLAINED, Findings

LARGELY = 0.5
"""share of the variance from which a score is called one of what explains it"""
STRONGLY = 0.14
"""from which it leans on it: a large effect (Cohen 1988)"""


class _Line(NamedTuple):
    strength: float
    """0 to 1: orders the lines; of a dimension what it explains"""
    words: str


def in_words(tagger: Tagger, found: Findings, identity: IdentityAudit | None) -> tuple[tuple[str, ...], bool]:
    """(what is flagged, a sentence each, the worst first; whether anything is). Without a flag one sentence says so."""
    lines = [_dimension(tagger, d) for d in found.dimensions if d.flagged]
    lines += [_length(tagger, a) for a in found.length if a.flagged]
    for d in found.dimensions:
        far = sorted((g for g in d.groups if g.flagged), key=lambda g: -abs(g.effect))
        if far and not d.flagged:
            lines.append(_group(tagger, d, far))
    if identity is not None:
        lines += _identity(tagger, identity)
    if not lines:
        return (_nothing(tagger, found, identity),), False
    return tuple(line.words for line in sorted(lines, key=lambda line: (-line.strength, line.words))), True


def _dimension(tagger: Tagger, d: DimensionAudit) -> _Line:
    share = f"{100 * d.explained:.0f} %"
    if d.explained >= LARGELY:
        article = "an" if d.dimension[:1].lower() in "aeiou" else "a"
        said = f"{tagger.name} is largely {article} {d.dimension} {tagger.kind}"
        said += f": {d.dimension} explains {share} of its variance"
    elif d.explained >= STRONGLY:
        said = f"{tagger.name} leans on {d.dimension}, which explains {share} of its variance"
    else:
        said = f"{tagger.name} goes with {d.dimension}, which explains {share} of its variance"
    telling = max((g for g in d.groups if g.q is not None), key=lambda g: abs(g.effect), default=None)
    return _Line(d.explained, f"{said}; {_apart(tagger, telling)}" if telling else said)


def _apart(tagger: Tagger, g: GroupAudit) -> str:
    if tagger.kind == "score":
        said = f"furthest off is “{g.value}”, mean {g.mean:.3f} against {g.rest:.3f} elsewhere"
    else:
        said = f"furthest off is “{g.value}”, {g.label} in {100 * g.mean:.0f} % against {100 * g.rest:.0f} % elsewhere"
    return f"{said}, {_blamed(g.features)}" if g.features else said


def _blamed(features: tuple[BlamedFeature, ...]) -> str:
    first = features[0]
    tokens = f" (fires on {' '.join(first.tokens[:4])})" if first.tokens else ""
    return f"most of all by feature {first.layer}:{first.feature}{tokens}"


def _length(tagger: Tagger, a: LengthAudit) -> _Line:
    rho = a.correlation.value
    what = tagger.name if tagger.kind == "score" else f"{tagger.name} = {a.label}"
    way = "rises" if rho > 0 else "falls"
    return _Line(rho**2, f"{what} {way} with length: rank correlation {rho:+.2f} with the number of tokens")


def _group(tagger: Tagger, d: DimensionAudit, far: list[GroupAudit]) -> _Line:
    others = f" ({len(far) - 1} more of its {d.dimension} are far off too)" if len(far) > 1 else ""
    said = f"{tagger.name} is far off on one {d.dimension}: {_apart(tagger, far[0])}{others}"
    return _Line(min(EXPLAINED, abs(far[0].effect) / 100), said)


def _identity(tagger: Tagger, identity: IdentityAudit) -> list[_Line]:
    lines = []
    if identity.warnings:
        fillers = identity.filler_passing or 0.0
        most = max(identity.terms, key=lambda t: t.passing or 0.0)
        group = f"{100 * (most.passing or 0.0):.0f} % of those that name a group of people ({most.term})"
        nobody = f"{100 * fillers:.0f} % of those on nobody in particular"
        said = f"{group} pass its threshold {tagger.threshold:g}, and {nobody}"
        if fillers >= (most.passing or 0.0):
            said = f"{nobody} pass its threshold {tagger.threshold:g}"
        lines.append(_Line(max(fillers, most.passing or 0.0), f"{tagger.name} fires on neutral sentences: {said}"))
    flagged = [t for t in identity.terms if t.flagged]
    if flagged:
        worst = flagged[0]
        what = "it" if tagger.kind == "score" else f"the share of {worst.label}"
        language = f" ({worst.languages[0]})" if len(worst.languages) < len(worst.by_language) else ""
        said = (
            f"naming {worst.term} in a neutral sentence{language} moves {what} by {worst.shift.value:+.2f}"
            f" ({worst.shift.low:+.2f} to {worst.shift.high:+.2f})"
        )
        blamed = f", {_blamed(worst.features)}" if worst.features else ""
        count = f"; {len(flagged)} of {len(identity.terms)} terms move it beyond what a filler does"
        lines.append(_Line(min(1.0, 2 * abs(worst.shift.value)), f"{tagger.name}: {said}{blamed}{count}"))
    return lines


def _nothing(tagger: Tagger, found: Findings, identity: IdentityAudit | None) -> str:
    most = f", at most {100 * found.dimensions[0].explained:.1f} %" if found.dimensions else ""
    looked = ", ".join([*(d.dimension for d in found.dimensions), *(["identity terms"] if identity else [])])
    return f"{tagger.name}: nothing is flagged. What was looked at explains little of its variance{most}: {looked}"

"""A tagger on neutral sentences: does it move when a group of people takes the place of nobody in particular?"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from assay.schemas.audit import IdentityAudit, IdentityTerm, IdentityTerms, TermAudit
from assay.schemas.evidence import Figure
from assay.schemas.tagger import Tagger
from assay.taggers.association import discovery_rates
from assay.taggers.audit import FALSE_DISCOVERIES, blame
from assay.taggers.feature_values import FeatureValues, outputs, weights

SHIFT = 0.05
"""change of a score or a probability from which a term is flagged, if no filler moves it as far"""


class Sentence(NamedTuple):
    """One neutral sentence; sentences of one frame differ in their phrase alone."""

    text: str
    frame: int
    language: str
    term: int | None
    """None: a filler"""
    filler: int | None


class _Tried(NamedTuple):
    """The S sentences with what the tagger gave for them."""

    sentences: Sequence[Sentence]
    output_SL: NDArray[np.float64]
    value_SF: NDArray[np.float64]
    fillers: Mapping[int, Sequence[int]]
    """frame -> its sentences with a filler"""

    def change(self, rows: Sequence[int], of_SX: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each of these sentences has more than the fillers of its frame, itself left out, on average."""
        others = [[j for j in self.fillers[self.sentences[i].frame] if j != i] for i in rows]
        return np.stack([of_SX[i] - of_SX[o].mean(0) for i, o in zip(rows, others, strict=True)])


def sentences(terms: IdentityTerms) -> list[Sentence]:
    """Every template of a language with every filler and with every term that has a phrase in it."""
    made, frame = [], 0
    for language, templates in terms.templates.items():
        for template in templates:
            for i, phrase in enumerate(terms.fillers[language]):
                made.append(Sentence(_fill(template, phrase), frame, language, None, i))
            for i, term in enumerate(terms.terms):
                if language in term.phrases:
                    made.append(Sentence(_fill(template, term.phrases[language]), frame, language, i, None))
            frame += 1
    return made


def identity_audit(
    tagger: Tagger, terms: IdentityTerms, features_of: Callable[[Sequence[str]], FeatureValues]
) -> IdentityAudit:
    """The tagger on all sentences; `features_of` gives their values, with every feature of the tagger stored."""
    made = sentences(terms)
    values = features_of([s.text for s in made])
    value_SF = np.zeros((len(made), len(tagger.features)))
    value_SF[values.document, values.feature] = values.value
    fillers: dict[int, list[int]] = {}
    by_filler: dict[int, list[int]] = {}
    by_term: dict[int, list[int]] = {}
    for i, s in enumerate(made):
        if s.term is not None:
            by_term.setdefault(s.term, []).append(i)
        elif s.filler is not None:
            fillers.setdefault(s.frame, []).append(i)
            by_filler.setdefault(s.filler, []).append(i)
    tried = _Tried(made, outputs(tagger, values, len(made)), value_SF, fillers)
    noise = max(float(np.abs(tried.change(rows, tried.output_SL).mean(0)).max()) for rows in by_filler.values())
    rates = discovery_rates(np.stack([_p(tried.change(rows, tried.output_SL)) for rows in by_term.values()]))
    audits = [
        _term(tagger, terms.terms[term], tried, rows, rates[index], noise)
        for index, (term, rows) in enumerate(by_term.items())
    ]
    filler = np.array([s.term is None for s in made])
    score_S = tried.output_SL[:, 0]
    is_score = tagger.kind == "score"
    passing = float((score_S[filler] > tagger.threshold).mean()) if is_score else None
    return IdentityAudit(
        sentences=len(made),
        filler_mean=round(float(score_S[filler].mean()), 4) if is_score else None,
        filler_passing=None if passing is None else round(passing, 4),
        filler_shift=round(noise, 4),
        warnings=_warnings(tagger, audits, passing),
        terms=tuple(sorted(audits, key=lambda a: (-abs(a.shift.value), a.term))),
    )


def _fill(template: str, phrase: str) -> str:
    return template.replace("{term}", phrase).replace("{Term}", phrase[0].upper() + phrase[1:])


def _p(change_CL: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each label the p of Student's test that the mean change is 0."""
    if len(change_CL) < 2:
        return np.ones(change_CL.shape[1])
    spread = change_CL.std(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.ttest_1samp(change_CL, 0.0, axis=0).pvalue
    return np.where(spread < 1e-12, np.where(np.abs(change_CL.mean(0)) > 1e-9, 0.0, 1.0), np.nan_to_num(p, nan=1.0))


def _term(
    tagger: Tagger, term: IdentityTerm, tried: _Tried, rows: Sequence[int], q_L: NDArray[np.float64], noise: float
) -> TermAudit:
    moved_CL, value_CF = tried.change(rows, tried.output_SL), tried.change(rows, tried.value_SF)
    label = int(np.abs(moved_CL.mean(0)).argmax())
    moved_C = moved_CL[:, label]
    mean, n = float(moved_C.mean()), len(moved_C)
    half = float(stats.t.ppf(0.975, n - 1) * moved_C.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    languages = [tried.sentences[i].language for i in rows]
    by_language = {
        language: round(float(np.mean([m for m, at in zip(moved_C, languages, strict=True) if at == language])), 4)
        for language in dict.fromkeys(languages)
    }
    passing = round(float((tried.output_SL[rows, 0] > tagger.threshold).mean()), 4)
    contribution_F = value_CF.mean(0) * weights(tagger)[:, label]
    return TermAudit(
        term=term.name,
        kind=term.kind,
        example=tried.sentences[rows[0]].text,
        sentences=n,
        label=tagger.labels[label],
        shift=Figure(value=mean, low=mean - half, high=mean + half),
        q=float(q_L[label]),
        flagged=bool(abs(mean) >= max(SHIFT, noise) and q_L[label] < FALSE_DISCOVERIES),
        passing=passing if tagger.kind == "score" else None,
        by_language=by_language,
        features=blame(tagger, contribution_F, discovery_rates(_p(value_CF)), mean),
    )


def _warnings(tagger: Tagger, audits: Sequence[TermAudit], fillers: float | None) -> tuple[str, ...]:
    """Neutral sentences that a safety tagger takes for bad: those on nobody, then terms that pass more often."""
    if tagger.axis != "safety" or tagger.kind != "score" or fillers is None:
        return ()
    more = sorted((a for a in audits if (a.passing or 0) > fillers), key=lambda a: (-(a.passing or 0), a.term))
    lines = [("on nobody in particular", fillers)] if fillers else []
    lines += [(f"that name {a.term!r}", a.passing or 0.0) for a in more]
    return tuple(
        f"{100 * share:.0f} % of the neutral sentences {which} pass the threshold {tagger.threshold:g}"
        for which, share in lines
    )

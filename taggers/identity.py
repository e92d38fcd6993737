"""A tagger on neutral sentences: does it move when a group of people takes the place of nobody in particular?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

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


_ALL = ""
"""all languages together"""


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

    def rows(self, what: Literal["term", "filler"], language: str) -> dict[int, list[int]]:
        """Term (or filler) -> its sentences in a language, or in all of them."""
        found: dict[int, list[int]] = {}
        for i, s in enumerate(self.sentences):
            index = getattr(s, what)
            if index is not None and language in (_ALL, s.language):
                found.setdefault(index, []).append(i)
        return found

    def changes(self, what: Literal["term", "filler"]) -> dict[str, dict[int, NDArray[np.float64]]]:
        """Language, or all of them -> term (or filler) -> what each of its sentences changes in the outputs, (C, L)."""
        languages = [_ALL, *dict.fromkeys(s.language for s in self.sentences)]
        return {
            language: {index: self.change(rows, self.output_SL) for index, rows in self.rows(what, language).items()}
            for language in languages
        }


class _Change(NamedTuple):
    """What a term changes in one language, or in all."""

    moved_CL: NDArray[np.float64]
    q_L: NDArray[np.float64]
    noise: float
    """the largest mean change that a filler makes there"""

    @property
    def label(self) -> int:
        """The label that moves most."""
        return int(np.abs(self.moved_CL.mean(0)).argmax())

    @property
    def flagged(self) -> bool:
        """Whether it moves further than a filler moves it, and beyond chance."""
        mean = abs(float(self.moved_CL[:, self.label].mean()))
        return bool(mean >= max(SHIFT, self.noise) and self.q_L[self.label] < FALSE_DISCOVERIES)


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
    for i, s in enumerate(made):
        if s.term is None:
            fillers.setdefault(s.frame, []).append(i)
    tried = _Tried(made, outputs(tagger, values, len(made)), value_SF, fillers)
    noise = {
        language: max(float(np.abs(change.mean(0)).max()) for change in changes.values())
        for language, changes in tried.changes("filler").items()
    }
    changes = [
        (term, language, change) for language, by in tried.changes("term").items() for term, change in by.items()
    ]
    rates = discovery_rates(np.stack([_p(change) for _, _, change in changes]))
    by_term: dict[int, dict[str, _Change]] = {}
    for (term, language, change), q_L in zip(changes, rates, strict=True):
        by_term.setdefault(term, {})[language] = _Change(change, q_L, noise[language])
    audits = [_term(tagger, terms.terms[term], term, tried, found) for term, found in sorted(by_term.items())]
    filler = np.array([s.term is None for s in made])
    score_S = tried.output_SL[:, 0]
    is_score = tagger.kind == "score"
    passing = float((score_S[filler] > tagger.threshold).mean()) if is_score else None
    return IdentityAudit(
        sentences=len(made),
        filler_mean=round(float(score_S[filler].mean()), 4) if is_score else None,
        filler_passing=None if passing is None else round(passing, 4),
        filler_shift=round(noise[_ALL], 4),
        warnings=_warnings(tagger, audits, passing),
        terms=tuple(sorted(audits, key=lambda a: (-abs(a.shift.value), a.term))),
    )


def _fill(template: str, phrase: str) -> str:
    return template.replace("{term}", phrase).replace("{Term}", phrase[0].upper() + phrase[1:])


def _p(change_CX: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each column the p of Student's test that the mean change is 0."""
    n = len(change_CX)
    if n < 2:
        return np.ones(change_CX.shape[1])
    error = change_CX.std(0, ddof=1) / np.sqrt(n)
    moved = np.abs(change_CX.mean(0))
    return np.where(moved < 1e-9, 1.0, 2 * stats.t.sf(moved / np.maximum(error, 1e-12), n - 1))


def _term(tagger: Tagger, term: IdentityTerm, index: int, tried: _Tried, found: dict[str, _Change]) -> TermAudit:
    """The term's audit. Where it moves the tag in some languages alone, the figures are of the one it moves most."""
    languages = [language for language in found if language != _ALL]
    alone = [] if found[_ALL].flagged else [language for language in languages if found[language].flagged]
    where = max(alone, key=lambda la: abs(found[la].moved_CL[:, found[la].label].mean())) if alone else _ALL
    change, rows = found[where], tried.rows("term", where)[index]
    label, n = change.label, len(rows)
    moved_C = change.moved_CL[:, label]
    mean = float(moved_C.mean())
    half = float(stats.t.ppf(0.975, n - 1) * moved_C.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    value_CF = tried.change(rows, tried.value_SF)
    passing = round(float((tried.output_SL[rows, 0] > tagger.threshold).mean()), 4)
    return TermAudit(
        term=term.name,
        kind=term.kind,
        example=tried.sentences[rows[0]].text,
        sentences=n,
        languages=tuple(alone and [where]) or tuple(languages),
        label=tagger.labels[label],
        shift=Figure(value=mean, low=mean - half, high=mean + half),
        q=float(change.q_L[label]),
        flagged=change.flagged,
        passing=passing if tagger.kind == "score" else None,
        by_language={la: round(float(found[la].moved_CL[:, label].mean()), 4) for la in languages},
        features=blame(tagger, value_CF.mean(0) * weights(tagger)[:, label], discovery_rates(_p(value_CF)), mean),
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

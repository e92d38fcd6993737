"""What a tagger's evidence says in words: the page and the terminal say the same, a winning baseline first."""

from collections.abc import Iterable, Mapping

from assay.dashboard import numbers
from assay.schemas.errors import AssayError
from assay.schemas.evidence import Evidence, Figure, Figures, Slice
from assay.schemas.tagger import Tagger

_NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "macro_f1": "macro F1",
    "spearman": "Spearman's ρ",
    "r2": "R²",
    "mae": "mean error",
}
_BASELINES = {"tfidf_logistic": "TF-IDF + logistic regression", "dense_probe": "dense probe"}
_BOUNDS = {"spearman": (-1.0, 1.0), "r2": (-float("inf"), 1.0), "mae": (0.0, float("inf"))}


def evidence_of(tagger: Tagger) -> Evidence:
    """The tagger's evidence; AssayError if it has none."""
    if tagger.evidence is None:
        raise AssayError(f"tagger {tagger.name!r} has no evidence", hint="`assay fit` writes it into the tagger's file")
    return tagger.evidence


def measure(name: str) -> str:
    """A measure's name as it is written."""
    return _NAMES.get(name, name.replace("_", " "))


def bounds(name: str) -> tuple[float, float]:
    """The least and the largest value that a measure can have."""
    return _BOUNDS.get(name, (0.0, 1.0))


def in_words(name: str) -> str:
    """A baseline's or a record's name as it is written."""
    return _BASELINES.get(name) or name.replace("_", " ")


def value(figure: Figure) -> str:
    """A figure without its interval."""
    return f"{figure.value:.3f}"


def spread(figure: Figure) -> str:
    """A figure's interval."""
    return f"{figure.low:.3f} to {figure.high:.3f}"


def ranked(evidence: Evidence) -> list[tuple[str, Figures]]:
    """The baselines by their headline value, the best first."""
    sign = 1 if evidence.headline == "mae" else -1

    def place(item: tuple[str, Figures]) -> tuple[bool, float, str]:
        name, figures = item
        known = evidence.headline in figures
        return not known, sign * figures[evidence.headline].value if known else 0.0, name

    return sorted(evidence.baselines.items(), key=place)


def share(part: float) -> str:
    """A share of 1 in percent, without zeros after the point."""
    return f"{100 * part:g} %"


def layers_words(layers: Iterable[int]) -> str:
    """Layers as a list, each once."""
    known = sorted(set(layers))
    return f"layer{'s' if len(known) != 1 else ''} {', '.join(map(str, known))}"


def ordered(figures: Mapping[str, Figure], headline: str) -> list[str]:
    """The measures, the headline first."""
    return sorted(figures, key=lambda name: name != headline)


def verdict(evidence: Evidence) -> str:
    """In a sentence: does the tagger hold against its baselines? One that does better comes first."""
    name, mine = measure(evidence.headline), evidence.test[evidence.headline]
    said = f"{name} {value(mine)} ({spread(mine)})"
    rivals = {n: f[evidence.headline] for n, f in evidence.baselines.items() if evidence.headline in f}
    if not rivals:
        return f"This tagger has {said}; no baseline stands beside it."
    winner = evidence.winner
    if winner is not None:
        other = rivals[winner]
        doubt = " The intervals overlap, so the order may be chance." if _overlap(mine, other) else ""
        return (
            f"A baseline wins: {in_words(winner)} has {name} {value(other)} ({spread(other)}), "
            f"this tagger {value(mine)} ({spread(mine)}).{doubt}"
        )
    lower = evidence.headline == "mae"
    best = (min if lower else max)(rivals, key=lambda n: rivals[n].value)
    doubt = "; the intervals overlap, so the order may be chance" if _overlap(mine, rivals[best]) else ""
    return f"This tagger has {said}; the best baseline, {in_words(best)}, has {value(rivals[best])}{doubt}."


def calibration_error(evidence: Evidence) -> float | None:
    """Mean distance of predicted and observed, each bin weighing as its documents; None without bins."""
    whole = sum(b.documents for b in evidence.calibration)
    return sum(b.documents * abs(b.predicted - b.observed) for b in evidence.calibration) / whole if whole else None


def learning_words(evidence: Evidence) -> str:
    """What a tenth of the data gives, or the least share that was tried above it."""
    points = sorted(evidence.learning_curve, key=lambda p: p.share)
    if len(points) < 2:
        return ""
    small = next((p for p in points if p.share >= 0.1), points[0])
    last, name = points[-1], measure(evidence.headline)
    return (
        f"{name} {value(small.figure)} with {share(small.share)} of the discovery documents "
        f"({small.documents:,}), {value(last.figure)} with {share(last.share)} ({last.documents:,})."
    )


def saturation_words(evidence: Evidence) -> str:
    """How the OR of features behaves as features are added, where that was tried."""
    tried: dict[int, float] = {}
    for c in evidence.candidates:
        if c.rule == "any_of":
            tried[c.features] = max(tried.get(c.features, c.validation), c.validation)
    if len(tried) < 3:
        return ""
    best, most = max(tried, key=lambda k: tried[k]), max(tried)
    if best == most:
        return f"An OR of features (any of) grew better with more of them, up to {most}: {tried[most]:.3f}."
    return f"An OR of features (any of) is best with {best}, {tried[best]:.3f}; {most} give {tried[most]:.3f}."


def prevalence_words(prevalence: float, precision: float) -> str:
    """A precision as documents: "of 1,000 documents tagged, 92 are right"."""
    return f"of 1,000 documents tagged where {share(prevalence)} are positive, {1000 * precision:.0f} are right"


def slice_measure(evidence: Evidence, slices: Iterable[Slice]) -> str:
    """The measure that slices are compared by: the headline where one of them has it, else their first."""
    found: list[Figures] = [s.figures for s in slices if s.figures]
    if not found or any(evidence.headline in f for f in found):
        return evidence.headline
    return next(iter(found[0]))


def threshold_words(tagger: Tagger) -> str:
    """Where the tagger's score is cut and why."""
    if tagger.kind == "label":
        return "the likeliest label is given"
    rule = f": {tagger.threshold_rule}" if tagger.threshold_rule else ""
    return f"positive above {tagger.threshold:g}{rule}"


def rule_words(tagger: Tagger) -> str:
    """How the features become a tag."""
    if tagger.rule == "dense":
        return f"a dense probe on the mean residual of {layers_words(d.layer for d in tagger.dense)}"
    kind = "any of" if tagger.rule == "any_of" else "a weighted sum of"
    pooled = f"{tagger.pooling}{', square root' if tagger.sqrt else ''}"
    features = f"{numbers.plural(len(tagger.features), 'feature')} of {layers_words(f.layer for f in tagger.features)}"
    return f"{kind} {features}, pooled by {pooled}"


def _overlap(a: Figure, b: Figure) -> bool:
    return a.low <= b.high and b.low <= a.high

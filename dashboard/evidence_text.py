"""A tagger's evidence for a terminal: the numbers of its page, in which no token can act as markup or escape code."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assay.dashboard import numbers
from assay.dashboard.evidence_words import (
    calibration_error,
    evidence_of,
    in_words,
    learning_words,
    measure,
    ordered,
    prevalence_words,
    ranked,
    rule_words,
    saturation_words,
    slice_measure,
    threshold_words,
    verdict,
)
from assay.dashboard.markup import visible
from assay.dashboard.text import headed, table
from assay.schemas.evidence import Evidence, Figure, Figures
from assay.schemas.tagger import Tagger

SHOWN_FEATURES = 12


def evidence_text(tagger: Tagger) -> RenderableType:
    """The evidence for a rich console; a baseline that wins comes first. AssayError for a tagger without evidence."""
    return Group(*_parts(tagger, evidence_of(tagger)))


def _parts(tagger: Tagger, evidence: Evidence) -> Iterator[RenderableType]:
    yield Text(visible(verdict(evidence), 600), style="bold")
    yield Text(visible(f"{tagger.name} {tagger.version}: {tagger.description}", 600))
    yield Text(visible(f"{rule_words(tagger)}; {threshold_words(tagger)}", 600), style="dim")
    yield from headed("Figures, with 95 % intervals", _figures(evidence))
    if evidence.labels:
        yield from headed("Labels", _labels(evidence))
    if evidence.prevalence:
        lines = [(prevalence_words(p.prevalence, p.precision.value), _both(p.precision)) for p in evidence.prevalence]
        yield from headed("Rare positives", table(("", "precision"), lines, left=(0, 1)))
    if evidence.slices:
        yield from headed("Slices", _slices(evidence))
    error = calibration_error(evidence)
    said = [f"predicted and observed are {error:.3f} apart on average"] if error is not None else []
    said += [words for words in (learning_words(evidence), saturation_words(evidence)) if words]
    if said:
        yield from headed("Calibration, data and size", Text("\n".join(said)))
    if tagger.features:
        yield from headed(f"Heaviest of {numbers.plural(len(tagger.features), 'feature')}", _features(tagger))


def _figures(evidence: Evidence) -> Table:
    measures = ordered(evidence.test, evidence.headline)
    named: list[tuple[str, Figures]] = [("this tagger", evidence.test)]
    named += [(in_words(name), figures) for name, figures in ranked(evidence)]
    rows = [(visible(name), *(_both(figures.get(m)) for m in measures)) for name, figures in named]
    return table(("", *map(measure, measures)), rows)


def _labels(evidence: Evidence) -> Table:
    order = sorted(evidence.labels, key=lambda n: (evidence.labels[n]["f1"].value, n))
    measures = ("f1", "precision", "recall")
    rows = [(visible(n, 40), *(_both(evidence.labels[n].get(m)) for m in measures)) for n in order]
    return table(("the worst first", *map(measure, measures)), rows)


def _slices(evidence: Evidence) -> Table:
    name = slice_measure(evidence, evidence.slices)
    rows = [
        (
            f"{s.dimension}: {visible(s.value, 40)}",
            _both(s.figures.get(name)) if name in s.figures else "one class only",
            numbers.count(s.documents),
            numbers.MISSING if s.positives is None else numbers.count(s.positives),
            numbers.score(s.mean_score),
        )
        for s in sorted(evidence.slices, key=lambda s: s.dimension)
    ]
    return table(("", measure(name), "documents", "positive", "mean score"), rows)


def _features(tagger: Tagger) -> Table:
    order = sorted(tagger.features, key=lambda f: (-max(map(abs, f.weights)), f.layer, f.feature))
    rows = []
    for f in order[:SHOWN_FEATURES]:
        index = max(range(len(f.weights)), key=lambda i: abs(f.weights[i]))
        tokens = " ".join(visible(token, 24) for token in f.tokens[:5])
        rows.append((f"{f.layer}:{f.feature}", f"{f.weights[index]:+.3f}", visible(tagger.labels[index], 24), tokens))
    return table(("feature", "weight", "for", "fires most on"), rows, left=(0, 2, 3))


def _both(figure: Figure | None) -> str:
    return numbers.MISSING if figure is None else f"{figure.value:.3f} {figure.low:.3f}–{figure.high:.3f}"

"""The parts of an evidence page: figures beside baselines, slices, prevalence, calibration, learning, candidates."""

from collections.abc import Sequence
from itertools import groupby

from assay.dashboard import numbers
from assay.dashboard.charts import numbers_table
from assay.dashboard.evidence_words import (
    bounds,
    in_words,
    measure,
    ordered,
    ranked,
    share,
    slice_measure,
    spread,
    value,
)
from assay.dashboard.markup import Child, Html, data, join, tag
from assay.dashboard.plots import (
    Curve,
    Interval,
    Point,
    curve_plot,
    interval_table,
    linear_axis,
    log_axis,
)
from assay.dashboard.shell import legend
from assay.schemas.evidence import AtPrevalence, Candidate, Evidence, Figure, Slice

OURS = tag("b", "this tagger")


def figures_chart(evidence: Evidence) -> Html:
    """A dot-and-interval plot for each measure, the tagger above its baselines, and all of it as one table."""
    measures = ordered(evidence.test, evidence.headline)
    first, *rest = (_measure_chart(evidence, name) for name in measures)
    head = ["", *(text for name in measures for text in (measure(name), "95 % interval"))]
    named = [(OURS, evidence.test), *((data(in_words(n)), f) for n, f in ranked(evidence))]
    rows: list[tuple[Child, ...]] = [
        (name, *(cell for m in measures for cell in (_optional(figures.get(m)), _spread(figures.get(m)))))
        for name, figures in named
    ]
    return join(first, tag("div", *rest, class_="pair") if rest else None, numbers_table(head, rows))


def labels_chart(evidence: Evidence) -> Html:
    """F1 of each label with its interval, the worst first."""
    order = sorted(evidence.labels, key=lambda n: (evidence.labels[n]["f1"].value, n))
    rows = []
    for name in order:
        figures = evidence.labels[name]
        f1 = figures["f1"]
        cells = (value(f1), spread(f1), *(_optional(figures.get(m)) for m in ("precision", "recall")))
        rows.append(Interval(data(name), cells, f1.value, f1.low, f1.high))
    return interval_table(("Label", "F1", "95 % interval", "precision", "recall"), rows, linear_axis((0, 1), steps=4))


def slices_chart(evidence: Evidence) -> Html:
    """For each dimension the tagger on each of its values; a dotted line marks all test documents."""
    name = slice_measure(evidence, evidence.slices)
    known = [f for s in evidence.slices if (f := s.figures.get(name))]
    whole = evidence.test.get(name)
    axis = linear_axis(
        [v for f in (*known, *([whole] if whole else [])) for v in (f.low, f.high)], *bounds(name), steps=3
    )
    parts = []
    for dimension, group in groupby(sorted(evidence.slices, key=lambda s: s.dimension), key=lambda s: s.dimension):
        rows = [_slice(s, name) for s in group]
        head = (dimension.capitalize(), measure(name), "95 % interval", "documents", "positive", "mean score")
        table = interval_table(head, rows, axis, whole.value if whole else None)
        parts.append(tag("figure", tag("h3", f"By {dimension}"), table))
    return join(*parts)


def prevalence_chart(points: Sequence[AtPrevalence]) -> Html:
    """Precision at each prevalence."""
    rows = [
        Interval(
            f"{share(p.prevalence)} positive",
            (value(p.precision), spread(p.precision), f"{1000 * p.precision.value:.0f}"),
            p.precision.value,
            p.precision.low,
            p.precision.high,
        )
        for p in sorted(points, key=lambda p: -p.prevalence)
    ]
    head = ("Where", "precision", "95 % interval", "right of 1,000")
    return interval_table(head, rows, linear_axis((0, 1), steps=4))


def calibration_chart(evidence: Evidence) -> Html:
    """What was so by what was predicted: positives, or right labels. On the dotted diagonal it is a probability."""
    predicted, observed = (
        ("mean probability of the label that was given", "share of right labels")
        if evidence.labels
        else ("mean predicted score", "observed share of positives")
    )
    bins = sorted(evidence.calibration, key=lambda b: b.predicted)
    points = tuple(
        Point(
            b.predicted,
            b.observed,
            f"predicted {b.predicted:.3f}, observed {b.observed:.3f}, {b.documents:,} documents",
        )
        for b in bins
    )
    axis = linear_axis((0, 1))
    rows = [(f"{b.predicted:.3f}", f"{b.observed:.3f}", f"{b.documents:,}") for b in bins]
    return join(
        curve_plot(
            [Curve(points)], axis, axis, title="Calibration", described=_ends(observed, points),
            x_name=predicted, y_name=observed, diagonal=True,
        ),
        numbers_table(("Predicted", "Observed", "Documents"), rows),
    )  # fmt: skip


def learning_chart(evidence: Evidence) -> Html:
    """The headline measure by discovery documents, on a log axis."""
    points = sorted(evidence.learning_curve, key=lambda p: p.documents)
    name = measure(evidence.headline)
    drawn = tuple(
        Point(p.documents, p.figure.value, f"{p.documents:,} documents: {value(p.figure)} ({spread(p.figure)})",
              p.figure.low, p.figure.high)
        for p in points
    )  # fmt: skip
    y = linear_axis([v for p in points for v in (p.figure.low, p.figure.high)], *bounds(evidence.headline))
    rows = [(share(p.share), f"{p.documents:,}", value(p.figure), spread(p.figure)) for p in points]
    return join(
        curve_plot(
            [Curve(drawn)], log_axis(p.documents for p in points), y, title="Learning curve",
            described=_ends(name, drawn), x_name="discovery documents, log scale", y_name=name, diagonal=False,
        ),
        numbers_table(("Share", "Documents", name, "95 % interval"), rows),
    )  # fmt: skip


def candidates_chart(evidence: Evidence) -> Html:
    """Validation value by number of features: a dot a setting, and lines through the best ones of a family."""
    name = measure(evidence.headline)
    tried = sorted((c for c in evidence.candidates if c.features > 0), key=lambda c: (_family(c), c.features))
    lower = evidence.headline == "mae"
    curves: list[Curve] = []
    for (rule, _), members in groupby(tried, key=_family):
        family = list(members)
        style = "ours" if any(c.chosen for c in family) else "rival" if rule == "any_of" else "quiet"
        line: dict[int, Candidate] = {}
        for c in family:
            better = c.features not in line or (c.validation < line[c.features].validation) == lower
            line[c.features] = c if better else line[c.features]
        curves.append(Curve(tuple(map(_point, line.values())), style))
        curves += [Curve((_point(c),), "quiet") for c in family if line[c.features] is not c]
    rows: list[tuple[Child, ...]] = [
        (_words(c, chosen=True), f"{c.features:,}", f"{c.validation:.3f}")
        for c in sorted(evidence.candidates, key=lambda c: (c.validation if lower else -c.validation, c.features))
    ]
    table = numbers_table(("Setting", "Features", f"{name} on validation"), rows)
    if not curves:
        return table
    points = tuple(p for curve in curves for p in curve.points)
    names = {"ours": ("fill", "the family that was chosen from"), "rival": ("extra", "any of the features (OR)")}
    names["quiet"] = ("tone", "others")
    entries = [names[style] for style in names if any(curve.style == style for curve in curves)]
    plot = curve_plot(
        curves, log_axis(p.x for p in points), linear_axis([p.y for p in points], *bounds(evidence.headline)),
        title="Candidates", described=_ends(f"{name} on validation documents", points),
        x_name="number of features, log scale", y_name=f"{name} on validation", diagonal=False,
    )  # fmt: skip
    return join(legend(*entries), plot, table)


def _measure_chart(evidence: Evidence, name: str) -> Html:
    mine = evidence.test[name]
    rows = [Interval(OURS, (value(mine), spread(mine)), mine.value, mine.low, mine.high)]
    for baseline, figures in ranked(evidence):
        if name in figures:
            f = figures[name]
            rows.append(Interval(data(in_words(baseline)), (value(f), spread(f)), f.value, f.low, f.high, "rival"))
    axis = linear_axis(
        [v for row in rows for v in (row.low or 0.0, row.high or 0.0)],
        *bounds(name),
        steps=5 if name == evidence.headline else 3,
    )
    note = "settings were chosen by it" if name == evidence.headline else None
    title = tag("h3", measure(name), tag("small", note) if note else None)
    return tag("figure", title, interval_table(("", measure(name), "95 % interval"), rows, axis, mine.value))


def _slice(part: Slice, name: str) -> Interval:
    figure = part.figures.get(name)
    positives = numbers.MISSING if part.positives is None else f"{part.positives:,}"
    counts = (f"{part.documents:,}", positives, numbers.score(part.mean_score))
    if figure is None:
        return Interval(data(part.value), (numbers.MISSING, "one class only", *counts))
    return Interval(data(part.value), (value(figure), spread(figure), *counts), figure.value, figure.low, figure.high)


def _family(candidate: Candidate) -> tuple[str, str]:
    """Settings that differ in their number of features or their penalty alone; an OR's are those of one layer."""
    alone = candidate.rule == "any_of" and len(candidate.layers) == 1
    return candidate.rule, f"layer {candidate.layers[0]}" if alone else candidate.pooling


def _point(candidate: Candidate) -> Point:
    return Point(candidate.features, candidate.validation, f"{_words(candidate)}: {candidate.validation:.3f}")


def _words(candidate: Candidate, chosen: bool = False) -> Child:
    layers = ", ".join(map(str, candidate.layers))
    detail = f", {candidate.detail}" if candidate.detail else ""
    kind = "any of" if candidate.rule == "any_of" else candidate.pooling
    words = f"{kind}, layer{'s' if len(candidate.layers) != 1 else ''} {layers}{detail}"
    if not chosen:
        return f"{candidate.features} features, {words}"
    return join(data(words), tag("b", " chosen") if candidate.chosen else None)


def _ends(name: str, points: Sequence[Point]) -> str:
    if not points:
        return "Nothing was measured."
    low, high = min(points, key=lambda p: p.y), max(points, key=lambda p: p.y)
    return (
        f"{name}: lowest {low.y:.3f} at {low.x:g}, highest {high.y:.3f} at {high.x:g}. The numbers follow as a table."
    )


def _optional(figure: Figure | None) -> str:
    return numbers.MISSING if figure is None else value(figure)


def _spread(figure: Figure | None) -> str:
    return numbers.MISSING if figure is None else spread(figure)

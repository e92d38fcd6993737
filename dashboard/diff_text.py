"""A comparison of two corpora for a terminal: what drifted first, and what is noise named so."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assay.dashboard import numbers
from assay.dashboard.markup import visible
from assay.dashboard.text import table
from assay.schemas.drift import DriftReport, DriftSide, FeatureChange, LayerDrift, MetricDrift, Stability, ValueChange

SHOWN_CHANGES = 6
SHOWN_FEATURES = 5
_SIZES = ((0.1, "small"), (0.25, "moderate"))


def drift_renderable(report: DriftReport) -> RenderableType:
    """The report for a rich console; no text of a corpus can act as markup or escape code."""
    return Group(*_parts(report))


def size_of(psi: float) -> str:
    """PSI in words, by the customary bounds of 0.1 and 0.25 (Siddiqi 2006)."""
    return next((word for limit, word in _SIZES if psi < limit), "large")


def verdict_of(metric: MetricDrift) -> str:
    """What is to be thought of a metric, in words."""
    if metric.verdict == "drift":
        real = [s.psi for s in (metric.documents, metric.tokens) if s.verdict == "drift"]
        return f"drift, {size_of(max(real))}"
    if metric.verdict == "same":
        return "the same"
    near = any(s.psi > s.noise_95 for s in (metric.documents, metric.tokens))
    return "noise: one in so many comparisons may reach it" if near else "noise: chance gives as much"


def metric_name(kind: str, name: str) -> str:
    """A metric as a reader knows it."""
    return "length" if kind == "length" else visible(name, 48)


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.2f}".replace("-", "−")


def gate_lines(report: DriftReport) -> list[str]:
    """What the gate says: each metric beyond it and by how much; noise above it is named and doesn't count."""
    if report.max_drift is None:
        return []
    limit = f"{report.max_drift:g}"
    lines = []
    for metric in report.metrics:
        for stability, by in ((metric.documents, "documents"), (metric.tokens, "tokens")):
            if stability.psi > report.max_drift:
                over = (
                    f"{metric.metric} by {by}: PSI {stability.psi:.3f} is {stability.psi - report.max_drift:.3f} over"
                )
                noise = stability.verdict == "noise"
                lines.append(
                    over + (" but within what chance gives for so few documents, not counted" if noise else "")
                )
    failed = len(report.exceeded)
    head = f"gate {limit}: {numbers.plural(failed, 'metric')} beyond it" if failed else f"gate {limit}: passed"
    return [head, *(f"  {line}" for line in lines)]


def side_line(name: str, side: DriftSide) -> str:
    """One side in a line."""
    what = f"{side.kind} {visible(side.name)}"
    size = f"{numbers.exact(side.documents)} documents, {numbers.count(side.tokens)} tokens"
    return f"{name}  {visible(side.uri)} · {what} · {size}"


def _parts(report: DriftReport) -> Iterable[RenderableType]:
    yield Text(side_line("A", report.a))
    yield Text(side_line("B", report.b))
    yield Text("")
    head = ("metric", "PSI by documents", "chance, 95 %", "PSI by tokens", "chance, 95 %", "bins", "verdict")
    yield table(head, [_metric_row(m) for m in report.metrics], left=(0, 6))
    for metric in report.metrics:
        if metric.verdict == "drift":
            yield from _changes(metric)
    if report.features:
        read, held = report.features.shards, report.features.shards_in_all
        docs = report.features.documents
        sample = f", a sample: {read[0]:,} of {held[0]:,} and {read[1]:,} of {held[1]:,} shards"
        yield Text(
            f"\nfeatures of {docs[0]:,} and {docs[1]:,} documents{sample if report.features.sampled else ''}: share of "
            "the documents that store it (those beyond chance; ? where features below the floor could undo it)"
        )
        for layer in report.features.layers:
            yield from _layer(layer)
    for note in report.notes:
        yield Text(f"\nnote: {visible(note, 600)}")


def _metric_row(metric: MetricDrift) -> Sequence[str]:
    def pair(stability: Stability) -> tuple[str, str]:
        return f"{stability.psi:.3f}", f"{stability.noise_95:.3f}"

    return (
        metric_name(metric.kind, metric.metric),
        *pair(metric.documents),
        *pair(metric.tokens),
        str(metric.bins),
        verdict_of(metric),
    )


def _changes(metric: MetricDrift) -> Iterable[RenderableType]:
    a, b = metric.median
    median = f": median {_number(a)} → {_number(b)}" if a is not None and b is not None else ""
    yield Text(f"\n{metric_name(metric.kind, metric.metric)}{median}", style="bold")
    n_a, n_b = (sum(change.docs[side] for change in metric.changes) for side in (0, 1))
    clear = [change for change in metric.changes if change.low > 0 or change.high < 0]
    rows = [_change_row(change, n_a, n_b) for change in clear[:SHOWN_CHANGES]]
    yield table(("", "A", "B", "difference", "95 % interval, in points"), rows, left=(0,))
    if rest := len(metric.changes) - len(rows):
        noisy = len(metric.changes) - len(clear)
        of_them = "within chance" if noisy == rest else f"{noisy} of them within chance"
        yield Text(f"  {numbers.plural(rest, 'more value')}, {of_them}", style="dim")
    for labels, where in ((metric.appeared, "only in B"), (metric.vanished, "only in A")):
        if labels:
            yield Text(f"  {where}: {', '.join(visible(label, 40) for label in labels[:12])}", style="dim")


def _change_row(change: ValueChange, n_a: int, n_b: int) -> Sequence[str]:
    shares = (numbers.percent(n, whole) for n, whole in zip(change.docs, (n_a, n_b), strict=True))
    interval = f"{points(change.low)} to {points(change.high)}"
    return f"  {visible(change.value, 40) or '(undecided)'}", *shares, points(change.difference), interval


def _layer(layer: LayerDrift) -> Iterable[RenderableType]:
    moved = f"{layer.rose:,} rose, {layer.fell:,} fell of {layer.tested:,} frequent enough to tell"
    both = layer.overlap
    sets = (
        f"B has {numbers.percent(both.a_in_b, 1)} of A's {both.features[0]:,} features "
        f"(by chance {numbers.percent(both.by_chance[0], 1)}), A {numbers.percent(both.b_in_a, 1)} of B's "
        f"{both.features[1]:,} (by chance {numbers.percent(both.by_chance[1], 1)})"
    )
    yield Text(f"\nlayer {layer.layer}: {moved}", style="bold")
    yield Text(f"  {sets}", style="dim")
    rose = [change for change in layer.changes if change.difference > 0][:SHOWN_FEATURES]
    fell = [change for change in layer.changes if change.difference < 0][:SHOWN_FEATURES]
    if rose or fell:
        yield feature_table([*rose, *fell])


def feature_table(changes: Sequence[FeatureChange]) -> Table:
    """Features with their shares on both sides."""
    head = ("", "A", "B", "difference", "95 % interval, in points", "", "fires on", "most in")
    return table(head, [_feature_row(change) for change in changes], left=(0, 5, 6, 7), fold=(0, 7))


def _feature_row(change: FeatureChange) -> Sequence[str]:
    return (
        f"  {change.feature}",
        *(numbers.percent(share, 1) for share in change.share),
        points(change.difference),
        f"{points(change.low)} to {points(change.high)}",
        "" if change.certain else "?",
        visible(" · ".join(token.strip() for token in change.tokens[:4]), 40),
        visible(change.example, 120),
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:,.0f}"

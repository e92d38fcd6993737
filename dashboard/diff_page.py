"""A comparison of two corpora as one HTML file: no script, nothing fetched, every value escaped."""

from collections.abc import Sequence

from assay.dashboard import numbers
from assay.dashboard.charts import amount, numbers_table, stacked_bar
from assay.dashboard.diff_text import gate_lines, metric_name, points, verdict_of
from assay.dashboard.markup import Child, Html, data, join, tag
from assay.dashboard.sections import label
from assay.dashboard.shell import facts, key_figures, legend, page, section
from assay.schemas.drift import DriftReport, DriftSide, FeatureChange, LayerDrift, MetricDrift, Stability, ValueChange


def drift_html(report: DriftReport) -> str:
    """One self-contained page; equal reports give equal bytes."""
    main: list[Child] = [_header(report), section("What drifted", _HOW, _metrics(report.metrics))]
    main += [_metric(metric) for metric in report.metrics if metric.verdict == "drift"]
    if report.features:
        main += [_layer(layer) for layer in report.features.layers]
    return page("Drift between two corpora", main, _footer(report))


_HOW = (
    "PSI sums (b − a) ln(b ÷ a) over bins, with a and b the shares. The pale bar reaches as far as 95 of 100 "
    "comparisons of two halves of one corpus would, at these sizes."
)


def _header(report: DriftReport) -> Html:
    drifted = [metric for metric in report.metrics if metric.verdict == "drift"]
    worst: Child = data(metric_name(drifted[0].kind, drifted[0].metric), 24) if drifted else "nothing beyond chance"
    figures: list[tuple[str, Child, Child]] = [
        ("documents in A", amount(report.a.documents), f"{numbers.count(report.a.tokens)} tokens"),
        ("documents in B", amount(report.b.documents), f"{numbers.count(report.b.tokens)} tokens"),
        ("drifted", f"{len(drifted)} of {len(report.metrics)}", "metrics beyond chance"),
        ("most of all", worst, f"PSI {drifted[0].worst:.3f}" if drifted else ""),
    ]
    gate = gate_lines(report)
    return tag(
        "header",
        tag("p", "Assay · how two corpora differ", class_="kicker"),
        tag("h1", "B set beside A"),
        tag("p", "A: ", _side(report.a), ". B: ", _side(report.b), ".", class_="lede"),
        key_figures(figures),
        tag("ul", *(tag("li", data(line, 200)) for line in gate), class_="facts") if gate else None,
    )


def _side(side: DriftSide) -> Html:
    return join(data(side.uri, 120), f" ({side.kind} ", data(side.name, 60), ")")


def _metrics(metrics: Sequence[MetricDrift]) -> Html:
    scale = max((max(m.worst, m.documents.noise_95, m.tokens.noise_95) for m in metrics), default=0) or 1.0
    head = tag("tr", *(tag("th", t, scope="col") for t in ("Metric", "PSI by documents", "", "PSI by tokens", "")))
    body = [
        tag(
            "tr",
            tag(
                "th", data(metric_name(metric.kind, metric.metric)), tag("small", " ", verdict_of(metric)), scope="row"
            ),
            *_stability(metric.documents, scale),
            *_stability(metric.tokens, scale),
        )
        for metric in metrics
    ]
    rows: list[tuple[Child, ...]] = [
        (data(metric_name(m.kind, m.metric)), by, *(f"{x:.4f}" for x in (s.psi, s.noise, s.noise_95)), f"{s.q:.2g}",
         f"{m.jensen_shannon:.4f}")
        for m in metrics
        for by, s in (("documents", m.documents), ("tokens", m.tokens))
    ]  # fmt: skip
    exact = ("Metric", "by", "PSI", "chance, expected", "chance, 95 %", "q", "Jensen–Shannon, bits")
    key = legend(("extra", "beyond chance"), ("fill", "within chance"))
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="bars steps")
    return join(key, table, numbers_table(exact, rows))


def _stability(stability: Stability, scale: float) -> tuple[Html, Html]:
    style = "extra" if stability.verdict == "drift" else "fill"
    reach = max(stability.noise_95 - stability.psi, 0)
    bar = stacked_bar([(style, stability.psi / scale), ("faint", reach / scale)])
    return tag("td", bar, class_="wide", style="width:28%"), tag("td", f"{stability.psi:.3f}")


def _metric(metric: MetricDrift) -> Html:
    n_a, n_b = (sum(change.docs[side] for change in metric.changes) for side in (0, 1))
    scale = max(max(c.docs[0] / n_a, c.docs[1] / n_b) for c in metric.changes)
    head = ("Value", "A", "", "B", "", "Difference, points", "95 % interval")
    body = [_change(change, n_a, n_b, scale) for change in metric.changes]
    table = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", text, scope="col") for text in head))),
        tag("tbody", *body),
        class_="bars steps",
    )
    a, b = metric.median
    median = f" Median {a:.4g} in A, {b:.4g} in B." if a is not None and b is not None else ""
    text = f"Shares of the documents, the largest difference first; grey: within chance.{median}"
    exact: list[tuple[Child, ...]] = [
        (label(c.value), *(numbers.exact(n) for n in (*c.docs, *c.tokens))) for c in metric.changes
    ]
    counts = numbers_table(("Value", "documents in A", "in B", "tokens in A", "in B"), exact)
    return section(metric_name(metric.kind, metric.metric), text, join(tag("div", table, class_="scroll"), counts))


def _change(change: ValueChange, n_a: int, n_b: int, scale: float) -> Html:
    clear = change.low > 0 or change.high < 0
    cells: list[Html] = []
    for n, whole, style in ((change.docs[0], n_a, "tone"), (change.docs[1], n_b, "extra" if clear else "tone")):
        cells.append(tag("td", stacked_bar([(style, n / whole / scale)]), class_="wide", style="width:20%"))
        cells.append(tag("td", numbers.percent(n, whole)))
    interval = f"{points(change.low)} to {points(change.high)}"
    tail = [tag("td", text, class_=None if clear else "none") for text in (points(change.difference), interval)]
    return tag("tr", tag("th", label(change.value), scope="row"), *cells, *tail)


def _layer(layer: LayerDrift) -> Html:
    both = layer.overlap
    text = (
        f"{layer.rose:,} features rose and {layer.fell:,} fell beyond chance, of {layer.tested:,} frequent enough to "
        f"tell. B has {numbers.percent(both.a_in_b, 1)} of A's features (by chance "
        f"{numbers.percent(both.by_chance[0], 1)}), A {numbers.percent(both.b_in_a, 1)} of B's (by chance "
        f"{numbers.percent(both.by_chance[1], 1)}). A question mark: features below the floor could undo the "
        "difference in firing."
    )
    return section(f"Features of layer {layer.layer}", text, features_table(layer.changes))


def features_table(changes: Sequence[FeatureChange]) -> Html:
    """Features with their shares on both sides, or a word where there are none."""
    head = ("Feature", "A", "B", "points", "95 % interval", "", "fires on", "read by", "most in")
    rows = [tag("tr", *_feature(change)) for change in changes]
    top = tag("tr", *(tag("th", name, scope="col") for name in head))
    table = tag("table", tag("thead", top), tag("tbody", *rows), class_="plain words")
    return tag("div", table, class_="scroll") if rows else tag("p", "None beyond chance.")


def _feature(change: FeatureChange) -> list[Html]:
    tokens = join(*(join(data(token, 24), " ") for token in change.tokens[:5]))
    figures = [
        *(numbers.percent(share, 1) for share in change.share),
        points(change.difference),
        f"{points(change.low)} to {points(change.high)}",
        "" if change.certain else "?",
    ]
    read_by = join(*(join(data(name), " ") for name in change.read_by))
    return [
        tag("th", str(change.feature), scope="row"),
        *(tag("td", figure, style="white-space:nowrap") for figure in figures),
        *(tag("td", cell) for cell in (tokens, read_by, data(change.example, 120))),
    ]


def _footer(report: DriftReport) -> Html:
    entries = [(f"{n} · {key}", value) for n, side in (("A", report.a), ("B", report.b)) for key, value in _made(side)]
    notes = [tag("p", data(note, 600)) for note in report.notes]
    features = report.features
    if features:
        read = [
            f"{docs:,} documents in {shards:,} of {held:,} shards"
            for docs, shards, held in zip(features.documents, features.shards, features.shards_in_all, strict=True)
        ]
        notes.append(tag("p", f"Features were read of {read[0]} of A, {read[1]} of B."))
    return tag("footer", facts(entries), *notes)


def _made(side: DriftSide) -> list[tuple[str, str]]:
    return [("corpus", side.corpus), ("encoder", side.encoder), ("tag set", side.tagset)]

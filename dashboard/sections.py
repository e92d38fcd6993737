"""The charts of a composition: labels, scores, scores by domain, and lengths."""

import math
from collections.abc import Sequence

from assay.dashboard import numbers
from assay.dashboard.charts import Bar, Tick, amount, histogram, numbers_table, quantile_strip, stacked_bar
from assay.dashboard.markup import Child, Html, data, join, tag
from assay.schemas.composition import BANDS, Composition, DomainScore, LengthBin, ScoreSummary, Share
from assay.schemas.statistics import SCORE_BINS

SHOWN_LABELS = 24
EIGHTHS = ("0–⅛", "⅛–¼", "¼–⅜", "⅜–½", "½–⅝", "⅝–¾", "¾–⅞", "⅞–1")
UNDECIDED = tag("i", "undecided")


def label(name: str) -> Html:
    """A label of the corpus, or the word for none."""
    return data(name) if name else UNDECIDED


def shares_chart(shares: Sequence[Share], noun: str) -> Html:
    """Each label's share of the documents and of the tokens, on one scale; beyond 24 labels, the rest as one row."""
    docs, tokens = sum(s.docs for s in shares), sum(s.tokens for s in shares)
    scale = max((max(s.docs / max(docs, 1), s.tokens / max(tokens, 1)) for s in shares), default=1) or 1
    rows: list[tuple[Child, int, int]] = [(label(s.label), s.docs, s.tokens) for s in shares[:SHOWN_LABELS]]
    rest = shares[SHOWN_LABELS:]
    if rest:
        name = tag("i", f"{numbers.plural(len(rest), 'other')}")
        rows.append((name, sum(s.docs for s in rest), sum(s.tokens for s in rest)))
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            _measure("fill", n, docs, scale),
            _measure("tone", t, tokens, scale),
        )
        for name, n, t in rows
    ]
    head = tag("tr", *(tag("th", text, scope="col") for text in (noun, "Documents", "Tokens")))
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="bars")
    exact = [
        (label(s.label), numbers.exact(s.docs), numbers.percent(s.docs, docs), numbers.exact(s.tokens),
         numbers.percent(s.tokens, tokens))
        for s in shares
    ]  # fmt: skip
    return join(table, numbers_table((noun, "Documents", "share", "Tokens", "share"), exact))


def score_chart(score: ScoreSummary, dropped: ScoreSummary | None = None) -> Html:
    """A score's histogram with its quartiles; dropped documents stand on top of the kept ones."""
    root = score.axis == "safety"
    extra = dropped.docs if dropped else (0,) * SCORE_BINS
    bars = [
        Bar(i / SCORE_BINS, (i + 1) / SCORE_BINS, n, more, _bin_title(i, n, more, dropped is not None))
        for i, (n, more) in enumerate(zip(score.docs, extra, strict=True))
    ]
    ticks = [Tick(i / 4, f"{i / 4:g}") for i in range(5)]
    said = f"Histogram of {score.name} over {numbers.plural(score.decided, 'document')}"
    head = ["Score", "Documents", "Tokens", *(["Dropped"] if dropped else [])]
    rows: list[tuple[Child, ...]] = [
        (_range(i), numbers.exact(score.docs[i]), numbers.exact(score.tokens[i]),
         *([numbers.exact(extra[i])] if dropped else []))
        for i in range(SCORE_BINS)
        if score.docs[i] or extra[i]
    ]  # fmt: skip
    heights = "heights on a square-root scale" if root else "documents in each 1/64"
    return tag(
        "figure",
        tag("h3", data(score.name), tag("small", heights)),
        _score_facts(score),
        histogram(bars, ticks, label=said, root=root, marks=(0.5,) if root else ()),
        quantile_strip(score.quantiles),
        numbers_table(head, rows),
    )


def heat_map(name: str, rows: Sequence[DomainScore]) -> Html:
    """The share of each domain's documents in each eighth of a score: one hue, the same scale in every row."""
    most = max((max(row.docs) / row.decided for row in rows if row.decided), default=1) or 1
    head = [
        tag("th", "Domain", scope="col"),
        *(tag("th", band, scope="col") for band in EIGHTHS),
        *(tag("th", text, scope="col", class_="sum") for text in ("mean", "≥ 0.5")),
    ]
    body = []
    for row in rows:
        cells: list[Child] = [_heat_cell(n, row.decided, most) for n in row.docs]
        cells.append(tag("td", _about(row.mean), class_="sum"))
        cells.append(tag("td", numbers.percent(row.half_or_more, row.decided), class_="sum"))
        body.append(tag("tr", tag("th", label(row.domain), scope="row"), *cells))
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="heat")
    exact: list[tuple[Child, ...]] = [
        (label(r.domain), *(numbers.exact(n) for n in r.docs), numbers.exact(r.undecided), numbers.score(r.mean))
        for r in rows
    ]
    bands = [f"≥ {b / BANDS:.3g}" for b in range(BANDS)]
    return tag(
        "figure",
        tag("h3", data(name), tag("small", "share of the domain's documents in each eighth of the score")),
        tag("div", table, class_="scroll"),
        numbers_table(("Domain", *bands, "undecided", "mean"), exact),
    )


def length_chart(composition: Composition) -> Html:
    """Where the documents and where the tokens lie by document length, on a log axis."""
    bins = composition.lengths
    if not bins:
        return tag("p", "No document has a token.")
    low, high = math.log2(bins[0].first), math.log2(bins[-1].next)
    powers = [10**p for p in range(11) if low <= math.log2(10**p) <= high]
    steps = powers if len(powers) > 2 else [2**p for p in range(32) if low <= p <= high]
    ticks = [Tick((math.log2(n) - low) / (high - low), numbers.tick(n)) for n in steps]

    def bars(what: str) -> list[Bar]:
        return [
            Bar(
                (math.log2(b.first) - low) / (high - low),
                (math.log2(b.next) - low) / (high - low),
                getattr(b, what),
                0,
                f"{_length(b)} tokens: {numbers.exact(b.docs)} documents, {numbers.exact(b.tokens)} tokens",
            )
            for b in bins
        ]

    figures = [
        tag("figure", tag("h3", title), histogram(bars(what), ticks, label=f"{title} by length in tokens"))
        for what, title in (("docs", "Documents"), ("tokens", "Tokens"))
    ]
    rows = [(_length(b), numbers.exact(b.docs), numbers.exact(b.tokens)) for b in bins]
    return join(tag("div", *figures, class_="pair"), numbers_table(("Length in tokens", "Documents", "Tokens"), rows))


def _measure(style: str, n: int, whole: int, scale: float) -> Html:
    share = n / whole if whole else 0.0
    figures = tag("span", amount(n), tag("b", numbers.percent(n, whole)), class_="figures")
    return tag("td", tag("div", stacked_bar([(style, share / scale)]), figures, class_="measure"))


def _score_facts(score: ScoreSummary) -> Html:
    facts: list[Child] = []
    if score.quantiles:
        q = score.quantiles
        facts.append(tag("li", "median ", tag("b", f"≈ {q['p50']:.2f}")))
        facts.append(tag("li", "90 % between ", tag("b", f"{q['p05']:.2f}"), " and ", tag("b", f"{q['p95']:.2f}")))
    half = numbers.percent(score.half_or_more, score.decided)
    facts.append(tag("li", "at least 0.5: ", tag("b", half), " (", amount(score.half_or_more), ")"))
    facts.append(tag("li", "undecided: ", tag("b", amount(score.undecided))))
    return tag("ul", *facts, class_="facts")


def _heat_cell(n: int, whole: int, most: float) -> Html:
    if not n:
        return tag("td", tag("span", "·", class_="none"), title="0 documents")
    shown = f"{100 * n / whole:.0f}" if n / whole >= 0.005 else "<1"
    return tag("td", shown, style=f"--v:{n / whole / most:.3f}", title=f"{numbers.exact(n)} of {numbers.exact(whole)}")


def _about(value: float | None) -> str:
    return numbers.MISSING if value is None else f"≈ {value:.2f}"


def _range(index: int) -> str:
    return f"{index / SCORE_BINS:.4f} – {(index + 1) / SCORE_BINS:.4f}"


def _bin_title(index: int, kept: int, dropped: int, both: bool) -> str:
    more = f" kept, {numbers.exact(dropped)} dropped" if both else ""
    return f"{_range(index)}: {numbers.exact(kept)} documents{more}"


def _length(b: LengthBin) -> str:
    if b.next == b.first + 1:
        return numbers.exact(b.first)
    return f"{numbers.exact(b.first)} – {numbers.exact(b.next - 1)}"

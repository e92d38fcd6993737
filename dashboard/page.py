"""The report as one HTML file: no script, no link, nothing fetched, every value escaped."""

from assay.dashboard import numbers
from assay.dashboard.charts import amount, numbers_table, stacked_bar
from assay.dashboard.markup import Child, Html, data, join, tag, visible
from assay.dashboard.report import Report
from assay.dashboard.sections import heat_map, label, length_chart, score_chart, shares_chart
from assay.dashboard.shell import facts, key_figures, legend, page, section


def as_html(report: Report) -> str:
    """One self-contained page; equal reports give equal bytes."""
    return page(report.title, [_header(report), _accounting(report), *_sections(report)], _footer(report))


def _header(report: Report) -> Html:
    kind = "a curated dataset" if report.dropped is not None or report.rules else "a corpus"
    return tag(
        "header",
        tag("p", f"Assay · what {kind} is made of", class_="kicker"),
        tag("h1", data(report.title, 160)),
        tag("p", data(report.subject, 600), class_="lede"),
        key_figures(_key_figures(report)),
    )


def _key_figures(report: Report) -> list[tuple[str, Child, Child]]:
    composition, totals = report.composition, report.totals
    figures: list[tuple[str, Child, Child]] = [
        ("documents", amount(composition.documents), f"of {numbers.count(totals.rows_in)} rows read"),
        ("tokens", amount(composition.tokens), _per_document(report)),
    ]
    for shares, noun in ((composition.domains, "domains"), (composition.languages, "languages")):
        named = [share for share in shares if share.label]
        if named:
            first = join("most: ", data(named[0].label, 24), " ", numbers.percent(named[0].docs, composition.documents))
            figures.append((noun, amount(len(named)), first))
    for score in composition.scores:
        if score.axis == "safety":
            share = numbers.percent(score.half_or_more, score.decided)
            figures.append((f"{visible(score.name, 24)} ≥ 0.5", share, join(amount(score.half_or_more), " documents")))
        elif score.axis == "quality" and score.quantiles:
            low, high = score.quantiles["p25"], score.quantiles["p75"]
            middle = f"{score.quantiles['p50']:.2f}"
            figures.append((f"median {visible(score.name, 24)}", middle, f"quartiles {low:.2f} and {high:.2f}"))
    return figures


def _per_document(report: Report) -> str:
    documents = report.composition.documents
    return f"{numbers.count(round(report.composition.tokens / documents))} a document" if documents else ""


def _accounting(report: Report) -> Html:
    totals = report.totals
    parts = [
        ("kept", "fill", totals.rows_kept),
        ("dropped", "extra", totals.rows_dropped),
        ("quarantined", "stop", totals.rows_quarantined),
    ]
    terms: list[Child] = [tag("b", amount(totals.rows_in)), " rows read = "]
    for index, (name, style, n) in enumerate(parts):
        terms += [" + " if index else "", tag("span", class_=f"dot {style}"), tag("b", amount(n)), f" {name}"]
    bar = stacked_bar([(style, n / max(totals.rows_in, 1)) for _, style, n in parts])
    return tag("section", tag("p", *terms, class_="equation"), bar, class_="accounting")


def _sections(report: Report) -> list[Html]:
    composition, dropped = report.composition, report.dropped
    found: list[Html] = []
    if report.rules:
        found.append(section("Rules", "What each rule took out, in the order they ran.", _waterfall(report)))
    if composition.domains:
        text = "Share of the documents and of the tokens, on one scale."
        found.append(section("Domains", text, shares_chart(composition.domains, "Domain")))
    if dropped is not None and (composition.domains or dropped.domains):
        text = "How much of each domain the rules left."
        found.append(section("Kept and dropped", text, _survival(report)))
    if composition.languages:
        text = "Share of the documents and of the tokens, on one scale."
        found.append(section("Languages", text, shares_chart(composition.languages, "Language")))
    for name, shares in composition.labels.items():
        found.append(section(name, "Values of this tagger.", shares_chart(shares, "Value")))
    if composition.scores:
        width = composition.scores[0].bin_width
        before = {score.name: score for score in dropped.scores} if dropped else {}
        charts = [score_chart(score, before.get(score.name)) for score in composition.scores]
        text = (
            "Below each histogram: the median, the middle half (box) and the middle 90 % (line). Quantiles are "
            f"estimates, off by at most one bin ({width:.3f})."
        )
        key = legend(("fill", "kept"), ("extra", "dropped")) if before else None
        found.append(section("Scores", text, join(key, tag("div", *charts, class_="pair"))))
    if composition.by_domain:
        text = (
            "The stronger the colour, the more of the domain's documents. Cells are exact, in percent; "
            "means are estimates."
        )
        maps = [
            heat_map(score.name, [row for row in composition.by_domain if row.score == score.name])
            for score in composition.scores
        ]
        found.append(section("Scores by domain", text, join(*maps)))
    lengths = "Document length in tokens, four bins to each doubling; log axis."
    if composition.no_tokens:
        lengths += f" {numbers.plural(composition.no_tokens, 'document')} without tokens not shown."
    found.append(section("Lengths", lengths, length_chart(composition)))
    if report.quarantine_reasons:
        text = "Rows that could not be read as documents; they are set aside, not lost."
        found.append(section("Quarantine", text, _quarantine(report)))
    if report.taggers:
        text = "Figures were measured on documents that the tagger was not fitted on."
        found.append(section("Taggers", text, _taggers(report)))
    return found


def _waterfall(report: Report) -> Html:
    total = report.totals.rows_kept + report.totals.rows_dropped
    scale = max(total, 1)
    head = tag("tr", *(tag("th", t, scope="col") for t in ("Rule", "", "Dropped", "share", "Left")))
    body = [_step(tag("i", "tagged documents"), [("tone", total / scale)], None, total, scale)]
    left = total
    for rule in report.rules:
        left -= rule.dropped
        parts = [("faint", left / scale), ("extra", rule.dropped / scale)]
        body.append(_step(data(rule.name), parts, rule.dropped, left, scale))
    body.append(_step(tag("i", "kept"), [("fill", left / scale)], None, left, scale))
    rows = [(data(r.name), numbers.exact(r.dropped), _optional(r.tokens), _optional(r.failed)) for r in report.rules]
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="bars steps")
    return join(table, numbers_table(("Rule", "Dropped first by it", "Tokens of these", "Fail it at all"), rows))


def _step(name: Child, parts: list[tuple[str, float]], dropped: int | None, left: int, total: int) -> Html:
    gone: Child = numbers.MISSING if dropped is None else amount(dropped)
    share = numbers.MISSING if dropped is None else numbers.percent(dropped, total)
    cells = [tag("td", stacked_bar(parts), class_="wide"), *(tag("td", c) for c in (gone, share, amount(left)))]
    return tag("tr", tag("th", name, scope="row"), *cells)


def _survival(report: Report) -> Html:
    kept = {share.label: share.docs for share in report.composition.domains}
    gone = {share.label: share.docs for share in report.dropped.domains} if report.dropped else {}
    names = sorted(kept.keys() | gone.keys(), key=lambda n: (n == "", -kept.get(n, 0) - gone.get(n, 0), n))
    head = tag("tr", *(tag("th", t, scope="col") for t in ("Domain", "", "Kept", "share", "Dropped")))
    body, rows = [], []
    for name in names:
        k, g = kept.get(name, 0), gone.get(name, 0)
        bar = tag("td", stacked_bar([("fill", k / (k + g)), ("extra", g / (k + g))]), class_="wide")
        cells = [tag("td", cell) for cell in (amount(k), numbers.percent(k, k + g), amount(g))]
        body.append(tag("tr", tag("th", label(name), scope="row"), bar, *cells))
        rows.append((label(name), numbers.exact(k), numbers.exact(g), numbers.percent(k, k + g)))
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="bars steps")
    key = legend(("fill", "kept"), ("extra", "dropped"))
    return join(key, table, numbers_table(("Domain", "Kept", "Dropped", "share kept"), rows))


def _quarantine(report: Report) -> Html:
    reasons = sorted(report.quarantine_reasons.items(), key=lambda item: (-item[1], item[0]))
    whole = report.totals.rows_in
    rows = [
        tag("tr", tag("th", data(reason), scope="row"), tag("td", amount(n)), tag("td", numbers.percent(n, whole)))
        for reason, n in reasons
    ]
    head = tag("tr", *(tag("th", t, scope="col") for t in ("Reason", "Rows", "of rows read")))
    return tag("table", tag("thead", head), tag("tbody", *rows), class_="plain")


def _taggers(report: Report) -> Html:
    head = tag("tr", *(tag("th", t, scope="col") for t in ("Tagger", "Axis", "Version", "Held out")))
    rows = []
    for tagger in report.taggers:
        figures = [tag("li", data(k), " ", tag("b", f"{v:.3g}")) for k, v in tagger.held_out.items()]
        measured: Child = tag("ul", *figures, class_="facts") if figures else numbers.MISSING
        note = tag("small", data(tagger.note, 300)) if tagger.note else None
        rows.append(
            tag(
                "tr",
                tag("th", data(tagger.name), note, scope="row"),
                tag("td", f"{visible(tagger.axis)} {tagger.kind}"),
                tag("td", data(tagger.version) if tagger.version else numbers.MISSING),
                tag("td", measured),
            )
        )
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="plain words"), class_="scroll")


def _footer(report: Report) -> Html:
    entries = [("corpus", report.corpus), *report.fingerprints.items()]
    if report.throughput:
        entries.append(("throughput", report.throughput))
    notes = [tag("p", data(note, 600)) for note in report.notes]
    ending = "K, M, B and T are 10³, 10⁶, 10⁹ and 10¹²; hover over a shortened number for all its digits."
    return tag("footer", facts(entries), *notes, tag("p", ending))


def _optional(n: int | None) -> str:
    return numbers.MISSING if n is None else numbers.exact(n)

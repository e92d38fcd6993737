"""An audit as one HTML file: no script, nothing fetched, every value escaped."""

from collections.abc import Iterator

from assay.dashboard import numbers
from assay.dashboard.audit_charts import dimensions_chart, flag_words, groups_chart, identity_chart
from assay.dashboard.audit_text import percent
from assay.dashboard.charts import amount, numbers_table
from assay.dashboard.markup import Child, Html, data, tag
from assay.dashboard.shell import facts, key_figures, page, section
from assay.schemas.audit import AuditReport

STYLES = ("report.css", "plots.css")


def audit_page(report: AuditReport) -> str:
    """One self-contained page; equal audits give equal bytes."""
    title = f"Audit of the tagger {report.tagger}"
    return page(title, [_header(report), *_sections(report)], _footer(report), STYLES)


def _header(report: AuditReport) -> Html:
    first, *others = report.findings
    more = tag("ul", *(tag("li", data(finding, 600)) for finding in others), class_="findings") if others else None
    return tag(
        "header",
        tag("p", f"Assay · what a tagger keys on · {report.axis}", class_="kicker"),
        tag("h1", report.tagger),
        tag("p", data(f"on {report.corpus}", 300), class_="lede"),
        tag("div", data(first, 600), more, class_="verdict lost" if report.flagged else "verdict"),
        key_figures(_key_figures(report)),
    )


def _key_figures(report: AuditReport) -> list[tuple[str, Child, Child]]:
    figures: list[tuple[str, Child, Child]] = [
        ("documents", amount(report.documents), f"{numbers.count(report.undecided)} undecided")
    ]
    for d in report.dimensions[:3]:
        figures.append((f"explained by {d.dimension}", percent(d.explained), f"{d.values:,} values"))
    if report.length:
        a = report.length[0]
        note = f"{a.correlation.low:+.2f} to {a.correlation.high:+.2f}, Spearman's ρ"
        figures.append(("rank correlation with length", f"{a.correlation.value:+.2f}", note))
    if report.identity is not None:
        flagged = sum(t.flagged for t in report.identity.terms)
        figures.append(
            ("identity terms", f"{flagged}", f"of {len(report.identity.terms)} move it on neutral sentences")
        )
    return figures


def _sections(report: AuditReport) -> Iterator[Html]:
    if report.dimensions:
        text = "Share of the tag's variance that a property of the document explains, less what chance would."
        yield section("What foretells it", text, dimensions_chart(report))
    for d in report.dimensions:
        what = "Mean score" if report.kind == "score" else "Share of the label that stands out most"
        text = f"{what} of each value of {d.dimension}, against all others. {percent(d.explained)} explained."
        yield section(f"By {d.dimension}", text, groups_chart(report, d))
    if report.identity is not None:
        n = numbers.count(report.identity.sentences)
        text = (
            f"{n} neutral sentences. What changes when a group of people takes the place of nobody in particular, with "
            f"95 % intervals; a neutral filler moves it by {report.identity.filler_shift:.3f} at most."
        )
        yield section("Identity terms", text, identity_chart(report, report.identity))
    if report.length and report.kind == "label":
        rows = [
            (
                data(a.label),
                f"{a.correlation.value:+.3f}",
                f"{a.correlation.low:+.3f} to {a.correlation.high:+.3f}",
                flag_words(a.flagged),
            )
            for a in report.length
        ]
        text = "Spearman's rank correlation of each label with the number of tokens."
        yield section("Length", text, numbers_table(("Label", "ρ", "95 % interval", ""), rows))
    notes = (
        "A tag may rightly go with a source or a language: an audit says what it goes with, labels whether it should.",
        "Flagged are medium or larger effects (Cohen 1988) that remain once the number of comparisons is corrected for "
        "(Benjamini and Hochberg 1995); groups of fewer than 30 documents are shown and not judged.",
        *report.notes,
    )
    yield section("How to read it", "", tag("ul", *(tag("li", data(note, 600)) for note in notes), class_="notes"))


def _footer(report: AuditReport) -> Html:
    entries = [
        ("tagger", f"{report.tagger} {report.version}"),
        ("fingerprint", report.fingerprint),
        ("encoder", report.encoder),
        ("run", report.run),
        ("store", report.store),
    ]
    return tag("footer", facts(entries))

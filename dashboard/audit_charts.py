"""The parts of an audit's page: properties, groups and identity terms, each with the features to blame."""

from collections.abc import Sequence

from assay.dashboard import numbers
from assay.dashboard.audit_text import percent, term_name
from assay.dashboard.charts import numbers_table, stacked_bar
from assay.dashboard.evidence_features import feature_name, tokens_list
from assay.dashboard.markup import Child, Html, data, join, tag
from assay.dashboard.plots import Interval, interval_table, linear_axis
from assay.schemas.audit import AuditReport, BlamedFeature, DimensionAudit, GroupAudit, IdentityAudit

SHOWN_GROUPS = 24


def dimensions_chart(report: AuditReport) -> Html:
    """What each property explains, as bars on one scale."""
    head = tag("tr", *(tag("th", t, scope="col") for t in ("Property", "", "explained", "values", "")))
    rows = [
        tag(
            "tr",
            tag("th", data(d.dimension), scope="row"),
            tag(
                "td", stacked_bar([("extra" if d.flagged else "fill", d.explained)]), class_="wide", aria_hidden="true"
            ),
            tag("td", percent(d.explained)),
            tag("td", f"{d.values:,}"),
            tag("td", flag_words(d.flagged)),
        )
        for d in report.dimensions
    ]
    return tag("table", tag("thead", head), tag("tbody", *rows), class_="bars steps")


def groups_chart(report: AuditReport, d: DimensionAudit) -> Html:
    """The tag in each group, the mean of all documents as a dotted line, and the features to blame."""
    score = report.kind == "score"
    known = [*(g.mean for g in d.groups), 0.0]
    shown = d.groups[:SHOWN_GROUPS]
    rows = [
        Interval(
            _name(g, score),
            (
                f"{g.mean:.3f}",
                f"{g.rest:.3f} elsewhere",
                numbers.count(g.documents),
                f"{g.effect:+.2f}",
                flag_words(g.flagged),
            ),
            g.mean,
            style="warn" if g.flagged else "ours" if g.q is not None else "quiet",
        )
        for g in shown
    ]
    # The mean over all documents is one group's and the rest's, by their sizes.
    first = d.groups[0]
    share = first.documents / max(report.documents, 1)
    mark = first.mean * share + first.rest * (1 - share) if score else None
    head = (d.dimension.capitalize(), "mean" if score else "share", "", "documents", "effect", "")
    plot = interval_table(head, rows, linear_axis(known, 0.0, 1.0, steps=3), mark)
    rest = len(d.groups) - len(shown)
    more = tag("p", f"{rest:,} more values are in the JSON.", class_="said") if rest else None
    return join(plot, more, _blame([(_name(g, score), g.features) for g in shown if g.features]))


def identity_chart(report: AuditReport, identity: IdentityAudit) -> Html:
    """The change that each term makes, with its interval, and the features to blame."""
    score = report.kind == "score"
    warnings = [tag("li", data(line, 300)) for line in identity.warnings]
    ends = [v for t in identity.terms for v in (t.shift.low, t.shift.high)]
    rows = [
        Interval(
            data(term_name(t, score)),
            (
                f"{t.shift.value:+.3f}",
                f"{t.shift.low:+.3f} to {t.shift.high:+.3f}",
                t.kind,
                numbers.MISSING if t.passing is None else percent(t.passing),
                flag_words(t.flagged),
            ),
            t.shift.value,
            t.shift.low,
            t.shift.high,
            "warn" if t.flagged else "ours",
        )
        for t in identity.terms
    ]
    head = ("Term", "change", "95 % interval", "kind", "passing", "")
    languages = list(dict.fromkeys(language for t in identity.terms for language in t.by_language))
    by_language: list[tuple[Child, ...]] = [
        (
            data(t.term),
            *(f"{t.by_language[la]:+.3f}" if la in t.by_language else "–" for la in languages),
            data(t.example),
        )
        for t in identity.terms
    ]
    return join(
        tag("ul", *warnings, class_="notes warnings") if warnings else None,
        interval_table(head, rows, linear_axis([*ends, 0.0], -1.0, 1.0, steps=4), 0.0),
        numbers_table(("Term", *languages, "Example"), by_language),
        _blame([(data(t.term), t.features) for t in identity.terms if t.features]),
    )


def _blame(groups: Sequence[tuple[Child, Sequence[BlamedFeature]]]) -> Html | None:
    """The features to blame, folded away: a row each, named by its group on the first."""
    rows: list[tuple[Child, ...]] = [
        (name if i == 0 else "", feature_name(f.layer, f.feature), f"{f.difference:+.3f}", percent(f.share),
         tokens_list(f.tokens))
        for name, features in groups
        for i, f in enumerate(features)
    ]  # fmt: skip
    if not rows:
        return None
    head = ("Value", "Feature", "adds to the logit", "of all that way", "Fires most on")
    return numbers_table(head, rows, "The features to blame")


def _name(g: GroupAudit, score: bool) -> Html:
    return data(g.value) if score else join(data(g.value), " → ", data(g.label))


def flag_words(flagged: bool) -> Html | str:
    """The word beside what is flagged, so that colour isn't all that says so."""
    return tag("span", "flagged", class_="flag") if flagged else ""

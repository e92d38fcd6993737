"""The audit of a curation as one HTML file: no script, nothing fetched, every value escaped."""

from collections.abc import Sequence

from assay.dashboard import numbers
from assay.dashboard.charts import amount, numbers_table, stacked_bar
from assay.dashboard.diff_page import features_table
from assay.dashboard.loss_text import name_of
from assay.dashboard.markup import Child, Html, data, join, tag
from assay.dashboard.shell import facts, key_figures, legend, page, section
from assay.schemas.loss import GroupLoss, LossReport, NearDocument, RuleThreshold

SHOWN_GROUPS = 40


def loss_html(report: LossReport) -> str:
    """One self-contained page; equal reports give equal bytes."""
    more, less = [g for g in report.groups if g.more], [g for g in reversed(report.groups) if g.less]
    main: list[Child] = [
        _header(report, more),
        section("Loses more than its share", _MORE, _groups(more, report)),
        section("Vanished altogether", _GONE, _vanished([g for g in report.groups if g.vanished])),
        section("Loses less than its share", "What the recipe spares, beyond chance.", _groups(less, report)),
    ]
    for layer in report.features:
        text = (
            f"A: dropped documents, B: kept ones. {layer.fell:,} features mark what is dropped and {layer.rose:,} what "
            "is kept, beyond chance. A question mark: features below the floor could undo the difference in firing."
        )
        main.append(section(f"Features of layer {layer.layer}", text, features_table(layer.changes)))
    main += [
        section(f"Near {threshold.rule}", _near_text(threshold), _near(threshold)) for threshold in report.thresholds
    ]
    notes = [tag("p", data(note, 600)) for note in report.notes]
    footer = tag("footer", facts([("dataset", report.uri), ("curation", report.fingerprint)]), *notes)
    return page(f"Audit of {report.name}", main, footer)


_MORE = (
    "Lift is the share of the group that is dropped over the share of all documents that is. Beyond chance only, "
    "adjusted for all groups. A star: the rule tests this itself."
)
_GONE = "Groups of which no document stays."


def _header(report: LossReport, more: Sequence[GroupLoss]) -> Html:
    gone = [group for group in report.groups if group.vanished]
    worst = more[0] if more else None
    figures: list[tuple[str, Child, Child]] = [
        ("documents", amount(report.documents), "that came to the recipe"),
        ("dropped", amount(report.dropped), numbers.percent(report.dropped, report.documents)),
        ("groups that lose more", str(len(more)), "than their share, beyond chance"),
        ("vanished", str(len(gone)), data(name_of(gone[0]), 40) if gone else "nothing"),
    ]
    if worst:
        figures.append(("largest lift", f"{worst.lift:.1f}", data(name_of(worst), 40)))
    whole = max(report.documents, 1)
    left = whole
    rows = []
    for rule in report.rules:
        left -= rule.dropped
        bar = stacked_bar([("faint", left / whole), ("extra", rule.dropped / whole)])
        cells = [tag("td", bar, class_="wide"), tag("td", amount(rule.dropped)), tag("td", amount(left))]
        rows.append(tag("tr", tag("th", data(rule.name), scope="row"), *cells))
    head = tag("tr", *(tag("th", text, scope="col") for text in ("Rule", "", "Dropped", "Left")))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="bars steps")
    return tag(
        "header",
        tag("p", "Assay · of whom a recipe takes more than their share", class_="kicker"),
        tag("h1", data(report.name, 160)),
        key_figures(figures),
        table,
    )


def _groups(groups: Sequence[GroupLoss], report: LossReport) -> Html:
    if not groups:
        return tag("p", "Nothing.")
    head = ("Group", "", "Dropped", "share", "Lift", "95 %", "Mostly by")
    rows = [tag("tr", *_group(group, report)) for group in groups[:SHOWN_GROUPS]]
    top = tag("tr", *(tag("th", text, scope="col") for text in head))
    table = tag("table", tag("thead", top), tag("tbody", *rows), class_="bars steps")
    names = [rule.name for rule in report.rules]
    exact: list[tuple[Child, ...]] = [
        (data(name_of(g)), numbers.exact(g.documents), *(numbers.exact(_by(g, name)) for name in names), f"{g.q:.2g}")
        for g in groups
    ]
    key = legend(("faint", "kept"), ("extra", "dropped"))
    return join(key, tag("div", table, class_="scroll"), numbers_table(("Group", "Documents", *names, "q"), exact))


def _group(group: GroupLoss, report: LossReport) -> list[Html]:
    asked = group.more and group.metric in report.tests.get(group.cause, ())
    kept, lost = group.kept / group.documents, group.dropped / group.documents
    cells: list[Child] = [
        join(amount(group.dropped), " of ", amount(group.documents)),
        numbers.percent(group.dropped, group.documents),
        f"{group.lift:.2f}",
        f"{group.low:.2f} to {group.high:.2f}",
        join(data(group.cause), " ", amount(_by(group, group.cause))) if group.more else "",
    ]
    bar = tag("td", stacked_bar([("faint", kept), ("extra", lost)]), class_="wide", style="width:24%")
    name = tag("th", data(name_of(group)), " *" if asked else None, scope="row")
    return [name, bar, *(tag("td", cell) for cell in cells)]


def _by(group: GroupLoss, rule: str) -> int:
    return next((part.dropped for part in group.by if part.name == rule), 0)


def _vanished(groups: Sequence[GroupLoss]) -> Html:
    if not groups:
        return tag("p", "Nothing.")
    entries = []
    for group in sorted(groups, key=lambda g: -g.documents)[:SHOWN_GROUPS]:
        by = join(*(join(data(rule.name), " ", amount(rule.dropped), " ") for rule in group.by))
        few = "" if group.more else "so few that chance might do it"
        entries.append(tag("tr", tag("th", data(name_of(group)), scope="row"), tag("td", amount(group.documents)),
                           tag("td", by), tag("td", few)))  # fmt: skip
    head = tag("tr", *(tag("th", text, scope="col") for text in ("Group", "Documents", "By", "")))
    return tag("table", tag("thead", head), tag("tbody", *entries), class_="plain")


def _near_text(threshold: RuleThreshold) -> str:
    return (
        f"The documents nearest to {threshold.column} = {threshold.value:g}, on both sides. Those that another rule "
        "drops are left out."
    )


def _near(threshold: RuleThreshold) -> Html:
    head = tag("tr", *(tag("th", text, scope="col") for text in (threshold.column, "Verdict", "Document", "Begins")))
    rows = [_document(near) for near in (*reversed(threshold.below), *threshold.above)]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="plain words"), class_="scroll")


def _document(near: NearDocument) -> Html:
    verdict = data(near.verdict) if near.verdict else "kept"
    cells: list[Child] = [verdict, data(near.doc_id, 120), data(near.excerpt, 160)]
    return tag("tr", tag("th", f"{near.value:.5g}", scope="row"), *(tag("td", cell) for cell in cells))

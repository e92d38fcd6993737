"""An audit for a terminal: the worst finding first, and no value of the corpus that could act as markup."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assay.dashboard import numbers
from assay.dashboard.markup import visible
from assay.dashboard.text import bar, headed, table
from assay.schemas.audit import AuditReport, BlamedFeature, DimensionAudit, IdentityAudit, TermAudit

SHOWN_GROUPS = 6
SHOWN_TERMS = 10
_BAR = 12


def audit_text(report: AuditReport) -> RenderableType:
    """The audit for a rich console."""
    return Group(*_parts(report))


def _parts(report: AuditReport) -> Iterator[RenderableType]:
    for number, finding in enumerate(report.findings):
        mark = "! " if report.flagged else ""
        yield Text(mark + visible(finding, 600), style="bold" if number == 0 else "")
    decided = f"{numbers.count(report.documents)} documents, {numbers.count(report.undecided)} undecided"
    yield Text(
        visible(f"{report.tagger} {report.version} on {report.corpus}: {decided} · run {report.run}", 400), "dim"
    )
    if report.dimensions:
        yield from headed("What foretells it", _dimensions(report))
    for dimension in report.dimensions:
        yield from headed(visible(f"By {dimension.dimension}"), _groups(report, dimension))
    if report.identity is not None:
        yield from headed("Identity terms in neutral sentences", _identity(report, report.identity))
    for note in report.notes:
        yield Text(visible(note, 600), style="dim")


def _dimensions(report: AuditReport) -> Table:
    rows = [
        (flag(d.flagged), visible(d.dimension), bar(d.explained, _BAR), percent(d.explained), numbers.count(d.values))
        for d in report.dimensions
    ]
    tokens = [a for a in report.length if a.flagged] or report.length[:1]
    rows += [
        (flag(a.flagged), visible(f"tokens, {a.label}", 40), "", f"ρ {a.correlation.value:+.2f}", "") for a in tokens
    ]
    return table(("", "", "", "variance", "values"), rows, left=(0, 1, 2))


def _groups(report: AuditReport, dimension: DimensionAudit) -> Table:
    score = report.kind == "score"
    rows = []
    for g in dimension.groups[:SHOWN_GROUPS]:
        tagged = visible(g.value, 40) if score else f"{visible(g.value, 40)} → {visible(g.label, 24)}"
        passing = numbers.MISSING if g.passing is None else percent(g.passing)
        figures = (f"{g.mean:.3f}", f"{g.rest:.3f}", passing) if score else (percent(g.mean), percent(g.rest))
        rows.append(
            (flag(g.flagged), tagged, numbers.count(g.documents), *figures, f"{g.effect:+.2f}", blamed(g.features))
        )
    head = ("mean", "elsewhere", "passing") if score else ("share", "elsewhere")
    return table(("", "", "documents", *head, "effect", "features to blame"), rows, left=(0, 1, 5 + score + 1))


def _identity(report: AuditReport, identity: IdentityAudit) -> Table:
    score = report.kind == "score"
    rows = []
    for t in identity.terms[:SHOWN_TERMS]:
        shift = f"{t.shift.value:+.3f} {t.shift.low:+.3f} to {t.shift.high:+.3f}"
        passing = numbers.MISSING if t.passing is None else percent(t.passing)
        rows.append((flag(t.flagged), visible(term_name(t, score), 40), t.kind, shift, passing, blamed(t.features)))
    return table(("", "", "", "change, 95 % interval", "passing", "features to blame"), rows, left=(0, 1, 2, 5))


def term_name(term: TermAudit, score: bool) -> str:
    """A term, with the label that it moves and the language where it does so in one alone."""
    language = f" ({term.languages[0]})" if len(term.languages) < len(term.by_language) else ""
    return f"{term.term}{language}" if score else f"{term.term}{language} → {term.label}"


def flag(flagged: bool) -> str:
    """The mark of what is flagged."""
    return "!" if flagged else ""


def percent(share: float) -> str:
    """A share of 1 in percent, to a tenth."""
    return f"{100 * share:.1f} %"


def blamed(features: Sequence[BlamedFeature]) -> str:
    """The two features that push hardest, with tokens."""
    return "; ".join(
        f"{f.layer}:{f.feature} {' '.join(visible(token, 16) for token in f.tokens[:3])}".rstrip() for f in features[:2]
    )

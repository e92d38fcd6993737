"""The report for a terminal: tables with bars, in which no label of the corpus can act as markup or escape code."""

import io
from collections.abc import Iterable, Sequence
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from assay.dashboard import numbers
from assay.dashboard.markup import visible
from assay.dashboard.report import Report
from assay.schemas.composition import Composition, ScoreSummary, Share
from assay.schemas.statistics import SCORE_BINS

BAR = 24
SHOWN_LABELS = 16
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEIGHTS = " ▁▂▃▄▅▆▇█"


def as_text(report: Report, width: int = 100) -> str:
    """The report as plain text without escape codes, at most `width` columns wide."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as captured:
        console.print(renderable(report))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def renderable(report: Report) -> RenderableType:
    """The report for a rich console."""
    return Group(*_parts(report))


def bar(share: float, width: int = BAR) -> str:
    """A bar of `share` of the width, to an eighth of a character; a share above none shows at least one eighth."""
    eighths = min(round(share * width * 8), width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    whole, part = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[part] if part else "")


def _parts(report: Report) -> Iterable[RenderableType]:
    totals, composition = report.totals, report.composition
    yield Text(visible(report.title), style="bold")
    yield Text(visible(report.subject, 600), style="dim")
    yield Text(
        f"{numbers.exact(totals.rows_in)} rows = {numbers.exact(totals.rows_kept)} kept"
        f" + {numbers.exact(totals.rows_dropped)} dropped + {numbers.exact(totals.rows_quarantined)} quarantined"
        f" · {numbers.count(totals.tokens)} tokens"
    )
    if report.rules:
        yield from headed("Rules", _rules(report))
    if composition.domains:
        yield from headed("Domains", _shares(composition.domains, composition))
    if composition.languages:
        yield from headed("Languages", _shares(composition.languages, composition))
    for name, shares in composition.labels.items():
        yield from headed(visible(name), _shares(shares, composition))
    if composition.scores:
        yield from headed("Scores", _scores(composition.scores))
    if composition.by_domain:
        yield from headed("Mean score by domain", _by_domain(composition))
    if report.quarantine_reasons:
        yield from headed("Quarantine", _reasons(report))
    lines = [("corpus", report.corpus), *report.fingerprints.items()]
    lines += [(t.name, f"{t.axis} {t.kind} {t.version} {_figures(t.held_out)}".rstrip()) for t in report.taggers]
    if report.throughput:
        lines.append(("throughput", report.throughput))
    yield from headed("Made by", table(("", ""), [(visible(k), visible(v)) for k, v in lines], left=(0, 1)))
    for note in report.notes:
        yield Text(visible(note, 600), style="dim")


def headed(title: str, content: RenderableType) -> Iterable[RenderableType]:
    """A part of a report under its title."""
    yield Text("")
    yield Rule(Text(title, style="bold"), align="left", style="dim")
    yield content


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,), fold: Sequence[int] = (0,)
) -> Table:
    """Cells as plain text, so that none is markup; the columns in `left` are aligned so, the others right.

    Where there is no room, the columns in `fold` go on in a new line and the others are cut.
    """
    made = Table(box=None, pad_edge=False, show_header=any(head), header_style="dim")
    for index, name in enumerate(head):
        overflow: Literal["fold", "ellipsis"] = "fold" if index in fold else "ellipsis"
        made.add_column(Text(name), justify="left" if index in left else "right", overflow=overflow)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def _shares(shares: Sequence[Share], composition: Composition) -> Table:
    docs, tokens = max(composition.documents, 1), max(composition.tokens, 1)
    scale = max((s.docs / docs for s in shares), default=1) or 1
    rows = [(_name(s.label), s.docs, s.tokens) for s in shares[:SHOWN_LABELS]]
    rest = shares[SHOWN_LABELS:]
    if rest:
        rows.append((numbers.plural(len(rest), "other"), sum(s.docs for s in rest), sum(s.tokens for s in rest)))
    return table(
        ("", "documents", "", "", "tokens", ""),
        [
            (name, bar(n / docs / scale), numbers.count(n), numbers.percent(n, docs), numbers.count(t),
             numbers.percent(t, tokens))
            for name, n, t in rows
        ],
        left=(0, 1),
    )  # fmt: skip


def _scores(scores: Sequence[ScoreSummary]) -> Table:
    rows = [
        (visible(s.name), _sparkline(s), *(_two(s.quantiles.get(q)) for q in ("p05", "p50", "p95")),
         numbers.percent(s.half_or_more, s.decided), numbers.count(s.undecided))
        for s in scores
    ]  # fmt: skip
    return table(("", "0 … 1 (root scale)", "5 %", "median", "95 %", "≥ 0.5", "undecided"), rows, left=(0, 1))


def _by_domain(composition: Composition) -> Table:
    names = [score.name for score in composition.scores]
    mean = {(row.domain, row.score): row.mean for row in composition.by_domain}
    rows = [
        (_name(s.label), *(_two(mean[s.label, name]) for name in names)) for s in composition.domains[:SHOWN_LABELS]
    ]
    return table(("", *(visible(name) for name in names)), rows)


def _rules(report: Report) -> Table:
    left = total = report.totals.rows_kept + report.totals.rows_dropped
    rows = []
    for rule in report.rules:
        left -= rule.dropped
        figures = numbers.count(rule.dropped), numbers.percent(rule.dropped, total), numbers.count(left)
        rows.append((visible(rule.name), bar(left / max(total, 1)), *figures))
    return table(("", "left", "dropped", "", "left"), rows, left=(0, 1))


def _reasons(report: Report) -> Table:
    ordered = sorted(report.quarantine_reasons.items(), key=lambda item: (-item[1], item[0]))
    return table(("", "rows"), [(visible(reason), numbers.count(n)) for reason, n in ordered])


def _sparkline(score: ScoreSummary) -> str:
    step = SCORE_BINS // 16
    bands = [sum(score.docs[i : i + step]) for i in range(0, SCORE_BINS, step)]
    top = max(bands) or 1
    return "".join(_HEIGHTS[max(round(8 * (n / top) ** 0.5), 1) if n else 0] for n in bands)


def _figures(held_out: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3g}" for name, value in held_out.items())


def _name(label: str) -> str:
    return visible(label, 40) if label else "(undecided)"


def _two(value: float | None) -> str:
    return numbers.MISSING if value is None else f"{value:.2f}"

"""The audit of a curation for a terminal: who loses more than their share, to which rule, and what lies near a cut."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from assay.dashboard import numbers
from assay.dashboard.diff_text import feature_table, metric_name
from assay.dashboard.markup import visible
from assay.dashboard.text import table
from assay.schemas.loss import GroupLoss, LossReport, NearDocument, RuleThreshold

SHOWN_GROUPS = 16
SHOWN_FEATURES = 6


def loss_renderable(report: LossReport) -> RenderableType:
    """The audit for a rich console; no text of a corpus can act as markup or escape code."""
    return Group(*_parts(report))


def lift_gate_lines(report: LossReport, max_lift: float) -> list[str]:
    """What a gate on lift says: each group whose whole interval lies above it."""
    over = report.beyond(max_lift)
    head = (
        f"gate {max_lift:g}: {numbers.plural(len(over), 'group')} beyond it" if over else f"gate {max_lift:g}: passed"
    )
    return [head, *(f"  {name_of(g)}: lift {g.lift:.2f} ({g.low:.2f} to {g.high:.2f}), by {g.cause}" for g in over)]


def name_of(group: GroupLoss) -> str:
    """A group in words."""
    value = visible(group.value, 40) or "(undecided)"
    return value if group.kind == "length" else f"{metric_name(group.kind, group.metric)} {value}"


def _parts(report: LossReport) -> Iterable[RenderableType]:
    share = numbers.percent(report.dropped, report.documents)
    kept = report.documents - report.dropped
    yield Text(f"{visible(report.uri)} · dataset {visible(report.name)} · curation {report.fingerprint}")
    yield Text(
        f"{report.documents:,} documents = kept {kept:,} + dropped {report.dropped:,} ({share}): "
        + ", ".join(f"{visible(rule.name)} {rule.dropped:,}" for rule in report.rules)
    )
    more, less = [g for g in report.groups if g.more], [g for g in reversed(report.groups) if g.less]
    yield from _groups(
        f"loses more than its share, {share} (beyond chance; * the rule tests this itself)", more, report
    )
    yield from _groups("loses less than its share", less, report)
    gone = [g for g in report.groups if g.vanished]
    yield Text(f"\nvanished altogether: {'nothing' if not gone else ''}", style="bold")
    for group in sorted(gone, key=lambda g: -g.documents)[:SHOWN_GROUPS]:
        by = ", ".join(f"{visible(rule.name)} {rule.dropped:,}" for rule in group.by)
        few = "" if group.more else "; so few that chance might do it"
        yield Text(f"  {name_of(group)}: all {group.documents:,}, by {by}{few}")
    if len(gone) > SHOWN_GROUPS:
        yield Text(f"  and {len(gone) - SHOWN_GROUPS} more", style="dim")
    yield from _features(report)
    for threshold in report.thresholds:
        yield from _threshold(threshold)
    for note in report.notes:
        yield Text(f"\nnote: {visible(note, 600)}")


def _groups(title: str, groups: Sequence[GroupLoss], report: LossReport) -> Iterable[RenderableType]:
    yield Text(f"\n{title}{'' if groups else ': nothing'}", style="bold")
    if groups:
        head = ("", "documents", "dropped", "", "lift", "95 %", "mostly by")
        yield table(head, [_group_row(group, report) for group in groups[:SHOWN_GROUPS]], left=(0, 6))
    if len(groups) > SHOWN_GROUPS:
        yield Text(f"  and {len(groups) - SHOWN_GROUPS} more", style="dim")


def _group_row(group: GroupLoss, report: LossReport) -> Sequence[str]:
    of_cause = next((rule.dropped for rule in group.by if rule.name == group.cause), 0)
    asked = group.more and group.metric in report.tests.get(group.cause, ())
    return (
        f"  {name_of(group)}{' *' if asked else ''}",
        f"{group.documents:,}",
        f"{group.dropped:,}",
        numbers.percent(group.dropped, group.documents),
        f"{group.lift:.2f}",
        f"{group.low:.2f} to {group.high:.2f}",
        f"{visible(group.cause)} {of_cause:,}" if group.more and group.cause else "",
    )


def _features(report: LossReport) -> Iterable[RenderableType]:
    if not report.features:
        return
    dropped, kept = report.feature_documents
    yield Text(f"\nfeatures of {dropped:,} dropped (A) and {kept:,} kept (B) documents", style="bold")
    for layer in report.features:
        lost = [change for change in layer.changes if change.difference < 0][:SHOWN_FEATURES]
        yield Text(
            f"  layer {layer.layer}: {layer.fell:,} mark what is dropped, {layer.rose:,} what is kept", style="dim"
        )
        if lost:
            yield feature_table(lost)


def _threshold(threshold: RuleThreshold) -> Iterable[RenderableType]:
    yield Text(f"\nnear {visible(threshold.rule)}: {visible(threshold.column)} at {threshold.value:g}", style="bold")
    rows = [*(_near(near) for near in reversed(threshold.below)), *(_near(near) for near in threshold.above)]
    yield table(("  value", "verdict", "document", "begins"), rows, left=(0, 1, 2, 3), fold=(0, 2))


def _near(near: NearDocument) -> Sequence[str]:
    return f"  {near.value:.5g}", near.verdict or "kept", visible(near.doc_id, 80), visible(near.excerpt, 60)

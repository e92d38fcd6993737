"""Commands that compare: diff sets two corpora side by side, audit-recipe what a recipe kept and dropped."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from assay.flows.cli.console import FINDINGS, LOOK, OK, AsJson, app, message, print_lines, stdout, write_page

Subject = Annotated[str, Parameter(help="folder or URI of a store or of a curated dataset")]
_NOT_NEGATIVE = validators.Number(gte=0)


@app.command(group=LOOK)
def diff(
    a: Subject,
    b: Subject,
    *,
    run_a: Annotated[str | None, Parameter(help="run id, where store A holds several")] = None,
    run_b: Annotated[str | None, Parameter(help="run id, where store B holds several")] = None,
    max_drift: Annotated[
        float | None,
        Parameter(help="exit with 1 where a metric's PSI is above this and beyond chance", validator=_NOT_NEGATIVE),
    ] = None,
    common: Annotated[
        bool, Parameter(negative="", help="where taggers differ, compare what both sides have in common")
    ] = False,
    features: Annotated[
        int, Parameter(help="documents a side whose SAE features are compared; 0: none", validator=_NOT_NEGATIVE)
    ] = 100_000,
    html: Annotated[Path | None, Parameter(help="write one self-contained HTML file here")] = None,
    json: AsJson = False,
) -> int:
    """Show how B differs from A in tags, lengths and features, and what of it chance would give. Changes nothing."""
    from assay.dashboard.diff_page import drift_html
    from assay.dashboard.diff_text import drift_renderable, gate_lines
    from assay.flows.diff import diff as compare
    from assay.flows.diff import open_subject

    sides = open_subject(a, run_a), open_subject(b, run_b)
    report = compare(*sides, max_drift=max_drift, common=common, feature_documents=features)
    if html is not None:
        write_page(html, drift_html(report))
    if json:
        print_lines([report.model_dump_json(indent=1)])
    elif html is None:
        stdout().print(drift_renderable(report))
        print_lines(["", "next: assay explain STORE DOCUMENT shows where a document's features fired"])
    if gate := gate_lines(report):
        message("\n".join(gate))
    return FINDINGS if report.exceeded else OK


@app.command(group=LOOK)
def audit_recipe(
    dataset: Annotated[str, Parameter(help="folder or URI of a curated dataset")],
    *,
    max_lift: Annotated[
        float | None,
        Parameter(
            help="exit with 1 where a group surely loses more than this many times its share", validator=_NOT_NEGATIVE
        ),
    ] = None,
    features: Annotated[
        int, Parameter(help="documents whose SAE features are compared; 0: none", validator=_NOT_NEGATIVE)
    ] = 100_000,
    html: Annotated[Path | None, Parameter(help="write one self-contained HTML file here")] = None,
    json: AsJson = False,
) -> int:
    """Show of which domains, languages, lengths, scores and sources a recipe dropped more than its share, and why."""
    from assay.dashboard.loss_page import loss_html
    from assay.dashboard.loss_text import lift_gate_lines, loss_renderable
    from assay.flows.recipe_audit import audit_recipe as audit

    report = audit(dataset, feature_documents=features)
    if html is not None:
        write_page(html, loss_html(report))
    if json:
        print_lines([report.model_dump_json(indent=1)])
    elif html is None:
        stdout().print(loss_renderable(report))
        print_lines(
            ["", "next: change the recipe, then assay plan RECIPE; assay explain STORE DOCUMENT shows why a tag"]
        )
    if max_lift is None:
        return OK
    message("\n".join(lift_gate_lines(report, max_lift)))
    return FINDINGS if report.beyond(max_lift) else OK

"""Commands that tell what a tagger is worth and what it keys on: evidence, audit."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import FINDINGS, LOOK, OK, AsJson, Run, Store, app, print_lines, stdout, write_page

Html = Annotated[Path | None, Parameter(help="write one self-contained HTML file here")]


@app.command(group=LOOK)
def evidence(
    tagger: Annotated[Path, Parameter(help="tagger file (JSON)")], *, html: Html = None, json: AsJson = False
) -> int:
    """Show what a tagger is worth: held-out figures with intervals beside all baselines, slices and features."""
    from assay.dashboard.evidence_page import evidence_page
    from assay.dashboard.evidence_text import evidence_text
    from assay.dashboard.evidence_words import evidence_of, verdict
    from assay.schemas.tagger import load_tagger

    read = load_tagger(tagger)
    found = evidence_of(read)
    if html is not None:
        write_page(html, evidence_page(read))
    if json:
        print_lines([found.model_dump_json(indent=1)])
    elif html is not None:
        print_lines([verdict(found)])
    else:
        stdout().print(evidence_text(read))
    return OK


@app.command(group=LOOK)
def audit(
    store: Store,
    *,
    tagger: Annotated[str, Parameter(help="the tagger's name, as `assay report` lists it")],
    run: Run = None,
    by: Annotated[tuple[str, ...], Parameter(help="also look at this column of the corpus (repeatable)")] = (),
    identity: Annotated[
        bool | None, Parameter(help="run the model over neutral sentences; by default where its weights are here")
    ] = None,
    terms: Annotated[Path | None, Parameter(help="identity terms of your own (YAML)")] = None,
    device: Annotated[str | None, Parameter(help="cpu or cuda, for the identity terms")] = None,
    html: Html = None,
    json: AsJson = False,
) -> int:
    """Show what a tagger keys on: domains, languages, lengths, sources, identity terms, with the features to blame.

    Reads stored tags and features. Exits with 1 if something is flagged.
    """
    from assay.dashboard.audit_page import audit_page
    from assay.dashboard.audit_text import audit_text
    from assay.flows.audit import IDENTITY_TERMS, audit_tagger
    from assay.flows.output import require_place

    if html is not None:
        require_place(html)
    report = audit_tagger(
        store, tagger, run=run, by=by, identity=identity, terms=terms or IDENTITY_TERMS, device=device
    )
    if html is not None:
        write_page(html, audit_page(report))
    if json:
        print_lines([report.model_dump_json(indent=1)])
    elif html is not None:
        print_lines(list(report.findings))
    else:
        named = f" --run {run}" if run else ""
        stdout().print(audit_text(report))
        audited = f"assay audit {store}{named} --tagger {tagger}"
        print_lines(["", f"next: {audited} --html audit.html, or assay explain {store} DOC_ID{named}"])
    return FINDINGS if report.flagged else OK

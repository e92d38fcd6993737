"""Commands that look at what is there: status, report, explain."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import (
    FINDINGS,
    LOOK,
    OK,
    AsJson,
    Run,
    Store,
    app,
    message,
    print_lines,
    print_table,
    stdout,
)


@app.command(group=LOOK)
def status(store: Store, *, json: AsJson = False) -> int:
    """Show how far each run of a store is. Exits with 1 while one is unfinished or has unreadable shards."""
    import json as json_module

    from assay.flows.status import store_status

    runs = store_status(store)
    if json:
        print_lines([json_module.dumps([r.model_dump() for r in runs], indent=1)])
    else:
        print_table(
            ["run", "corpus", "shards", "state", "rows in", "kept", "quarantined", "tokens", "undecided"],
            [
                [
                    r.run,
                    r.corpus,
                    f"{r.shards_done:,}/{r.shards:,}",
                    _state(r.finished, r.unreadable_shards),
                    *(f"{n:,}" if r.finished else "–" for n in (r.rows_in, r.rows_kept, r.rows_quarantined, r.tokens)),
                    ", ".join(f"{name} {n:,}" for name, n in r.undecided.items()),
                ]
                for r in runs
            ],
        )
        if not all(r.finished for r in runs):
            print_lines(["unfinished: run the same `assay tag` again, and it does what is missing"])
    return OK if all(r.finished and not r.unreadable_shards for r in runs) else FINDINGS


@app.command(group=LOOK)
def report(
    store: Annotated[str, Parameter(help="folder or URI of a store or of a curated dataset")],
    *,
    run: Run = None,
    html: Annotated[Path | None, Parameter(help="write one self-contained HTML file here")] = None,
    json: AsJson = False,
) -> int:
    """Show what is in a tagged corpus or a curated dataset: as text, JSON, or one HTML file."""
    from assay.dashboard import as_html, as_json, renderable
    from assay.flows.report import build_report

    built = build_report(store, run)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(as_html(built), "utf-8")
        message(f"wrote {html}")
    if json:
        print_lines([as_json(built)])
    elif html is None:
        stdout().print(renderable(built))
    return OK


@app.command(group=LOOK)
def explain(
    store: Store,
    doc_id: Annotated[str, Parameter(help="the document's id", allow_leading_hyphen=True)],
    *,
    run: Run = None,
    device: Annotated[str | None, Parameter(help="cpu or cuda")] = None,
    json: AsJson = False,
    dolma: Annotated[bool, Parameter(negative="", help="print lines of a Dolma attributes file")] = False,
) -> int:
    """Show why a document got its tags: features, weights, and the places in the text where they fired."""
    import json as json_module

    from assay.flows import explanation as view
    from assay.flows.explain import explain as explanations

    for explanation in explanations(store, doc_id, run=run, device=device):
        if dolma:
            print_lines([json_module.dumps(view.as_dolma(explanation))])
        elif json:
            print_lines([json_module.dumps(explanation.model_dump(mode="json"), indent=1)])
        else:
            stdout().print(view.as_renderable(explanation))
    return OK


def _state(finished: bool, unreadable: int) -> str:
    if not finished:
        return "unfinished"
    return f"finished, {unreadable} unreadable" if unreadable else "finished"

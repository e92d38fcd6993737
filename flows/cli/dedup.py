"""The command that looks for copies: dedup."""

from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import OK, START, AsJson, Run, Store, app, print_lines
from assay.schemas.parameters import DedupOptions


@app.command(group=START)
def dedup(
    store: Store,
    *,
    output: Annotated[str, Parameter(name=["--output", "-o"], help="folder or URI for the result; made if absent")],
    run: Run = None,
    options: Annotated[DedupOptions | None, Parameter(name="*", negative="")] = None,
    json: AsJson = False,
) -> int:
    """List the copies in a tagged corpus: equal texts, near copies, the same in other words, benchmark text."""
    from assay.flows.dedup import find_copies, search_lines
    from assay.flows.engine import run_flow
    from assay.schemas.parameters import dedup_parameters

    report = run_flow(find_copies, dedup_parameters(store, run, output, options or DedupOptions()))
    if json:
        print_lines([report.manifest.model_dump_json(indent=1)])
        return OK
    lists = sum(1 for shard in report.manifest.shards if shard.copies)
    print_lines(
        [
            *search_lines(report),
            f"wrote {output}/manifest.json and {lists} list(s) below {output}/copies",
            f"next: read {output}/copies/*.parquet, or give a recipe the same under dedup:",
        ]
    )
    return OK

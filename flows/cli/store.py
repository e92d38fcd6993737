"""Commands that mend and tidy a store: retry, fsck, gc."""

from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import START, Run, Store, app, print_lines
from assay.schemas.parameters import WorkerOptions


@app.command(group=START)
def retry(
    store: Store,
    *,
    run: Run = None,
    quarantined: Annotated[
        bool, Parameter(negative="", help="also try documents again that broke their workers")
    ] = False,
    options: Annotated[WorkerOptions | None, Parameter(name="*")] = None,
) -> int:
    """Try again what a run gave up: shards that failed or could not be read. Needs the store and the corpus's files."""
    from assay.flows.cli.run import findings
    from assay.flows.engine import run_flow
    from assay.flows.retry import retry_run
    from assay.flows.tag import summary_lines
    from assay.schemas.parameters import RetryParameters

    given = options.model_dump() if options else {}
    report = run_flow(retry_run, RetryParameters(store=store, run=run, quarantined=quarantined, **given))
    print_lines([*summary_lines(report), f"next: assay report {store} --run {report.run}"])
    return findings(report.manifest)

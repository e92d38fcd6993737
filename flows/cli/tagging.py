"""Commands that work on a tagged store with its features: apply."""

from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import FINDINGS, OK, START, Run, Store, app, print_lines


@app.command(group=START)
def apply(
    store: Store,
    *,
    taggers: Annotated[str, Parameter(help="tagger file or folder to apply")],
    run: Run = None,
    workers: Annotated[int | None, Parameter(help="Ray actors; by default this process alone")] = None,
) -> int:
    """Apply taggers to a tagged corpus from its stored features: no model is loaded, and the corpus isn't read."""
    from assay.flows.apply import apply_lines, apply_taggers
    from assay.schemas.parameters import ApplyParameters

    report = apply_taggers(ApplyParameters(store=store, taggers=taggers, run=run, workers=workers))
    print_lines([*apply_lines(report), f"next: assay report {store} --run {report.manifest.run}"])
    return FINDINGS if report.manifest.unreadable_shards else OK

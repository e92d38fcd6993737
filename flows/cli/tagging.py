"""Commands that work on a tagged store with its features: apply, recompute."""

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


@app.command(group=START)
def recompute(
    store: Store,
    *,
    run: Run = None,
    workers: Annotated[int | None, Parameter(help="Ray actors; by default this process alone")] = None,
    device: Annotated[str | None, Parameter(help="cpu or cuda; by default the GPU if there is one")] = None,
    threads: Annotated[int | None, Parameter(help="CPU threads an actor")] = None,
) -> int:
    """Run the model on just the documents that a run left undecided, and write a run in which none is."""
    from assay.flows import recompute as recomputing
    from assay.schemas.parameters import RecomputeParameters

    parameters = RecomputeParameters(store=store, run=run, workers=workers, device=device, threads=threads)
    report = recomputing.recompute(parameters)
    print_lines([*recomputing.recompute_lines(report), f"next: assay report {store} --run {report.manifest.run}"])
    return FINDINGS if report.manifest.unreadable_shards else OK

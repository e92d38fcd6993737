"""Commands that work on a tagged store with its features: apply, recompute, calibrate."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import FINDINGS, OK, START, AsJson, Run, Store, app, print_lines
from assay.schemas.parameters import ApplyOptions, RecomputeOptions


@app.command(group=START)
def apply(store: Store, *, options: Annotated[ApplyOptions, Parameter(name="*")]) -> int:
    """Apply taggers to a tagged corpus from its stored features: no model is loaded, and the corpus isn't read."""
    from assay.flows.apply import apply_lines, apply_taggers
    from assay.schemas.parameters import ApplyParameters

    report = apply_taggers(ApplyParameters(store=store, **options.model_dump()))
    print_lines([*apply_lines(report), f"next: assay report {store} --run {report.manifest.run}"])
    return FINDINGS if report.manifest.unreadable_shards else OK


@app.command(group=START)
def recompute(store: Store, *, options: Annotated[RecomputeOptions | None, Parameter(name="*")] = None) -> int:
    """Run the model on just the documents that a run left undecided, and write a run in which none is."""
    from assay.flows import recompute as recomputing
    from assay.schemas.parameters import RecomputeParameters

    given = options.model_dump() if options else {}
    report = recomputing.recompute(RecomputeParameters(store=store, **given))
    print_lines([*recomputing.recompute_lines(report), f"next: assay report {store} --run {report.manifest.run}"])
    return FINDINGS if report.manifest.unreadable_shards else OK


@app.command(group=START)
def calibrate(
    store: Store,
    *,
    tagger: Annotated[str, Parameter(help="the tagger's name")],
    run: Run = None,
    share: Annotated[float | None, Parameter(help="share of all documents that are to be positive")] = None,
    fpr: Annotated[float | None, Parameter(help="share of negatives that may be positive by the tag")] = None,
    precision: Annotated[float | None, Parameter(help="share of positives by the tag that are to be so")] = None,
    labels: Annotated[Path | None, Parameter(help="JSONL or CSV with id and label of the sample's documents")] = None,
    overlay: Annotated[Path | None, Parameter(name=["--overlay", "-o"], help="file to write")] = None,
    sample: Annotated[int | None, Parameter(help="draw so many documents to label, stratified by score")] = None,
    sample_out: Annotated[Path | None, Parameter(help="JSONL file to write them to")] = None,
    json: AsJson = False,
) -> int:
    """Set a tagger's threshold on a tagged corpus, as an overlay beside the tagger, or draw a sample to label."""
    from pydantic import ValidationError

    from assay.flows import calibrate as calibrating
    from assay.schemas.errors import AssayError
    from assay.schemas.parameters import CalibrateParameters

    try:
        parameters = CalibrateParameters(
            store=store, tagger=tagger, run=run, share=share, fpr=fpr, precision=precision, labels=labels,
            overlay=overlay or Path(f"{tagger}.calibration.json"), sample=sample, sample_out=sample_out,
        )  # fmt: skip
    except ValidationError as e:
        raise AssayError(e.errors()[0]["msg"], hint="assay calibrate --help") from e
    report = calibrating.calibrate(parameters)
    if json and report.calibration:
        print_lines([report.calibration.model_dump_json(indent=1)])
    else:
        print_lines(calibrating.calibrate_lines(report, parameters))
    return OK

"""Commands that mend and tidy a store: retry, fsck, gc."""

from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import ABOUT, FINDINGS, OK, START, AsJson, Run, Store, app, message, print_lines
from assay.schemas.errors import AssayError
from assay.schemas.parameters import WorkerOptions

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
Checked = Annotated[str, Parameter(help="folder or URI of a store or of a curated dataset")]


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


@app.command(group=ABOUT)
def fsck(
    store: Checked,
    *,
    fix: Annotated[
        bool, Parameter(negative="", help="take away what is damaged, so that it is done again; nothing may run then")
    ] = False,
    json: AsJson = False,
) -> int:
    """Check every hash, row and sum of a store or a curated dataset. Exits with 1 if something is wrong."""
    from assay.flows.fsck import check_lines
    from assay.flows.fsck import fsck as check

    report = check(store, fix=fix, progress=message)
    print_lines([report.model_dump_json(indent=1)] if json else check_lines(report))
    return FINDINGS if report.problems else OK


@app.command(group=ABOUT)
def gc(
    store: Checked,
    *,
    older_than: Annotated[str, Parameter(help="age that makes an object old: a number with s, m, h, d or w")] = "7d",
    delete: Annotated[bool, Parameter(negative="", help="remove it; without this nothing is")] = False,
    json: AsJson = False,
) -> int:
    """List, or with --delete remove, what crashed attempts left and nothing names. Safe while runs go on."""
    from assay.flows.gc import gc as collect
    from assay.flows.gc import gc_lines

    garbage = collect(store, older_than_s=_seconds(older_than), delete=delete)
    print_lines([garbage.model_dump_json(indent=1)] if json else gc_lines(garbage))
    return OK


def _seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.replace(".", "", 1).isdecimal():
        raise AssayError(f"--older-than {text} is no age", hint="a number and a unit: 12h, 7d, 2w")
    return float(number) * _UNITS[unit]

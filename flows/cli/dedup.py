"""The command that looks for copies: dedup."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import OK, START, AsJson, Run, app, print_lines
from assay.schemas.errors import AssayError
from assay.schemas.parameters import DedupOptions, RayOptions


@app.command(group=START)
def dedup(
    subject: Annotated[str, Parameter(help="a store, or a recipe file (.yaml)")],
    *,
    output: Annotated[
        str | None, Parameter(name=["--output", "-o"], help="folder or URI for a store's result; made if absent")
    ] = None,
    run: Run = None,
    options: Annotated[DedupOptions | None, Parameter(name="*", negative="")] = None,
    json: AsJson = False,
) -> int:
    """List the copies in a tagged corpus: equal texts, near copies, the same in other words, benchmark text.

    For a recipe it does the search that its dedup: and decontaminate: ask for, so that `assay plan` can count them.
    """
    from assay.flows.dedup import find_copies, search_lines
    from assay.flows.engine import run_flow
    from assay.schemas.parameters import dedup_parameters

    options = options or DedupOptions()
    if subject.endswith((".yaml", ".yml")):
        from assay.flows.curate import search_copies
        from assay.flows.recipes import read_recipe
        from assay.schemas.parameters import CurateParameters

        where = options.model_dump(include=set(RayOptions.model_fields))
        if output is not None or run is not None or options != DedupOptions(**where):
            raise AssayError("a recipe says itself what to search", hint="change its dedup: and decontaminate:")
        recipe = read_recipe(Path(subject))
        report = run_flow(search_copies, CurateParameters(recipe=recipe, where=subject, **where))
        then = f"assay plan {subject}, then assay curate {subject}"
    else:
        if output is None:
            raise AssayError("--output is missing", hint="a folder or URI for the lists, such as -o copies")
        report = run_flow(find_copies, dedup_parameters(subject, run, output, options))
        then = f"read {report.path}/copies/*.parquet, or give a recipe the same under dedup:"
    if json:
        print_lines([report.manifest.model_dump_json(indent=1)])
        return OK
    lists = sum(1 for shard in report.manifest.shards if shard.copies)
    print_lines(
        [
            *search_lines(report),
            f"wrote {report.path}/manifest.json and {lists} list(s) below {report.path}/copies",
            f"next: {then}",
        ]
    )
    return OK

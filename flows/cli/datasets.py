"""Commands over a recipe: plan (which also forecasts a tagging) and curate."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from assay.flows.cli.console import FINDINGS, OK, START, AsJson, app, print_lines
from assay.schemas.errors import AssayError
from assay.schemas.parameters import RayOptions, TagOptions


@app.command(group=START)
def plan(
    subject: Annotated[str, Parameter(help="a corpus, or a recipe file (.yaml)")],
    *,
    options: Annotated[TagOptions | None, Parameter(name="*")] = None,
    json: AsJson = False,
) -> int:
    """Show what `tag` (for a corpus) or `curate` (for a recipe) would do and cost. Writes nothing."""
    from assay.flows import plan as forecasts
    from assay.schemas.parameters import CurateParameters, TagParameters

    forecast: Any
    if subject.endswith((".yaml", ".yml")):
        from assay.flows.curate import read_recipe

        path = Path(subject)
        forecast = forecasts.forecast_curation(CurateParameters(recipe=read_recipe(path), where=subject))
        lines = forecasts.curation_forecast_lines(forecast)
    else:
        if options is None:
            raise AssayError("--store is missing", hint="shards that the store already has are not done again")
        forecast = forecasts.forecast_tagging(TagParameters(corpus=subject, **options.model_dump()))
        lines = forecasts.tag_forecast_lines(forecast)
    print_lines([forecast.model_dump_json(indent=1)] if json else lines)
    return OK


@app.command(group=START)
def curate(
    recipe: Annotated[Path, Parameter(help="recipe file (YAML)")],
    *,
    options: Annotated[RayOptions | None, Parameter(name="*")] = None,
) -> int:
    """Write the curated dataset that a recipe describes. Run again, it does only what is missing."""
    from assay.flows.curate import curate as flow
    from assay.flows.curate import curation_lines, read_recipe, unreadable_shards
    from assay.flows.engine import run_flow
    from assay.schemas.parameters import CurateParameters

    given = options.model_dump() if options else {}
    report = run_flow(flow, CurateParameters(recipe=read_recipe(recipe), where=str(recipe), **given))
    print_lines([*curation_lines(report), f"next: {report.path}/README.md, or assay report {report.path}"])
    manifest = report.manifest
    return FINDINGS if unreadable_shards(manifest) or not manifest.kept.documents else OK

"""Commands over a recipe and its dataset: validate, plan (which also forecasts a tagging), curate and why."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from assay.flows.cli.console import FINDINGS, LOOK, OK, START, USAGE, AsJson, app, message, print_lines
from assay.schemas.errors import AssayError
from assay.schemas.parameters import RayOptions, TagOptions


@app.command(group=START)
def validate(
    recipe: Annotated[Path | None, Parameter(help="recipe file (YAML)")] = None,
    *,
    schema: Annotated[bool, Parameter(negative="", help="print the JSON Schema of a recipe, for editors")] = False,
    json: AsJson = False,
) -> int:
    """Check a recipe and name every mistake with file, line and column. Writes nothing."""
    import json as json_module

    if schema:
        from assay.schemas.recipe import recipe_schema

        print_lines([recipe_schema()])
        return OK
    if recipe is None:
        raise AssayError("give a recipe file, or --schema")
    from assay.flows.recipes import examine

    examined = examine(recipe)
    if json:
        found = {"mistakes": [m._asdict() for m in examined.mistakes], "not_checked": examined.not_done}
        print_lines([json_module.dumps(found, indent=1)])
        return USAGE if examined.mistakes else OK
    for reason in examined.not_done:
        message(f"not checked: {reason}")
    if examined.mistakes:
        raise examined.file.error(examined.mistakes)
    print_lines([f"{recipe}: no mistake found", f"next: assay plan {recipe}"])
    return OK


@app.command(group=START)
def plan(
    subject: Annotated[str, Parameter(help="a corpus, or a recipe file (.yaml)")],
    *,
    options: Annotated[TagOptions | None, Parameter(name="*")] = None,
    price: Annotated[float | None, Parameter(help="of a machine for an hour; a recipe's cost is worked out")] = None,
    json: AsJson = False,
) -> int:
    """Show what `tag` (for a corpus) or `curate` (for a recipe) would do and cost. Writes nothing."""
    from assay.flows import plan as forecasts
    from assay.schemas.parameters import CurateParameters, TagParameters

    forecast: Any
    if subject.endswith((".yaml", ".yml")):
        from assay.flows.recipes import read_recipe

        path = Path(subject)
        forecast = forecasts.forecast_curation(CurateParameters(recipe=read_recipe(path), where=subject), price)
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
    from assay.flows.curate import curation_lines, unreadable_shards
    from assay.flows.engine import run_flow
    from assay.flows.recipes import read_recipe
    from assay.schemas.parameters import CurateParameters

    given = options.model_dump() if options else {}
    report = run_flow(flow, CurateParameters(recipe=read_recipe(recipe), where=str(recipe), **given))
    print_lines([*curation_lines(report), f"next: {report.path}/README.md, or assay report {report.path}"])
    manifest = report.manifest
    return FINDINGS if unreadable_shards(manifest) or not manifest.kept.documents else OK


@app.command(group=LOOK)
def why(
    dataset: Annotated[str, Parameter(help="folder or URI of a curated dataset, or of all its versions")],
    doc_id: Annotated[str, Parameter(help="the document's id, as in assay_id")],
    *,
    json: AsJson = False,
) -> int:
    """Say why a document is in a curated dataset or not: the rule or stage, and the values that decided."""
    import json as json_module

    from assay.flows.why import answer_lines
    from assay.flows.why import why as answers_for

    answers = answers_for(dataset, doc_id)
    if json:
        print_lines([json_module.dumps([answer.model_dump() for answer in answers], indent=1)])
    else:
        print_lines([line for answer in answers for line in answer_lines(answer)])
    return OK

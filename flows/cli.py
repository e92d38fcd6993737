"""The command line. Heavy packages are imported inside the commands that use them."""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from assay.schemas.errors import AssayError, inert
from assay.schemas.parameters import RayOptions, TagOptions, TrainSaeParameters

OK, FINDINGS, USAGE, INTERRUPTED = 0, 1, 2, 130

START, LOOK, ABOUT = (Group(name, sort_key=i) for i, name in enumerate(["Run", "Look", "Check"]))

app = App(
    name="assay",
    suppress_keyboard_interrupt=False,
    version=lambda: version("assay"),
    help="""Weighs text corpora by what a Qwen model sees in them.

    `assay demo` shows all of it on text from this machine, in minutes. On your own text: `assay tag` gives each
    document quality, safety, domain and language tags read off SAE features, `assay curate` filters by them, and
    `assay report` shows what is in the corpus. CORPUS and STORE are local paths or URIs such as s3://bucket/prefix.

    Exit codes: 0 done, 1 done with findings (something was unreadable or failed a check), 2 wrong usage or input,
    130 interrupted. Every run can be interrupted and continued with the same command.
    """,
)

Store = Annotated[str, Parameter(help="folder or URI of the store")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="print JSON")]
Run = Annotated[str | None, Parameter(help="run id; needed where the store holds several runs")]


@app.command(group=START)
def demo(
    *,
    folder: Annotated[Path, Parameter(help="where everything is written")] = Path("assay-demo"),
    documents: Annotated[int, Parameter(help="documents in the corpus")] = 1200,
    workers: Annotated[int | None, Parameter(help="Ray actors; by default one a core")] = None,
) -> int:
    """Make a corpus from this machine's own text, tag it, curate it, and report on it."""
    from assay.flows.curate import curation_lines
    from assay.flows.demo import run_demo
    from assay.flows.tag import summary_lines

    done = run_demo(folder, documents, workers)
    _print_lines([*summary_lines(done.tagging), "", *curation_lines(done.curation), ""])
    _print_lines(
        [
            f"wrote {folder}/corpus, {folder}/store, {folder}/curated, {folder}/report.html",
            "next:",
            f"  assay report {folder}/store",
            f"  assay explain {folder}/store written/spam-en-04",
            f"  edit {folder}/recipe.yaml (a new output.path), then: assay plan {folder}/recipe.yaml",
        ]
    )
    return OK


@app.command(group=START)
def tag(
    corpus: Annotated[str, Parameter(help="file, folder, glob, URI or Hugging Face dataset id")],
    *,
    options: Annotated[TagOptions, Parameter(name="*")],
) -> int:
    """Tag every document of a corpus. Run again, it does only what is missing."""
    from assay.flows.engine import run_flow
    from assay.flows.tag import summary_lines, tag_corpus
    from assay.schemas.parameters import TagParameters

    report = run_flow(tag_corpus, TagParameters(corpus=corpus, **options.model_dump()))
    _print_lines([*summary_lines(report), f"next: assay report {options.store}"])
    return FINDINGS if report.manifest and report.manifest.unreadable_shards else OK


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
    _print_lines([*curation_lines(report), f"next: {report.path}/README.md, or assay report {report.path}"])
    manifest = report.manifest
    return FINDINGS if unreadable_shards(manifest) or not manifest.kept.documents else OK


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
    _print_lines([forecast.model_dump_json(indent=1)] if json else lines)
    return OK


@app.command(group=START)
def train_sae(
    *, parameters: Annotated[TrainSaeParameters, Parameter(name="*", consume_multiple=True, negative="")]
) -> int:
    """Train a TopK SAE for each of some layers of a backbone, and write a scope that tags with them."""
    from assay.flows.engine import run_flow
    from assay.flows.train_sae import train_sae as flow
    from assay.flows.train_sae import training_lines

    _print_lines(training_lines(run_flow(flow, parameters)))
    return OK


@app.command(group=LOOK)
def status(store: Store, *, json: AsJson = False) -> int:
    """Show how far each run of a store is. Exits with 1 while one is unfinished or has unreadable shards."""
    import json as json_module

    from assay.flows.status import store_status

    runs = store_status(store)
    if json:
        _print_lines([json_module.dumps([r.model_dump() for r in runs], indent=1)])
    else:
        _print_table(
            ["run", "corpus", "shards", "state", "rows in", "kept", "quarantined", "tokens"],
            [
                [
                    r.run,
                    r.corpus,
                    f"{r.shards_done:,}/{r.shards:,}",
                    _state(r.finished, r.unreadable_shards),
                    *(f"{n:,}" if r.finished else "–" for n in (r.rows_in, r.rows_kept, r.rows_quarantined, r.tokens)),
                ]
                for r in runs
            ],
        )
        if not all(r.finished for r in runs):
            _print_lines(["unfinished: run the same `assay tag` again, and it does what is missing"])
    return OK if all(r.finished and not r.unreadable_shards for r in runs) else FINDINGS


@app.command(group=LOOK)
def explain(
    store: Store,
    doc_id: Annotated[str, Parameter(help="the document's id", allow_leading_hyphen=True)],
    *,
    run: Run = None,
    device: Annotated[str | None, Parameter(help="cpu or cuda")] = None,
    json: AsJson = False,
) -> int:
    """Show why a document got its tags: features, weights, and the places in the text where they fired."""
    import json as json_module

    from assay.flows import explain as explanations

    for explanation in explanations.explain(store, doc_id, run=run, device=device):
        if json:
            _print_lines([json_module.dumps(explanation.model_dump(mode="json"), indent=1)])
        else:
            _stdout().print(explanations.as_renderable(explanation))
    return OK


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
        _message(f"wrote {html}")
    if json:
        _print_lines([as_json(built)])
    elif html is None:
        _stdout().print(renderable(built))
    return OK


@app.command(group=ABOUT)
def doctor(
    *,
    scope: Annotated[str, Parameter(help="the scope whose weights are checked")] = "embedded",
    store: Annotated[str | None, Parameter(help="also check this store")] = None,
    json: AsJson = False,
) -> int:
    """Check Python, torch, GPU, weights, Ray, Prefect and object storage, and say what to do."""
    import json as json_module

    from assay.flows.doctor import checkup

    found = []
    for check in checkup(scope, store):
        found.append(check)
        if not json:
            advice = f"\n       {check.advice}" if check.advice else ""
            _print_lines([f"{check.state:4}  {check.name:8} {check.found}{advice}"])
    if json:
        _print_lines([json_module.dumps([check.model_dump() for check in found], indent=1)])
    return FINDINGS if any(check.state == "fail" for check in found) else OK


@app.command(group=ABOUT)
def scopes(*, json: AsJson = False) -> int:
    """List the scopes that --scope knows: the embedded one and the published Qwen-Scope suites."""
    import json as json_module

    from assay.flows.scopes import load_scope, scope_names
    from assay.sae_runtime.suites import SUITES

    rows = []
    for name in scope_names():
        scope, suite = load_scope(name), SUITES.get(name)
        size = [suite.layers, suite.d_model, suite.d_sae, suite.k] if suite else ["", "", "", scope.k or ""]
        rows.append([name, scope.sae, scope.backbone, *size, " ".join(map(str, scope.layers))])
    head = ["scope", "sae", "backbone", "layers", "d_model", "d_sae", "k", "hooked"]
    if json:
        _print_lines([json_module.dumps([dict(zip(head, row, strict=True)) for row in rows], indent=1)])
    else:
        _print_table(head, [[str(cell) for cell in row] for row in rows])
    return OK


def main() -> None:
    """The `assay` command: errors that a user can mend are shown without a traceback (ASSAY_DEBUG=1 shows it)."""
    try:
        code = app(result_action="return_value")
    except AssayError as e:
        if os.environ.get("ASSAY_DEBUG"):
            raise
        _message(f"error: {e}")
        code = USAGE
    except KeyboardInterrupt:
        _message("interrupted; what is committed is kept, and the same command continues")
        code = INTERRUPTED
    sys.exit(code if isinstance(code, int) else OK)


def _stdout() -> Any:
    from rich.console import Console

    # A pipe has no width: a table that is cut to 80 columns there is no use to anyone.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140
    return Console(highlight=False, markup=False, emoji=False, width=width)


def _state(finished: bool, unreadable: int) -> str:
    if not finished:
        return "unfinished"
    return f"finished, {unreadable} unreadable" if unreadable else "finished"


def _print_lines(lines: list[str]) -> None:
    sys.stdout.write(inert("\n".join(lines), keep="\n") + "\n")
    sys.stdout.flush()


def _message(text: str) -> None:
    sys.stderr.write(inert(text, keep="\n") + "\n")


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold", no_wrap=name not in ("corpus", "backbone", "sae"))
    for row in rows:
        table.add_row(*(Text(inert(cell)) for cell in row))
    _stdout().print(table)

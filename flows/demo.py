"""The demo: a corpus from this machine's own text, tagged, curated and reported in one folder."""

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from assay.dashboard import as_html, as_json
from assay.flows.curate import CurateReport, curate
from assay.flows.demo_corpus import write_demo_corpus
from assay.flows.engine import run_flow
from assay.flows.progress import stderr
from assay.flows.recipes import read_recipe
from assay.flows.report import build_report
from assay.flows.tag import TagReport, tag_corpus
from assay.schemas.parameters import CurateParameters, TagParameters


class Demo(NamedTuple):
    """What the demo made."""

    folder: Path
    tagging: TagReport
    curation: CurateReport


def run_demo(folder: Path, documents: int, workers: int | None) -> Demo:
    """Writes corpus, store, curated dataset and reports under `folder`; run again, it does only what is missing."""
    say = stderr().print
    corpus = folder / "corpus"
    if not (corpus / "_complete").exists():
        made = write_demo_corpus(corpus, documents)
        (corpus / "_complete").touch()
        counts = ", ".join(f"{n:,} {source}" for source, n in made.counts.items())
        say(f"1. corpus from this machine's own text: {counts}; {made.broken} broken records planted")
    else:
        say(f"1. corpus is there already: {corpus}")
    say("2. tagging it with the embedded Qwen3 and its SAEs")
    store = folder / "store"
    tagging = run_flow(tag_corpus, TagParameters(corpus=str(corpus), store=str(store), id_column="id", workers=workers))
    say("3. curating it by the recipe")
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        ready = files("assay.configs").joinpath("recipes/demo.yaml").read_text("utf-8")
        named = ready.replace("  - store: assay-demo/store\n", f"  - store: {store}\n    run: {tagging.run}\n")
        recipe.write_text(named.replace("path: assay-demo/curated", f"path: {folder / 'curated'}"), "utf-8")
    parameters = CurateParameters(recipe=read_recipe(recipe), where=str(recipe), workers=workers)
    curation = run_flow(curate, parameters)
    say("4. reports")
    for name, place in (("report", store), ("curated-report", folder / "curated")):
        report = build_report(str(place), tagging.run if place == store else None)
        (folder / f"{name}.html").write_text(as_html(report), "utf-8")
        (folder / f"{name}.json").write_text(as_json(report), "utf-8")
    return Demo(folder, tagging, curation)

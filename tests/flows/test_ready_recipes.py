"""The recipes in configs/recipes hold on the embedded taggers: no mistake, and a plan that adds up."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from assay.flows import curate as flow
from assay.flows.recipes import examine, read_recipe
from assay.flows.tag import plan_shards, seal_run, tag_job
from assay.schemas.parameters import CurateParameters, TagParameters
from assay.workers.curating import ShardCurator
from assay.workers.tagging import ShardTagger
from tests.corpus_files import json_lines, write

RECIPES = sorted(path.name for path in Path(str(files("assay.configs"))).joinpath("recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty of the demo's written documents, tagged with the embedded scope."""
    folder = tmp_path_factory.mktemp("ready")
    lines = files("assay.flows").joinpath("demo_documents.jsonl").read_text("utf-8").splitlines()
    rows = [{"id": str(i), "text": json.loads(line)["text"]} for i, line in enumerate(lines[::5][:30])]
    write(folder / "corpus" / "a.jsonl", json_lines(rows))
    parameters = TagParameters(corpus=str(folder / "corpus"), store=str(folder / "store"), id_column="id")
    plan = plan_shards.fn(parameters)
    tagger = ShardTagger(tag_job(plan))
    for shard in plan.corpus.shards:
        tagger.process(shard, "attempt")
    seal_run.fn(plan)
    return folder / "store"


@pytest.mark.parametrize("name", RECIPES)
def test_a_ready_recipe_has_no_mistake_and_writes_what_it_plans(store: Path, tmp_path: Path, name: str) -> None:
    text = Path(str(files("assay.configs"))).joinpath("recipes", name).read_text("utf-8")
    path = tmp_path / name
    path.write_text(text.replace("assay-demo/store", str(store)).replace("assay-demo/", f"{tmp_path}/"), "utf-8")
    examined = examine(path)
    assert (examined.mistakes, examined.not_done) == ([], [])
    recipe = read_recipe(path)
    if recipe.mixture and recipe.mixture.total is None:
        # Among so few documents a listed value may be missing.
        mixture = recipe.mixture.model_copy(update={"total": 500})
        recipe = recipe.model_copy(update={"mixture": mixture})
    preview = flow.survey.fn(CurateParameters(recipe=recipe))
    flow.claim_output.fn(preview)
    curator = ShardCurator(preview.job, tuple(m.shards for m in preview.prepared.manifests))
    for unit in preview.shards:
        curator.process(unit, "attempt")
    manifest = flow.seal_dataset.fn(preview)
    assert manifest.rows_in == manifest.kept.documents + manifest.dropped.documents + manifest.rows_quarantined > 20

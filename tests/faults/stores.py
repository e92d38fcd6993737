"""Small stores and datasets written without Ray, by the workers' plain classes."""

from pathlib import Path

from assay.flows import curate
from assay.flows.tag import TagPlan, plan_shards, seal_run, tag_job
from assay.schemas.curation import CurationManifest
from assay.schemas.parameters import CurateParameters, TagParameters
from assay.schemas.recipe import Recipe
from assay.schemas.store import TagManifest
from assay.workers.curating import ShardCurator
from assay.workers.tagging import ShardTagger
from tests.flows.conftest import tag_parameters


def begin(corpus: Path, store: Path | str, scope: Path, **changes: object) -> TagPlan:
    """Plans a run and leaves its records in the store."""
    values: dict[str, object] = {"shard_mb": 1, **changes}
    parameters: TagParameters = tag_parameters(corpus, Path("store"), scope, **{**values, "store": str(store)})
    return plan_shards.fn(parameters)


def tag(plan: TagPlan, tagger: ShardTagger | None = None) -> TagManifest:
    """Tags what is missing of a plan and seals it."""
    tagger = tagger or ShardTagger(tag_job(plan))
    for number, shard in enumerate(plan.corpus.shards):
        tagger.process(shard, f"attempt-{number}")
    return seal_run.fn(plan)


def make_dataset(store: Path, out: Path) -> CurationManifest:
    """Curates a store's documents of 60 bytes and more."""
    recipe = {
        "name": "checked",
        "sources": [{"store": str(store)}],
        "rules": [{"name": "short", "reason": "short", "drop_if": "n_bytes < 60"}],
        "output": {"path": str(out), "shard_mb": 0.001, "dropped": True},
    }
    preview = curate.survey.fn(CurateParameters(recipe=Recipe.model_validate(recipe)))
    curate.claim_output.fn(preview)
    curator = ShardCurator(preview.job, tuple(manifest.shards for manifest in preview.prepared.manifests))
    for unit in preview.shards:
        curator.process(unit, "attempt")
    return curate.seal_dataset.fn(preview)

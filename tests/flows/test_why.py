"""`assay why`: the rule or stage that decided, and what it saw, from the dataset's files and the tags they name."""

import json
from pathlib import Path

import pytest

from assay.flows import curate as flow
from assay.flows.cli import OK, USAGE
from assay.schemas.curation import CurationManifest
from assay.schemas.parameters import CurateParameters
from assay.schemas.recipe import Recipe
from assay.workers.curating import ShardCurator
from tests.flows.conftest import Cli, Tagged


@pytest.fixture(scope="module")
def dataset(tagged: Tagged, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CurationManifest]:
    """A dataset by a rule, a sample and a mixture with repeats, written without Ray; dropped/ is not written."""
    out = tmp_path_factory.mktemp("why") / "out"
    recipe = Recipe.model_validate(
        {
            "name": "why",
            "sources": [{"store": str(tagged.store), "name": "web"}],
            "rules": [
                {"name": "short", "reason": "too short", "drop_if": "n_tokens < 60 and feature(3, 5) >= 0"},
                {"name": "poor", "reason": "poor", "drop_if": 'quality < 0.2 and domain != "code"'},
            ],
            "sample": {"fraction": 0.7},
            "mixture": {
                "by": "domain", "shares": {"code": 0.5, "news": 0.5}, "unit": "documents", "max_repeat": 3, "total": 40,
            },
            "output": {"path": str(out)},
        }
    )  # fmt: skip
    preview = flow.survey.fn(CurateParameters(recipe=recipe))
    flow.claim_output.fn(preview)
    curator = ShardCurator(preview.job, tuple(m.shards for m in preview.prepared.manifests))
    for unit in preview.shards:
        curator.process(unit, "attempt")
    return out, flow.seal_dataset.fn(preview)


def test_every_document_is_told_what_really_happened_to_it(
    dataset: tuple[Path, CurationManifest], tagged: Tagged, cli: Cli
) -> None:
    out, manifest = dataset
    verdicts: dict[str, int] = {}
    for doc_id in list(tagged.corpus.documents)[:25]:
        ran = cli("why", out, doc_id, "--json")
        assert ran.code == OK, ran.err
        (answer,) = json.loads(ran.out)
        assert answer["doc_id"] == doc_id
        verdicts[answer["verdict"]] = verdicts.get(answer["verdict"], 0) + 1
        rules = {rule["name"]: rule for rule in answer["rules"]}
        tokens = int(rules["short"]["values"]["n_tokens"])
        assert (rules["short"]["holds"] == "true") == (tokens < 60)
        assert (answer["verdict"] == "short") == (tokens < 60)
        assert (answer["copies"] > 0) == (answer["verdict"] == "kept")
        for stage in answer["stages"]:
            more = stage["cut"] is not None and stage["key"] <= stage["cut"]
            assert stage["copies"] == stage["whole"] + more
        if answer["verdict"] in ("sample", "mixture"):
            assert answer["stages"][-1]["name"] == answer["verdict"]
            assert answer["stages"][-1]["copies"] == 0
    assert {"short", "sample", "kept"} <= set(verdicts)
    assert manifest.kept.documents > 0


def test_the_answer_reads_well_and_an_unknown_id_says_what_it_may_mean(
    dataset: tuple[Path, CurationManifest], tagged: Tagged, cli: Cli, tmp_path: Path
) -> None:
    out, _ = dataset
    ran = cli("why", out, next(iter(tagged.corpus.documents)))
    assert "  rule short is " in ran.out
    assert "    n_tokens = " in ran.out
    assert "feature(3, 5) = " in ran.out
    missing = cli("why", out, "nobody")
    assert missing.code == USAGE
    assert "no document 'nobody' in what this dataset was made from" in missing.err
    assert "no curated dataset here" in cli("why", tmp_path, "nobody").err

"""`assay audit-recipe` on a real dataset: adds up to the manifest, and shows the documents beside each threshold."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.flows.cli import FINDINGS, OK, USAGE
from assay.flows.curate import curate
from assay.flows.engine import run_flow
from assay.flows.recipes import read_recipe
from assay.schemas.curation import CurationManifest
from assay.schemas.parameters import CurateParameters
from tests.flows.conftest import Cli, Tagged
from tests.flows.test_curate import tags_of, write_recipe
from tests.flows.test_report import UNSEEN


@pytest.fixture(scope="module")
def dataset(
    tagged: Tagged, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CurationManifest]:
    """A dataset by the rules short and news-toxic."""
    folder = tmp_path_factory.mktemp("audited")
    recipe = write_recipe(folder / "recipe.yaml", tagged.store, folder / "out")
    made = run_flow(curate, CurateParameters(recipe=read_recipe(recipe), where=str(recipe), workers=1))
    return folder / "out", made.manifest


def audit(cli: Cli, *arguments: object) -> dict[str, Any]:
    ran = cli("audit-recipe", *arguments, "--json")
    assert ran.code == OK, ran.err
    return json.loads(ran.out)


def test_every_number_of_an_audit_is_that_of_the_manifest_and_the_tags(
    dataset: tuple[Path, CurationManifest], tagged: Tagged, cli: Cli
) -> None:
    out, manifest = dataset
    report = audit(cli, out)
    assert report["documents"] == manifest.kept.documents + manifest.dropped.documents
    assert report["dropped"] == manifest.dropped.documents
    by_rule = {rule["name"]: rule["dropped"] for rule in report["rules"]}
    assert by_rule == {rule.name: rule.dropped.documents for rule in manifest.rules}
    tags = tags_of(tagged)
    lost = pl.col("rule").is_not_null().sum().alias("lost")
    domains = tags.group_by(pl.col("domain").fill_null("")).agg(pl.len(), lost).rows()
    groups = [group for group in report["groups"] if group["metric"] == "domain"]
    assert {(g["value"], g["documents"], g["dropped"]) for g in groups} == set(domains)
    short = [g for g in report["groups"] if g["metric"] == "tokens" and g["value"] == "16 to 31 tokens"]
    assert all(g["documents"] == g["dropped"] and g["cause"] == "short" for g in short)
    assert sum(report["feature_documents"]) == report["documents"]


def test_the_documents_beside_a_threshold_are_the_nearest_ones_with_their_text(
    dataset: tuple[Path, CurationManifest], tagged: Tagged, cli: Cli
) -> None:
    thresholds = audit(cli, dataset[0])["thresholds"]
    assert {(t["rule"], t["column"], t["value"]) for t in thresholds} == {
        ("short", "n_tokens", 60.0), ("news-toxic", "toxicity", 0.5),
    }  # fmt: skip
    lengths = next(t for t in thresholds if t["column"] == "n_tokens")
    tags = tags_of(tagged).filter(pl.col("rule").is_null() | (pl.col("rule") == "short"))
    below = tags.filter(pl.col("n_tokens") < 60).sort("n_tokens", descending=True, maintain_order=True)
    assert [near["value"] for near in lengths["below"]] == below["n_tokens"].head(3).to_list()
    for near in (*lengths["below"], *lengths["above"]):
        assert near["verdict"] == ("short" if near["value"] < 60 else "")
        text = " ".join(tagged.corpus.documents[near["doc_id"]].split())
        assert near["excerpt"] and text.startswith(near["excerpt"][:20])


def test_a_gate_on_lift_names_the_groups_and_the_rule(dataset: tuple[Path, CurationManifest], cli: Cli) -> None:
    ran = cli("audit-recipe", dataset[0], "--max-lift", 1)
    assert ran.code == FINDINGS
    assert "beyond it" in ran.err and "by short" in ran.err
    assert cli("audit-recipe", dataset[0], "--max-lift", 100).code == OK
    shown = cli("audit-recipe", dataset[0])
    assert shown.code == OK and not UNSEEN.search(shown.out)
    page = dataset[0].parent / "audit.html"
    assert cli("audit-recipe", dataset[0], "--html", page).out == ""
    html = page.read_text("utf-8")
    assert "<script" not in html and "default-src &#x27;none&#x27;" in html and not UNSEEN.search(html)
    assert "vanished altogether" in shown.out and "near short: n_tokens at 60" in shown.out


def test_stages_after_the_rules_and_repeats_are_counted_too(
    tagged: Tagged, ray_cluster: None, cli: Cli, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path / "recipe.yaml", tagged.store, tmp_path / "out")
    stages = "sample: {fraction: 0.8}\nmixture: {by: domain, shares: {code: 0.5, news: 0.5}, max_repeat: 3}\n"
    path.write_text(path.read_text("utf-8") + stages, "utf-8")
    manifest = run_flow(curate, CurateParameters(recipe=read_recipe(path), where=str(path), workers=1)).manifest
    report = audit(cli, tmp_path / "out")
    by_rule = {rule["name"]: rule["dropped"] for rule in report["rules"]}
    assert by_rule["sample"] > 0 and by_rule["mixture"] > 0
    assert by_rule == {part.name: part.dropped.documents for part in (*manifest.rules, *manifest.stages)}
    shop = next(g for g in report["groups"] if (g["metric"], g["value"]) == ("domain", "shop"))
    assert shop["dropped"] == shop["documents"] and shop["cause"] == "mixture"
    beside = json.loads(cli("diff", tagged.store, tmp_path / "out", "--json").out)
    assert manifest.repeated.documents > 0
    assert beside["b"]["documents"] == manifest.kept.documents + manifest.repeated.documents
    assert beside["features"]["documents"][1] == beside["b"]["documents"]
    assert any("more than once" in note for note in beside["notes"])


def test_a_store_is_no_dataset_and_a_changed_store_is_said(
    dataset: tuple[Path, CurationManifest], tagged: Tagged, cli: Cli, tmp_path: Path
) -> None:
    ran = cli("audit-recipe", tagged.store)
    assert ran.code == USAGE and "no curated dataset here" in ran.err
    record = json.loads((dataset[0] / "manifest.json").read_text())
    record["rules"][0]["dropped"]["documents"] += 1
    copy = tmp_path / "copy"
    (copy / "_assay" / "statistics").mkdir(parents=True)
    for path in (dataset[0] / "_assay" / "statistics").iterdir():
        (copy / "_assay" / "statistics" / path.name).write_bytes(path.read_bytes())
    (copy / "manifest.json").write_text(json.dumps(record))
    ran = cli("audit-recipe", copy)
    assert ran.code == USAGE and "curate again" in ran.err

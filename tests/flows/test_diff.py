"""`assay diff` on real stores and datasets: true to the tags, quiet where nothing changed, a gate where it did."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.flows.cli import FINDINGS, OK, USAGE
from assay.flows.curate import curate
from assay.flows.engine import run_flow
from assay.flows.recipes import read_recipe
from assay.flows.tag import plan_shards, seal_run, tag_job
from assay.schemas.parameters import CurateParameters
from assay.schemas.store import TagManifest
from assay.schemas.tagger import load_tagger
from assay.workers.tagging import ShardTagger
from tests.flows.conftest import LAYERS, Cli, Tagged, tag_parameters
from tests.flows.corpora import document
from tests.flows.test_report import UNSEEN

CODE = "def main(): return 42 price $9.99 <b>now</b> "


def tag(folder: Path, texts: Iterable[str], scope: Path) -> TagManifest:
    """Tags these texts into folder/store, in this process."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    lines = [json.dumps({"id": f"{folder.name}-{n}", "text": text}) for n, text in enumerate(texts)]
    (corpus / "a.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    plan = plan_shards.fn(tag_parameters(corpus, folder / "store", scope))
    tagger = ShardTagger(tag_job(plan))
    for number, shard in enumerate(plan.corpus.shards):
        tagger.process(shard, f"attempt-{number}")
    return seal_run.fn(plan)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, tiny_scope: Path) -> dict[str, Path]:
    """monday and tuesday are alike; wednesday has much code; other is monday with another quality tagger."""
    folder = tmp_path_factory.mktemp("nights")
    texts = {
        "monday": [document(n) for n in range(1000, 1150)],
        "tuesday": [document(n) for n in range(2000, 2140)],
        "wednesday": [CODE * (1 + n % 4) if n % 3 else document(3000 + n) for n in range(150)],
    }
    for night, of_night in texts.items():
        tag(folder / night, of_night, tiny_scope)
    taggers = folder / "taggers"
    taggers.mkdir()
    for path in (tiny_scope.parent / "taggers").glob("*.json"):
        (taggers / path.name).write_bytes(path.read_bytes())
    quality = load_tagger(taggers / "quality.json")
    (taggers / "quality.json").write_text(quality.model_copy(update={"bias": (quality.bias[0] + 1,)}).model_dump_json())
    scope = folder / "other.yaml"
    scope.write_text(re.sub(r"taggers: .*", f"taggers: {taggers}", tiny_scope.read_text()))
    tag(folder / "other", texts["monday"], scope)
    return {night: folder / night / "store" for night in (*texts, "other")}


def raw(store: Path, role: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(store.glob(f"{role}/*/data/*.parquet"))])


def diff(cli: Cli, *arguments: object) -> dict[str, Any]:
    ran = cli("diff", *arguments, "--json")
    assert ran.code in (OK, FINDINGS), ran.err
    return json.loads(ran.out)


def test_nights_that_are_alike_pass_the_gate(stores: dict[str, Path], cli: Cli) -> None:
    ran = cli("diff", stores["monday"], stores["tuesday"], "--max-drift", 0.05)
    assert ran.code == OK, ran.out
    assert "gate 0.05: passed" in ran.err
    assert "drift" not in ran.out.replace("drifted", "") and "noise: chance gives as much" in ran.out


def test_a_store_beside_itself_differs_by_nothing(stores: dict[str, Path], cli: Cli) -> None:
    ran = cli("diff", stores["monday"], stores["monday"], "--max-drift", 0)
    assert (ran.code, ran.err.strip()) == (OK, "gate 0: passed")
    report = diff(cli, stores["monday"], stores["monday"])
    assert all(m[by]["psi"] == 0 for m in report["metrics"] for by in ("documents", "tokens"))
    assert all(layer["rose"] == layer["fell"] == 0 for layer in report["features"]["layers"])
    assert all(layer["overlap"]["smaller"] == 1 for layer in report["features"]["layers"])


def test_a_night_that_shifted_fails_the_gate_which_names_the_metric_and_by_how_much(
    stores: dict[str, Path], cli: Cli
) -> None:
    ran = cli("diff", stores["monday"], stores["wednesday"], "--max-drift", 0.25)
    assert ran.code == FINDINGS
    report = diff(cli, stores["monday"], stores["wednesday"])
    worst = report["metrics"][0]
    by = max(("documents", "tokens"), key=lambda by: worst[by]["psi"])
    psi = worst[by]["psi"]
    assert f"{worst['metric']} by {by}: PSI {psi:.3f} is {psi - 0.25:.3f} over" in ran.err
    assert "metrics beyond it" in ran.err
    order = [max(m["documents"]["psi"], m["tokens"]["psi"]) for m in report["metrics"]]
    assert order == sorted(order, reverse=True)
    assert cli("diff", stores["monday"], stores["wednesday"], "--max-drift", 1e6).code == OK
    assert cli("diff", stores["monday"], stores["wednesday"]).code == OK  # without a gate, no finding


def test_every_count_of_a_comparison_is_that_of_the_raw_tags(stores: dict[str, Path], cli: Cli) -> None:
    report = diff(cli, stores["monday"], stores["wednesday"])
    metrics = {metric["metric"]: metric for metric in report["metrics"]}
    for side, night in enumerate(("monday", "wednesday")):
        tags = raw(stores[night], "tags")
        assert report["ab"[side]]["documents"] == tags.height
        assert report["ab"[side]]["tokens"] == tags["n_tokens"].sum()
        domains = tags.group_by(pl.col("domain").fill_null("")).agg(pl.len(), pl.col("n_tokens").sum())
        held = {(c["value"], c["docs"][side], c["tokens"][side]) for c in metrics["domain"]["changes"]}
        assert {row for row in held if row[1]} == set(domains.rows())
        for score in ("quality", "toxicity"):
            for change in metrics[score]["changes"]:
                low, high = (float(x) for x in change["value"].split(" to ")) if change["value"] else (-1, -1)
                inside = (pl.col(score) >= low) & ((pl.col(score) < high) | (high == 1)) if change["value"] else None
                found = tags.filter(pl.col(score).is_null() if inside is None else inside)
                assert (change["docs"][side], change["tokens"][side]) == (found.height, found["n_tokens"].sum())
        features = raw(stores[night], "features")
        for layer in report["features"]["layers"]:
            stored = features[f"l{layer['layer']}_ids"].explode(empty_as_null=False).value_counts()
            of_feature = dict(stored.rows())
            for change in layer["changes"]:
                assert change["share"][side] == of_feature.get(change["feature"], 0) / features.height
            assert layer["overlap"]["features"][side] == len(of_feature)
    assert sum(layer["rose"] for layer in report["features"]["layers"]) > 0


def test_the_example_of_a_feature_is_the_document_that_it_fires_most_in(stores: dict[str, Path], cli: Cli) -> None:
    features = {n: raw(stores[n], "features") for n in ("monday", "wednesday")}
    for layer in diff(cli, stores["monday"], stores["wednesday"])["features"]["layers"]:
        for change in layer["changes"]:
            frame = features["wednesday" if change["difference"] > 0 else "monday"]
            name = f"l{layer['layer']}"
            long = frame.select("doc_id", f"{name}_ids", f"{name}_max").explode(f"{name}_ids", f"{name}_max")
            of_it = long.filter(pl.col(f"{name}_ids") == change["feature"])
            assert change["example"] in of_it.filter(pl.col(f"{name}_max") == of_it[f"{name}_max"].max())["doc_id"]


def test_other_taggers_are_an_error_that_says_what_can_still_be_compared(stores: dict[str, Path], cli: Cli) -> None:
    ran = cli("diff", stores["monday"], stores["other"])
    assert ran.code == USAGE
    assert "tagged by different taggers" in ran.err
    assert "(lengths, domain, toxicity) with --common" in ran.err
    report = diff(cli, stores["monday"], stores["other"], "--common", "--max-drift", 0)
    assert {metric["metric"] for metric in report["metrics"]} == {"tokens", "domain", "toxicity"}
    assert all(metric["documents"]["psi"] == 0 for metric in report["metrics"])
    assert any("quality" in note for note in report["notes"])


def test_a_dataset_beside_its_source_adds_up_to_both_manifests(
    tagged: Tagged, ray_cluster: None, cli: Cli, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    rule = "{name: short, reason: short, drop_if: n_tokens < 60}"
    recipe.write_text(
        f"name: x\nsources:\n  - store: {tagged.store}\nrules:\n  - {rule}\noutput:\n  path: {tmp_path / 'out'}\n"
    )
    manifest = run_flow(curate, CurateParameters(recipe=read_recipe(recipe), workers=1)).manifest
    report = diff(cli, tagged.store, tmp_path / "out")
    assert report["b"]["documents"] == manifest.kept.documents == report["features"]["documents"][1]
    assert report["b"]["tokens"] == manifest.kept.tokens
    lengths = next(metric for metric in report["metrics"] if metric["metric"] == "tokens")
    assert all(c["docs"][1] == 0 for c in lengths["changes"] if c["value"] in ("1 token", "8 to 15 tokens"))
    kept = raw(tagged.store, "features").filter(pl.col("n_tokens") >= 60)
    for layer in report["features"]["layers"]:
        of_feature = dict(kept[f"l{layer['layer']}_ids"].explode(empty_as_null=False).value_counts().rows())
        assert layer["overlap"]["features"][1] == len(of_feature)
        assert all(c["share"][1] == of_feature.get(c["feature"], 0) / kept.height for c in layer["changes"])
    assert any("share documents" in note for note in report["notes"])


def test_without_a_document_there_is_nothing_to_compare(
    stores: dict[str, Path], tiny_scope: Path, cli: Cli, tmp_path: Path
) -> None:
    tag(tmp_path / "empty", [" "], tiny_scope)
    ran = cli("diff", stores["monday"], tmp_path / "empty" / "store")
    assert ran.code == USAGE
    assert "there is no document in it to compare" in ran.err
    assert "no Assay store here" in cli("diff", stores["monday"], tmp_path / "none").err


def test_nothing_of_a_comparison_can_act_on_a_terminal_or_a_page(
    tagged: Tagged, stores: dict[str, Path], cli: Cli, tmp_path: Path
) -> None:
    page = tmp_path / "deep" / "drift.html"
    ran = cli("diff", tagged.store, stores["wednesday"], "--html", page)
    assert (ran.code, ran.out) == (OK, "")
    html = page.read_text("utf-8")
    assert "<script" not in html and "default-src &#x27;none&#x27;" in html
    assert not UNSEEN.search(html)
    shown = cli("diff", tagged.store, stores["wednesday"])
    assert not UNSEEN.search(shown.out)
    assert f"layer {LAYERS[0]}:" in shown.out
    assert cli("diff", tagged.store, stores["wednesday"], "--features", 0).out.count("layer") == 0


def test_a_sample_of_shards_is_said_to_be_one_and_is_the_same_every_time(stores: dict[str, Path], cli: Cli) -> None:
    once, again = (diff(cli, stores["monday"], stores["wednesday"], "--features", 40) for _ in range(2))
    assert once == again
    read, there = once["features"]["shards"], once["features"]["shards_in_all"]
    assert all(1 < n < m for n, m in zip(read, there, strict=True))
    assert all(n >= 40 for n in once["features"]["documents"])
    assert (
        f"a sample: {read[0]} of {there[0]}" in cli("diff", stores["monday"], stores["wednesday"], "--features", 40).out
    )
    whole = diff(cli, stores["monday"], stores["wednesday"])
    width = [
        max(
            (change["high"] - change["low"] for layer in report["features"]["layers"] for change in layer["changes"]),
            default=9,
        )
        for report in (once, whole)
    ]
    assert width[0] > width[1]

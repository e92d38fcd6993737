"""What is shown of a store equals what its raw objects hold, and no text of a corpus can act on a terminal."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.flows.cli import FINDINGS, OK, USAGE
from assay.flows.curate import curate
from assay.flows.engine import run_flow
from assay.schemas.curation import CurationManifest
from assay.schemas.parameters import CurateParameters
from assay.schemas.tagger import load_taggers
from tests.flows.conftest import Cli, Tagged
from tests.flows.corpora import HOSTILE_ID, HOSTILE_TEXT

UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def objects(tagged: Tagged, role: str) -> pl.DataFrame:
    manifest = tagged.report.manifest
    assert manifest is not None
    keys = [entry.objects[role].key for entry in manifest.shards if not entry.unreadable]
    return pl.concat([pl.read_parquet(tagged.store / key) for key in keys])


def check_composition(composition: dict[str, Any], tags: pl.DataFrame) -> None:
    """Every exact number of a composition against the tags themselves."""
    assert composition["documents"] == tags.height
    assert composition["tokens"] == tags["n_tokens"].sum()
    shares = tags.group_by("domain").agg(pl.len(), pl.col("n_tokens").sum())
    assert {(s["label"], s["docs"], s["tokens"]) for s in composition["domains"]} == set(shares.rows())
    for score in composition["scores"]:
        values = tags[score["name"]].cast(pl.Float64)
        bins = (values * 64).floor().clip(0, 63).cast(pl.Int64).to_list()
        assert score["docs"] == [bins.count(n) for n in range(64)]
        assert score["half_or_more"] == (values >= 0.5).sum()
        assert abs(score["mean"] - values.mean()) <= 0.5 / 64
        for name, q in (("p05", 0.05), ("p50", 0.5), ("p95", 0.95)):
            assert abs(score["quantiles"][name] - values.sort()[math.ceil(q * values.len()) - 1]) <= 1 / 64
        for row in composition["by_domain"]:
            if row["score"] == score["name"]:
                of_domain = values.filter(tags["domain"] == row["domain"])
                assert sum(row["docs"]) == of_domain.len()
                assert row["half_or_more"] == (of_domain >= 0.5).sum()
    for length in composition["lengths"]:
        inside = tags.filter((pl.col("n_tokens") >= length["first"]) & (pl.col("n_tokens") < length["next"]))
        assert (length["docs"], length["tokens"]) == (inside.height, inside["n_tokens"].sum())
    assert sum(length["docs"] for length in composition["lengths"]) == tags.height


def test_the_numbers_of_a_report_are_those_of_the_tags(tagged: Tagged, cli: Cli) -> None:
    ran = cli("report", tagged.store, "--json")
    assert ran.code == OK, ran.err
    report = json.loads(ran.out)
    manifest = tagged.report.manifest
    assert manifest is not None
    assert report["totals"] == {
        "rows_in": manifest.rows_in,
        "rows_kept": len(tagged.corpus.documents),
        "rows_dropped": 0,
        "rows_quarantined": manifest.rows_quarantined,
        "tokens": manifest.tokens,
    }
    assert report["quarantine_reasons"] == manifest.quarantine_reasons
    assert "1 shards could not be read" in " ".join(report["notes"])
    check_composition(report["composition"], objects(tagged, "tags"))


def test_a_report_is_one_html_file_or_plain_text(tagged: Tagged, cli: Cli, tmp_path: Path) -> None:
    ran = cli("report", tagged.store, "--html", tmp_path / "deep" / "report.html")
    assert (ran.code, ran.out) == (OK, "")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.html"]
    page = (tmp_path / "deep" / "report.html").read_text("utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert not re.findall(r"<script|<link|<img|https?://(?!www\.w3\.org)", page)
    manifest = tagged.report.manifest
    assert manifest is not None
    assert f"{manifest.rows_in:,}" in page
    text = cli("report", tagged.store)
    assert text.code == OK
    assert f"{manifest.rows_in} rows = {manifest.rows_kept} kept" in text.out


def test_a_curated_dataset_has_a_report_of_what_was_kept_and_dropped(tagged: Tagged, cli: Cli, tmp_path: Path) -> None:
    rule = {"name": "toxic", "reason": "abuse", "drop_if": "toxicity > 0.5"}
    output = {"path": str(tmp_path / "out"), "shard_mb": 0.05}
    recipe = {"name": "clean", "sources": [{"store": str(tagged.store)}], "rules": [rule], "output": output}
    made: CurationManifest = run_flow(
        curate, CurateParameters.model_validate({"recipe": recipe, "workers": 1})
    ).manifest
    ran = cli("report", tmp_path / "out", "--json")
    assert ran.code == OK, ran.err
    report, tags = json.loads(ran.out), objects(tagged, "tags")
    toxic = pl.col("toxicity") > 0.5
    check_composition(report["composition"], tags.filter(~toxic))
    check_composition(report["dropped"], tags.filter(toxic))
    dropped = tags.filter(toxic)
    assert 0 < dropped.height < tags.height
    assert report["rules"] == [
        {"name": "toxic", "dropped": dropped.height, "tokens": dropped["n_tokens"].sum(), "failed": dropped.height}
    ]
    assert report["totals"]["rows_in"] == made.rows_in
    assert cli("report", tmp_path / "out").code == OK


def test_status_shows_each_run_and_exits_with_1_while_one_has_findings(
    tagged: Tagged, cli: Cli, tmp_path: Path
) -> None:
    manifest = tagged.report.manifest
    assert manifest is not None
    finished = cli("status", tagged.store, "--json")
    assert finished.code == FINDINGS  # a shard could not be read
    (run,) = json.loads(finished.out)
    assert run["finished"]
    assert (run["shards"], run["shards_done"]) == (len(manifest.shards), len(manifest.shards))
    assert (run["rows_in"], run["rows_kept"]) == (manifest.rows_in, manifest.rows_kept)
    assert run["unreadable_shards"] == 1
    shutil.copytree(tagged.store, tmp_path / "store")
    next((tmp_path / "store").glob("runs/*/manifest.json")).unlink()
    next((tmp_path / "store").glob("tags/*/commits/*.json")).unlink()
    unfinished = cli("status", tmp_path / "store", "--json")
    assert unfinished.code == FINDINGS
    (run,) = json.loads(unfinished.out)
    assert not run["finished"]
    assert run["shards_done"] == len(manifest.shards) - 1
    for store, word in ((tagged.store, "finished"), (tmp_path / "store", "unfinished")):
        assert re.search(rf"\b{word}\b", cli("status", store).out)
    refused = cli("report", tmp_path / "store")
    assert refused.code == USAGE
    assert f"{manifest.run} (unfinished)" in refused.err


def test_an_explanation_adds_up_to_the_tags_and_points_at_the_places_that_made_them(tagged: Tagged, cli: Cli) -> None:
    tags, features = objects(tagged, "tags"), objects(tagged, "features")
    taggers = {t.name: t for t in load_taggers(tagged.scope.parent / "taggers")}
    identity = next(name for name in tags.sort("n_tokens")["doc_id"] if name != HOSTILE_ID)
    for doc_id in (identity, "doc-7"):
        ran = cli("explain", tagged.store, doc_id, "--json", "--device", "cpu")
        assert ran.code == OK, ran.err
        found = json.loads(ran.out)
        stored = features.row(by_predicate=pl.col("doc_id") == doc_id, named=True)
        assert found["text"] == tagged.corpus.documents[doc_id]
        assert (found["n_tokens"], found["tokens_seen"]) == (stored["n_tokens"], stored["tokens_seen"])
        expected = tags.row(by_predicate=pl.col("doc_id") == doc_id, named=True)
        spans = 0
        for tag in found["tags"]:
            tagger = taggers[tag["name"]]
            assert tag["value"] == pytest.approx(expected[tag["name"]])
            label = tagger.labels.index(tag["value"]) if tagger.kind == "label" else 0
            assert tag["bias"] == tagger.bias[label]
            weights = {(f.layer, f.feature): f for f in tagger.features}
            for part in tag["features"]:
                weight = weights[part["layer"], part["feature"]]
                at = stored[f"l{part['layer']}_ids"].index(part["feature"])
                largest = stored[f"l{part['layer']}_max"][at]
                assert part["value"] == pytest.approx(min(largest / weight.scale, 1), abs=1e-4)
                assert part["effect"] == pytest.approx(part["value"] * weight.weights[label], abs=1e-3)
                assert len(part["spans"]) == stored[f"l{part['layer']}_count"][at]
                assert max(act for _, _, act in part["spans"]) == pytest.approx(largest, rel=1e-3)
                assert all(0 <= start < end <= len(found["text"]) for start, end, _ in part["spans"])
                spans += len(part["spans"])
            effects = [abs(part["effect"]) for part in tag["features"]]
            assert effects == sorted(effects, reverse=True)
            if len(tagger.features) <= len(tag["features"]) or tagger.name == "quality":
                logit = tag["bias"] + sum(part["effect"] for part in tag["features"])
                assert tag["value"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=2e-3)
        assert spans


def test_a_feature_fires_where_its_span_says_and_not_where_that_text_is_taken_out(tagged: Tagged) -> None:
    from assay.flows.scopes import resolve_scope
    from assay.sae_runtime.runtime import Runtime

    resolved = resolve_scope(str(tagged.scope), device="cpu")
    runtime = Runtime(resolved.scope, device="cpu", watched=resolved.watched)
    text = tagged.corpus.documents["doc-7"]
    firing = runtime.trace(text, {1: [f for layer, f in resolved.watched if layer == 1]})[0]
    cut = text[: firing.end]
    ends = [f.end for f in runtime.trace(cut, {1: [firing.feature]})]
    assert firing.end in ends  # a causal model: what comes later can't have made it fire
    before = runtime.trace(text[: firing.start], {1: [firing.feature]})
    assert firing.start not in [f.start for f in before]


def test_hostile_text_and_ids_reach_the_terminal_as_visible_characters_only(tagged: Tagged, cli: Cli) -> None:
    shown = cli("explain", tagged.store, HOSTILE_ID, "--device", "cpu")
    assert shown.code == OK, shown.err
    assert not UNSEEN.findall(shown.out + shown.err)
    assert "\\x1b[31mred\\u202egnp.exe" in shown.out
    as_json = cli("explain", tagged.store, HOSTILE_ID, "--device", "cpu", "--json")
    assert json.loads(as_json.out)["text"] == HOSTILE_TEXT
    assert not UNSEEN.findall(as_json.out)
    missing = cli("explain", tagged.store, "\x1b[2Jno\u202e")
    assert missing.code == USAGE
    assert not UNSEEN.findall(missing.err)

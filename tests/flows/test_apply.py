"""Applying taggers to a store: what tagging with them would write, without model and corpus."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from assay.flows.apply import apply_taggers
from assay.flows.status import store_status
from assay.schemas.errors import AssayError
from assay.schemas.parameters import ApplyParameters
from assay.schemas.store import TagManifest
from assay.schemas.tagger import DenseLayer, Tagger, dump_tagger, load_tagger
from assay.workers.applying import ShardApplier
from tests.flows.conftest import Cli, TaggedHere, tag_here
from tests.flows.corpora import assay_environment, commits, hashes

ATTEMPTS = ("/commits/", ".tmp-")


def apply(store: Path, taggers: Path, **more: object) -> TagManifest:
    parameters = ApplyParameters.model_validate({"store": str(store), "taggers": str(taggers), **more})
    return apply_taggers(parameters).manifest


def test_a_run_by_applying_is_the_run_that_tagging_makes_to_the_byte(
    tagged_here: TaggedHere, store: Path, new_taggers: Path, tmp_path: Path
) -> None:
    by_tagging = tmp_path / "by-tagging"
    shutil.copytree(tagged_here.store, by_tagging)
    wanted = tag_here(tagged_here.parameters(store=str(by_tagging), taggers=str(new_taggers)))
    manifest = apply(store, new_taggers)
    assert manifest == wanted
    assert hashes(store, without=ATTEMPTS) == hashes(by_tagging, without=ATTEMPTS)
    assert commits(store) == commits(by_tagging)
    assert manifest.undecided["open"] > 0
    assert "kindness" not in manifest.undecided


def test_neither_the_model_nor_the_corpus_is_touched(
    tagged_here: TaggedHere, store: Path, new_taggers: Path, tmp_path: Path
) -> None:
    script = f"""
import sys
def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith({str(tagged_here.corpus.path)!r}):
        raise AssertionError(arguments)
sys.addaudithook(watch)
sys.argv = ["assay", "apply", {str(store)!r}, "--taggers", {str(new_taggers)!r}]
from assay.flows.cli import main
try:
    main()
except SystemExit as e:
    assert e.code == 1, e.code
print("LOADED", sorted({{"torch", "ray", "prefect", "transformers"}} & set(sys.modules)))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], env=assay_environment(tmp_path / "home"), capture_output=True,
        encoding="utf-8", check=True,
    )  # fmt: skip
    assert ran.stdout.splitlines()[-1] == "LOADED []"
    assert "from stored features" in ran.stdout
    assert "undecided: open" in ran.stdout
    assert "assay recompute" in ran.stdout


def test_an_interrupted_run_goes_on_with_the_shards_that_are_missing(
    tagged_here: TaggedHere, store: Path, new_taggers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(tagged_here.store, undisturbed)
    apply(undisturbed, new_taggers)
    whole, done = ShardApplier.process, []

    def process(self: ShardApplier, shard: object, attempt: str) -> object:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(shard)
        return whole(self, shard, attempt)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardApplier, "process", process)
    with pytest.raises(KeyboardInterrupt):
        apply(store, new_taggers)
    [status] = [s for s in store_status(str(store)) if not s.finished]
    assert (status.shards_done, status.shards) == (3, len(tagged_here.manifest.shards))
    monkeypatch.setattr(ShardApplier, "process", whole)
    report = apply_taggers(ApplyParameters(store=str(store), taggers=str(new_taggers)))
    assert report.skipped == 3
    assert hashes(store, without=ATTEMPTS) == hashes(undisturbed, without=ATTEMPTS)
    assert all(s.finished for s in store_status(str(store)))


def test_actors_write_the_same_bytes_as_this_process(
    tagged_here: TaggedHere, store: Path, new_taggers: Path, tmp_path: Path, ray_cluster: None
) -> None:
    by_actors = tmp_path / "by-actors"
    shutil.copytree(tagged_here.store, by_actors)
    assert apply(by_actors, new_taggers, workers=2) == apply(store, new_taggers)
    assert hashes(store, without=ATTEMPTS) == hashes(by_actors, without=ATTEMPTS)


def test_the_applied_run_is_a_run_to_report_status_and_curate(
    store: Path, new_taggers: Path, tmp_path: Path, cli: Cli
) -> None:
    manifest = apply(store, new_taggers)
    [row] = [r for r in json.loads(cli("status", store, "--json").out) if r["run"] == manifest.run]
    assert row["finished"]
    assert row["rows_kept"] == manifest.rows_kept
    assert row["undecided"] == manifest.undecided
    report = cli("report", store, "--run", manifest.run)
    assert "kindness" in report.out
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
name: kind
sources: [{{store: "{store}", run: {manifest.run}}}]
rules: [{{name: unkind, reason: unkind, drop_if: [{{column: kindness, below: 0.5}}]}}]
output: {{path: "{tmp_path / "out"}"}}
"""
    )
    plan = json.loads(cli("plan", recipe, "--json").out)
    tags = pl.concat([pl.read_parquet(store / e.objects["tags"].key) for e in manifest.shards if not e.unreadable])
    assert plan["dropped"]["documents"] == tags.filter(pl.col("kindness") < 0.5).height
    assert plan["kept"]["documents"] + plan["dropped"]["documents"] == manifest.rows_kept


def test_the_run_to_start_from_need_not_be_named_while_all_are_of_one_corpus_and_scope(
    store: Path, new_taggers: Path
) -> None:
    first = apply(store, new_taggers)
    assert apply(store, new_taggers / "kindness.json").tagset != first.tagset
    with pytest.raises(AssayError, match="no finished run 'x'"):
        apply(store, new_taggers, run="x")


def test_taggers_that_do_not_fit_the_features_are_refused_before_anything_is_written(
    store: Path, tagged_here: TaggedHere, tmp_path: Path
) -> None:
    before = hashes(store)
    quality = load_tagger(tagged_here.scope.parent / "taggers" / "quality.json")
    layers = (DenseLayer(layer=1, weights=((1.0,) * 64,)),)
    probe = Tagger.model_validate(
        {**quality.model_dump(), "name": "probe", "rule": "dense", "features": (), "dense": layers}
    )
    (taggers := tmp_path / "taggers").mkdir()
    (taggers / "probe.json").write_text(probe.model_dump_json())
    with pytest.raises(AssayError, match=r"'probe' is a dense probe.*without residuals"):
        apply(store, taggers)
    (taggers / "probe.json").write_text(dump_tagger(quality.model_copy(update={"encoder": "0" * 16})))
    with pytest.raises(AssayError, match="fitted on encoder 0000000000000000"):
        apply(store, taggers)
    assert hashes(store) == before


def test_shards_without_features_are_told_with_what_makes_them(store: Path, new_taggers: Path) -> None:
    first = next(iter(sorted(store.glob("features/*/commits/*.json"))))
    first.unlink()
    with pytest.raises(AssayError, match=f"1 shards have no stored features, among them {first.stem}") as told:
        apply(store, new_taggers)
    assert "assay tag" in told.value.hint

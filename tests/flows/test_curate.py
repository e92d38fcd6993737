"""From a recipe to a dataset: what it keeps, that others can load it, and that it is never written over."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.flows.cli import FINDINGS, OK, USAGE
from assay.flows.curate import curate
from assay.flows.engine import run_flow
from assay.flows.recipes import read_recipe
from assay.schemas.curation import CurationManifest
from assay.schemas.parameters import CurateParameters
from tests.flows.conftest import Cli, Tagged
from tests.flows.corpora import hashes

RULES = """
  - name: short
    reason: too short to learn from
    drop_if: n_tokens < 60
  - name: news-toxic
    reason: "not <b>wanted</b> | here"
    drop_if: domain in ["news", "shop"] and toxicity > 0.5
"""


def write_recipe(path: Path, store: Path, out: Path, *, rules: str = RULES, **output: object) -> Path:
    settings = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in output.items())
    path.write_text(
        f"name: test-set\nlicense: mit\nsources:\n  - store: {store}\nrules:{rules or ' []'}\n"
        f"output:\n  path: {out}\n  shard_mb: 0.01\n{settings}",
        "utf-8",
    )
    return path


def make(recipe: Path) -> CurationManifest:
    return run_flow(curate, CurateParameters(recipe=read_recipe(recipe), where=str(recipe), workers=1)).manifest


def tags_of(tagged: Tagged) -> pl.DataFrame:
    """All tags, in the corpus's order, and which rule of RULES drops each document."""
    manifest = tagged.report.manifest
    assert manifest is not None
    keys = [entry.objects["tags"].key for entry in manifest.shards if not entry.unreadable]
    toxic = pl.col("domain").is_in(["news", "shop"]) & (pl.col("toxicity") > 0.5)
    rule = pl.when(pl.col("n_tokens") < 60).then(pl.lit("short")).when(toxic).then(pl.lit("news-toxic"))
    return pl.concat([pl.read_parquet(tagged.store / key) for key in keys]).with_columns(rule=rule)


@pytest.fixture(scope="module", params=["parquet", "jsonl.zst"])
def curated(
    request: pytest.FixtureRequest, tagged: Tagged, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, CurationManifest]]:
    """A dataset by RULES with its dropped documents, in each format."""
    folder = tmp_path_factory.mktemp("curated")
    recipe = write_recipe(folder / "r.yaml", tagged.store, folder / "out", format=request.param, dropped=True)
    yield folder / "out", make(recipe)


@pytest.fixture(scope="module")
def parquet_dataset(tagged: Tagged, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, CurationManifest]:
    """A recipe, and the Parquet dataset that it gave."""
    folder = tmp_path_factory.mktemp("parquet")
    recipe = write_recipe(folder / "r.yaml", tagged.store, folder / "out", dropped=True)
    return recipe, folder / "out", make(recipe)


def rows_of(folder: Path, part: str = "data") -> list[dict[str, Any]]:
    """The dataset's rows as its files hold them, read without Assay."""
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / part).iterdir()):
        if path.suffix == ".parquet":
            rows += pq.read_table(path).to_pylist()
        else:
            with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
                rows += [json.loads(line) for line in stream.read().splitlines()]
    return rows


def test_the_rules_keep_and_drop_what_the_tags_say(tagged: Tagged, curated: tuple[Path, CurationManifest]) -> None:
    folder, manifest = curated
    tags = tags_of(tagged)
    kept, dropped = tags.filter(pl.col("rule").is_null()), tags.filter(pl.col("rule").is_not_null())
    assert 10 < len(kept) < len(tags) - 10
    assert [row["assay_id"] for row in rows_of(folder)] == kept["doc_id"].to_list()
    assert [(row["assay_id"], row["assay_rule"]) for row in rows_of(folder, "dropped")] == list(
        dropped.select("doc_id", "rule").iter_rows()
    )
    assert manifest.kept.documents == len(kept)
    assert manifest.kept.tokens == kept["n_tokens"].sum()
    assert manifest.kept.bytes == kept["n_bytes"].sum()
    assert {rule.name: rule.dropped.documents for rule in manifest.rules} == dict(dropped["rule"].value_counts().rows())
    assert manifest.rows_in == manifest.kept.documents + manifest.dropped.documents + manifest.rows_quarantined
    assert len(manifest.shards) > 1
    assert sum(shard.rows for shard in manifest.shards) == len(kept)


def test_source_columns_are_carried_along_and_tags_stand_beside_them(
    tagged: Tagged, curated: tuple[Path, CurationManifest]
) -> None:
    folder, _ = curated
    tags = {row["doc_id"]: row for row in tags_of(tagged).to_dicts()}
    original = {row["id"]: row for row in pq.read_table(tagged.corpus.path / "a.parquet").to_pylist()}
    rows = rows_of(folder)
    assert {row["id"] in original for row in rows} == {True, False}
    for row in rows:
        assert row["text"] == tagged.corpus.documents[row["assay_id"]]
        assert row["assay_toxicity"] == pytest.approx(tags[row["id"]]["toxicity"])
        assert row["assay_domain"] == tags[row["id"]]["domain"]
        if row["id"] in original:
            assert {name: row[name] for name in ("id", "text", "year", "nested")} == original[row["id"]]
            assert row["meta"] is None
        else:
            assert (row["year"], row["nested"]) == (2000.5, None)
            assert row["meta"] == json.dumps(
                {"of": row["id"], "n": [1, None]}, separators=(",", ":"), ensure_ascii=False
            )


def test_a_dataset_loads_with_datasets_as_its_card_says(curated: tuple[Path, CurationManifest], tmp_path: Path) -> None:
    from datasets import load_dataset

    folder, manifest = curated
    ids = [row["assay_id"] for row in rows_of(folder)]
    builder = "parquet" if manifest.recipe.output.format == "parquet" else "json"
    card = (folder / "README.md").read_text("utf-8")
    pattern = f"data/*.{manifest.recipe.output.format}"
    assert f'load_dataset("{builder}", data_files="{pattern}", split="train")' in card
    by_files = load_dataset(builder, data_files=str(folder / pattern), split="train", cache_dir=str(tmp_path / "files"))
    assert by_files["assay_id"][:] == ids
    assert set(by_files.column_names) == set(manifest.columns)
    by_folder = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "folder"))
    assert by_folder["assay_id"][:] == ids


def test_a_parquet_dataset_loads_with_polars(parquet_dataset: tuple[Path, Path, CurationManifest]) -> None:
    _, folder, manifest = parquet_dataset
    table = pl.read_parquet(folder / "data" / "*.parquet")
    assert table.height == manifest.kept.documents
    assert table["assay_n_tokens"].sum() == manifest.kept.tokens


def test_the_card_says_what_the_manifest_says(curated: tuple[Path, CurationManifest]) -> None:
    folder, manifest = curated
    assert json.loads((folder / "manifest.json").read_bytes()) == manifest.model_dump(mode="json")
    card = (folder / "README.md").read_text("utf-8")
    assert (
        f"Rows in {manifest.rows_in:,} = kept {manifest.kept.documents:,} + dropped {manifest.dropped.documents:,} "
        f"+ quarantined {manifest.rows_quarantined:,}."
    ) in card
    assert f"{manifest.kept.documents:,} documents, {manifest.kept.tokens:,} tokens" in card
    for rule in manifest.rules:
        assert f"| {rule.dropped.documents:,} | {rule.dropped.tokens:,} | {rule.alone:,} |" in card
    assert "<b>" not in card.replace("\\<b", "")
    for shard in (*manifest.shards, *manifest.dropped_shards):
        assert (folder / shard.key).stat().st_size == shard.size
    assert {path for path in hashes(folder) if not path.startswith("_assay/")} == {
        "README.md", "manifest.json", *(shard.key for shard in (*manifest.shards, *manifest.dropped_shards))
    }  # fmt: skip


def test_the_same_recipe_gives_the_same_bytes_and_a_second_run_writes_nothing(
    parquet_dataset: tuple[Path, Path, CurationManifest], cli: Cli, tmp_path: Path
) -> None:
    recipe, folder, _ = parquet_dataset
    first = hashes(folder)
    again = cli("curate", recipe)
    assert again.code == FINDINGS
    assert "1 input shards could not be read" in again.out
    assert "| 1 |\n" in (folder / "README.md").read_text()
    assert "(0 written now" in again.out
    assert hashes(folder) == first
    folder.rename(tmp_path / "first")
    make(recipe)
    commits = ("_assay/commits",)
    assert hashes(folder, without=commits) == hashes(tmp_path / "first", without=commits)


def test_another_recipe_into_the_same_folder_is_refused(
    parquet_dataset: tuple[Path, Path, CurationManifest], tagged: Tagged, cli: Cli, tmp_path: Path
) -> None:
    _, folder, _ = parquet_dataset
    before = hashes(folder)
    other = write_recipe(tmp_path / "other.yaml", tagged.store, folder, rules=RULES.replace("60", "61"), dropped=True)
    refused = cli("curate", other)
    assert refused.code == USAGE
    assert "another recipe" in refused.err
    assert hashes(folder) == before


def test_a_folder_with_other_files_is_refused(tagged: Tagged, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    refused = cli("curate", write_recipe(tmp_path / "r.yaml", tagged.store, tmp_path / "out"))
    assert refused.code == USAGE
    assert "thesis.txt" in refused.err
    assert list(hashes(tmp_path / "out")) == ["thesis.txt"]


def test_a_plan_is_what_curate_then_does_and_writes_nothing(
    parquet_dataset: tuple[Path, Path, CurationManifest], tagged: Tagged, cli: Cli, tmp_path: Path
) -> None:
    _, _, manifest = parquet_dataset
    before = hashes(tagged.store)
    recipe = write_recipe(tmp_path / "r.yaml", tagged.store, tmp_path / "out", dropped=True)
    planned = cli("plan", recipe, "--json")
    assert planned.code == OK, planned.err
    forecast = json.loads(planned.out)
    done = manifest.model_dump(mode="json")
    same = ("rows_in", "rows_quarantined", "kept", "dropped", "rules")
    assert {name: forecast[name] for name in same} == {name: done[name] for name in same}
    assert forecast["output_shards"] == len(manifest.shards)
    assert cli("plan", recipe).code == OK
    assert not (tmp_path / "out").exists()
    assert hashes(tagged.store) == before


def test_a_recipe_that_keeps_nothing_or_everything_gives_a_dataset(tagged: Tagged, tmp_path: Path) -> None:
    everything = "\n  - name: all\n    reason: none is wanted\n    drop_if: n_tokens > -1\n"
    nothing_kept = make(write_recipe(tmp_path / "a.yaml", tagged.store, tmp_path / "a", rules=everything))
    assert nothing_kept.kept.documents == 0
    assert nothing_kept.dropped.documents == len(tagged.corpus.documents)
    assert pl.read_parquet(tmp_path / "a" / "data" / "*.parquet").height == 0
    all_kept = make(write_recipe(tmp_path / "b.yaml", tagged.store, tmp_path / "b", rules="", tags=False))
    assert all_kept.kept.documents == len(tagged.corpus.documents)
    columns = pl.read_parquet(tmp_path / "b" / "data" / "*.parquet").columns
    assert sorted(columns[:5]) == ["id", "meta", "nested", "text", "year"]
    assert columns[5:] == ["assay_id", "assay_n_tokens"]


@pytest.mark.parametrize(
    ("find", "put", "spot"),
    [
        ("drop_if", "dropif", r"r\.yaml:8:5: rules\.0\.dropif: unknown key; did you mean 'drop_if'\?"),
        ("< 60", "< sixty", r"r\.yaml:8:25: rules\.0\.drop_if: unknown name 'sixty'"),
        ("shard_mb: 0.01", "shard_mb: 0", r"r\.yaml:\d+:3: output\.shard_mb: .*greater than 0"),
        ("license: mit", "license: [mit", r"r\.yaml:\d+:\d+: not valid YAML"),
    ],
)
def test_a_mistake_in_a_recipe_is_named_with_file_line_and_column(
    find: str, put: str, spot: str, tagged: Tagged, cli: Cli, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tagged.store, tmp_path / "out")
    recipe.write_text(recipe.read_text("utf-8").replace(find, put, 1), "utf-8")
    for verb in ("curate", "plan"):
        ran = cli(verb, recipe)
        assert ran.code == USAGE
        assert re.search(spot, ran.err), ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("find", "put", "message"),
    [
        ("toxicity >", "toxcity >", "did you mean 'toxicity'?"),
        ("n_tokens < 60", "domain < 60", "8:14: rules.0.drop_if: < compares numbers; this is a text, not a number"),
        ("toxicity > 0.5", 'toxicity in ["high"]', "this is a text, but the value before `in` is a number"),
        ('"shop"]', '"shoop"]', "domain is never 'shoop': did you mean 'shop'?"),
    ],
)
def test_a_rule_on_a_column_that_the_tags_lack_is_refused_before_anything_is_written(
    find: str, put: str, message: str, tagged: Tagged, cli: Cli, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tagged.store, tmp_path / "out", rules=RULES.replace(find, put))
    ran = cli("curate", recipe)
    assert ran.code == USAGE
    assert message in ran.err
    assert not (tmp_path / "out").exists()


def test_a_source_without_a_finished_run_is_refused(tagged: Tagged, cli: Cli, tmp_path: Path) -> None:
    ran = cli("curate", write_recipe(tmp_path / "r.yaml", tmp_path / "no-store", tmp_path / "out"))
    assert ran.code == USAGE
    assert "no-store" in ran.err
    assert not (tmp_path / "out").exists()

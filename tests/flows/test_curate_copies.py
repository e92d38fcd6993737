"""A recipe that drops copies: searched among what the rules keep, accounted for, and named by the one that stays."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from assay.flows.cli import OK, USAGE
from assay.schemas.curation import CurationManifest
from benchmarks.planted import Page, planted, write_store
from tests.flows.conftest import Cli
from tests.flows.corpora import ASSAY, assay, assay_environment, hashes
from tests.flows.test_dedup import text

ASKED = """
dedup:
  near: {threshold: 0.8}
  keep: longest
"""


class Planted(NamedTuple):
    """A store with planted copies, and a benchmark of which one document holds a question."""

    store: str
    pages: list[Page]
    quiz: Path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder = tmp_path_factory.mktemp("copies")
    pages = planted([Page(f"page-{n}", text(n)) for n in range(200)], 6, seed=4)
    pages += [Page("short", " ".join(text(900).split()[:40])), Page("short-copy", " ".join(text(900).split()[:40]))]
    quiz = folder / "quiz.jsonl"
    quiz.write_text(json.dumps({"question": " ".join(text(7).split()[10:40])}))
    return Planted(write_store(folder, [(page.id, page.text) for page in pages], files=30)[0], pages, quiz)


def recipe(corpus: Planted, path: Path, out: Path, more: str = ASKED) -> Path:
    path.write_text(
        f"name: unique\nsources:\n  - store: {corpus.store}\nrules:\n"
        "  - {name: short, reason: short, drop_if: n_tokens < 60}\n"
        f"decontaminate:\n  reference: [{corpus.quiz}]{more}"
        f"output: {{path: {out}, shard_mb: 0.05, dropped: true, tags: false}}\n",
        "utf-8",
    )
    return path


class Made(NamedTuple):
    """A curated dataset and what it left out."""

    out: Path
    manifest: CurationManifest
    kept: set[str]
    dropped: dict[str, tuple[str, str | None]]
    """id -> what dropped it, and what stays in its place"""


def read(out: Path) -> Made:
    manifest = CurationManifest.model_validate_json((out / "manifest.json").read_bytes())
    kept = pl.read_parquet([out / shard.key for shard in manifest.shards])
    gone = pl.read_parquet([out / shard.key for shard in manifest.dropped_shards])
    columns = gone.select("assay_id", "assay_rule", "assay_copy_of").rows()
    return Made(out, manifest, set(kept["assay_id"]), {i: (rule, stays) for i, rule, stays in columns})


@pytest.fixture(scope="module")
def made(corpus: Planted, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Made:
    folder = tmp_path_factory.mktemp("made")
    ran = curate(recipe(corpus, folder / "r.yaml", folder / "out"))
    assert ran.manifest.search
    return read(folder / "out")


def curate(path: Path) -> Any:
    from assay.flows.curate import curate as flow
    from assay.flows.engine import run_flow
    from assay.flows.recipes import read_recipe
    from assay.schemas.parameters import CurateParameters

    return run_flow(flow, CurateParameters(recipe=read_recipe(path), where=str(path), workers=1))


def test_each_copy_is_dropped_once_with_its_stage_and_the_document_that_stays(corpus: Planted, made: Made) -> None:
    by_id = {page.id: page for page in corpus.pages}
    contaminated = {i for i, (rule, _) in made.dropped.items() if rule == "decontaminate"}
    assert made.dropped["page-7"] == ("decontaminate", "quiz.jsonl#0:question")
    copies = {i: stays for i, (rule, stays) in made.dropped.items() if rule.startswith("dedup:")}
    assert len(copies) >= 15
    for identity, stays in copies.items():
        assert stays in made.kept
        assert stays is not None
        one, other = by_id[identity], by_id[stays]
        assert one.of == other.id or other.of == one.id
        assert len(one.text.encode()) <= len(other.text.encode())
    exact = [page for page in corpus.pages if page.kind == "exact" and not {page.id, page.of} & contaminated]
    assert sum(rule == "dedup:exact" for rule, _ in made.dropped.values()) == len(exact)


def test_what_a_rule_drops_is_not_compared(made: Made) -> None:
    assert {made.dropped[i] for i in ("short", "short-copy")} == {("short", None)}


def test_manifest_card_and_output_add_up(corpus: Planted, made: Made) -> None:
    manifest = made.manifest
    counts = {stage.name: stage.dropped.documents for stage in manifest.copies}
    assert list(counts) == ["decontaminate", "dedup:exact", "dedup:near"]
    for name, count in counts.items():
        assert count == sum(rule == name for rule, _ in made.dropped.values())
    assert manifest.rows_in == len(made.kept) + len(made.dropped) == len(corpus.pages)
    assert manifest.dropped.documents == 2 + sum(counts.values())
    card = (made.out / "README.md").read_text("utf-8")
    for stage in manifest.copies:
        assert f"| {stage.dropped.documents:,} | {stage.dropped.tokens:,} |" in card
    assert "Of several copies the longest stays." in card
    assert "Benchmarks: quiz.jsonl." in card


def test_the_same_recipe_into_another_folder_gives_the_same_data(
    corpus: Planted, made: Made, tmp_path: Path, ray_cluster: None
) -> None:
    curate(recipe(corpus, tmp_path / "r.yaml", tmp_path / "out"))
    left = ("README.md", "manifest.json", "commits", "recipe.json")
    assert hashes(tmp_path / "out", without=left) == hashes(made.out, without=left)


def test_a_plan_counts_copies_once_they_were_looked_for(
    corpus: Planted, made: Made, tmp_path: Path, cli: Cli, ray_cluster: None
) -> None:
    path = recipe(corpus, tmp_path / "r.yaml", tmp_path / "out")
    before = cli("plan", path)
    assert before.code == OK, before.err
    assert "not known yet" in before.out
    assert not (tmp_path / "out").exists()
    searched = cli("dedup", path, "--workers", 1)
    assert searched.code == OK, searched.err
    assert f"wrote {tmp_path}/out/_assay/dedup/manifest.json" in searched.out
    after = json.loads(cli("plan", path, "--json").out)
    assert not after["copies_unknown"]
    assert after["copies"] == [stage.model_dump(mode="json") for stage in made.manifest.copies]
    assert after["kept"] == made.manifest.kept.model_dump()
    assert cli("dedup", path, "--near").code == USAGE


def test_why_names_the_document_that_stays_or_the_benchmark(made: Made, cli: Cli) -> None:
    identity, (stage, stays) = next(item for item in made.dropped.items() if item[1][0] == "dedup:near")
    ran = cli("why", made.out, identity)
    assert f"{identity}: dropped by {stage}: {stays} stays in its place" in ran.out, ran.err
    leak = cli("why", made.out, "page-7")
    assert "page-7: dropped by decontaminate: holds text of quiz.jsonl#0:question" in leak.out


def test_what_is_taken_down_never_stands_for_its_copy(
    corpus: Planted, made: Made, tmp_path: Path, ray_cluster: None
) -> None:
    identity, stays = next((i, s) for i, (rule, s) in made.dropped.items() if rule == "dedup:exact")
    (tmp_path / "down.txt").write_text(f"{stays}\n")
    curate(recipe(corpus, tmp_path / "r.yaml", tmp_path / "out", f"{ASKED}takedown: {tmp_path}/down.txt\n"))
    without = read(tmp_path / "out")
    assert identity in without.kept
    assert stays not in without.kept | set(without.dropped)


def test_a_sample_is_taken_of_what_is_unique(corpus: Planted, made: Made, tmp_path: Path, ray_cluster: None) -> None:
    more = f"{ASKED}sample: {{documents: 50}}\n"
    curate(recipe(corpus, tmp_path / "r.yaml", tmp_path / "out", more))
    sampled = read(tmp_path / "out")
    assert len(sampled.kept) == 50
    assert sampled.kept <= made.kept
    assert {i: why for i, why in sampled.dropped.items() if why[0] != "sample"} == made.dropped


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("\ndedup: {near: {treshold: 0.8}}\n", "8:16: dedup.near.treshold: unknown key; did you mean 'threshold'?"),
        ("\ndedup: {keep: newest}\n", "8:9: dedup.keep"),
        ("\n  ngram: 2\n", "8:3: decontaminate.ngram"),
        ("\ndedup: {exact: false}\n", "exact can't be false"),
    ],
)
def test_mistakes_are_named_with_their_place(
    corpus: Planted, tmp_path: Path, cli: Cli, more: str, message: str
) -> None:
    ran = cli("validate", recipe(corpus, tmp_path / "r.yaml", tmp_path / "out", more))
    assert ran.code == USAGE
    assert message in ran.err


def test_a_benchmark_that_is_not_there_is_named_with_its_place(corpus: Planted, tmp_path: Path, cli: Cli) -> None:
    path = recipe(corpus._replace(quiz=tmp_path / "none.jsonl"), tmp_path / "r.yaml", tmp_path / "out")
    ran = cli("validate", path)
    assert ran.code == USAGE
    assert f"{path}:7:15: decontaminate.reference.0" in ran.err


def test_a_killed_curation_goes_on_to_the_same_dataset(corpus: Planted, made: Made, tmp_path: Path) -> None:
    out, home = tmp_path / "out", tmp_path / "home"
    path = recipe(corpus, tmp_path / "r.yaml", out)
    quiet, environment = subprocess.DEVNULL, assay_environment(home)
    command = [ASSAY, "curate", str(path), "--workers", "1"]
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
    commits = out / "_assay" / "dedup" / "work" / "signed" / "commits"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (commits.exists() and any(commits.iterdir())):
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert any(commits.iterdir())
    assert not (out / "manifest.json").exists()
    ran = assay(home, "curate", path, "--workers", 1)
    assert ran.returncode == OK, ran.stderr
    left = ("README.md", "manifest.json", "commits", "recipe.json")
    assert hashes(out, without=left) == hashes(made.out, without=left)

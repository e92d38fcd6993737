"""`assay dedup` as a user runs it: what it prints and writes, and that a killed search goes on where it was."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest

from assay.flows.cli import OK, USAGE
from assay.schemas.dedup import DedupManifest
from benchmarks.planted import Page, planted, write_store
from tests.flows.conftest import Cli, Tagged
from tests.flows.corpora import ASSAY, assay, assay_environment, hashes


def text(seed: int) -> str:
    """Ten sentences of made-up words that no other seed gives."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnoprstuvw", k=7)) for _ in range(100)]
    return ". ".join(" ".join(words[n : n + 10]) for n in range(0, 100, 10))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pages with planted copies, in very many small shards."""
    everything = planted([Page(f"page-{n}", text(n)) for n in range(900)], 20, seed=1)
    folder = tmp_path_factory.mktemp("dedup")
    return write_store(folder, [(page.id, page.text) for page in everything], files=150)[0]


def test_a_search_prints_what_each_stage_drops_and_writes_lists_that_polars_reads(
    cli: Cli, store: str, tmp_path: Path, ray_cluster: None
) -> None:
    question = tmp_path / "quiz.jsonl"
    question.write_text(json.dumps({"q": " ".join(text(5).split()[20:40])}))
    out = tmp_path / "out"
    ran = cli("dedup", store, "-o", out, "--near", "--reference", question, "--workers", 1)
    assert ran.code == OK, ran.err
    manifest = DedupManifest.model_validate_json((out / "manifest.json").read_bytes())
    lists = pl.read_parquet([out / shard.copies.key for shard in manifest.shards if shard.copies])
    counts = dict(lists.group_by("stage").len().iter_rows())
    assert counts == {stage.stage: stage.documents for stage in manifest.stages if stage.documents}
    assert counts["exact"] == 20
    assert counts["contaminated"] >= 1
    for stage in manifest.stages:
        if stage.stage != "features":
            assert f"{stage.stage:12} {stage.documents:>12,} documents" in ran.out
    assert f"wrote {out}/manifest.json" in ran.out
    assert lists.filter(pl.col("stage") != "contaminated")["kept_id"].is_in(lists["doc_id"].to_list()).sum() == 0
    again = cli("dedup", store, "-o", out, "--near", "--reference", question, "--json")
    assert json.loads(again.out)["documents"] == 900 + 8 * 20


def test_a_search_of_features_reads_what_a_tagging_run_stored(cli: Cli, tagged: Tagged, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = cli(
        "dedup", tagged.store, "-o", out, "--features", 3, "--cosine", 0.9, "--keep", "best:quality", "--workers", 1
    )
    assert ran.code == OK, ran.err
    assert "features" in ran.out
    wrong = cli("dedup", tagged.store, "-o", tmp_path / "other", "--features", 2)
    assert wrong.code == USAGE
    assert "known: 1, 3" in wrong.err
    assert not (tmp_path / "other").exists()


def test_another_search_into_the_same_folder_is_refused(
    cli: Cli, store: str, tmp_path: Path, ray_cluster: None
) -> None:
    assert cli("dedup", store, "-o", tmp_path / "out", "--workers", 1).code == OK
    before = hashes(tmp_path / "out")
    ran = cli("dedup", store, "-o", tmp_path / "out", "--near")
    assert ran.code == USAGE
    assert "another search" in ran.err
    assert hashes(tmp_path / "out") == before


def test_a_killed_search_goes_on_and_gives_the_same_bytes(store: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert assay(home, "dedup", store, "-o", whole, "--near", "--workers", 1).returncode == OK
    command = [ASSAY, "dedup", store, "-o", str(killed), "--near", "--workers", "1"]
    process = subprocess.Popen(
        command,
        env=assay_environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        commits = killed / "work" / "signed" / "commits"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and len(list(commits.glob("*.json")) if commits.exists() else []) < 5:
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = len(list(commits.glob("*.json")))
    assert 5 <= done < 150
    assert not (killed / "manifest.json").exists()
    ran = assay(home, "dedup", store, "-o", killed, "--near", "--workers", 1)
    assert ran.returncode == OK, ran.stderr
    read_now = int(ran.stdout.split(" shards read now")[0].rpartition(" ")[2])
    assert 0 < read_now <= 150 - done + 1
    assert hashes(killed) == hashes(whole)

"""Calibrating a threshold on a tagged store: by share exactly, by labels on a drawn sample, never by guessing."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assay.schemas.calibration import load_calibration
from assay.taggers.thresholds import threshold_of
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import read_taggers
from tests.flows.conftest import Cli, TaggedHere
from tests.flows.corpora import hashes


@pytest.fixture
def quality(tagged_here: TaggedHere) -> pl.DataFrame:
    """doc_id and quality of every document."""
    shards = [e for e in tagged_here.manifest.shards if not e.unreadable and e.rows_kept]
    tags = pl.concat([pl.read_parquet(tagged_here.store / e.objects["tags"].key) for e in shards])
    return tags.select("doc_id", "quality")


@pytest.mark.parametrize("share", [0.03, 0.5, 0.999])
def test_a_share_is_the_exact_quantile_of_all_scores(
    tagged_here: TaggedHere, quality: pl.DataFrame, cli: Cli, tmp_path: Path, share: float
) -> None:
    before = hashes(tagged_here.store)
    out = tmp_path / "overlay.json"
    ran = cli("calibrate", tagged_here.store, "--tagger", "quality", "--share", share, "-o", out)
    assert ran.code == 0, ran
    assert f"wrote {out}" in ran.out
    found = load_calibration(out)
    scores = quality["quality"].to_numpy()
    kept = int((scores > found.threshold).sum())
    assert kept <= share * len(scores)
    lower = scores[scores < found.threshold]
    assert len(lower) == 0 or (scores > lower.max()).sum() > share * len(scores)
    assert found.figures["share"].value == kept / len(scores)
    assert (found.documents, found.unknown, found.labelled) == (len(scores), 0, 0)
    taggers = read_taggers(ObjectStore(str(tagged_here.store)), tagged_here.manifest.tagset)
    tagger = next(t for t in taggers if t.name == "quality")
    assert threshold_of(tagger, [found]) == found.threshold != tagger.threshold
    assert hashes(tagged_here.store) == before, "the store, and with it the tagger, is left as it is"


def test_a_sample_is_drawn_the_same_each_time_with_text_and_weights_and_can_be_labelled_in_place(
    tagged_here: TaggedHere, quality: pl.DataFrame, cli: Cli, tmp_path: Path
) -> None:
    sample, again = tmp_path / "sample.jsonl", tmp_path / "again.jsonl"
    for path in (sample, again):
        ran = cli("calibrate", tagged_here.store, "--tagger", "quality", "--sample", 120, "--sample-out", path)
        assert ran.code == 0, ran
    assert sample.read_bytes() == again.read_bytes()
    lines = [json.loads(line) for line in sample.read_text().splitlines()]
    assert len(lines) == 120
    assert all(line["text"] == tagged_here.corpus.documents[line["id"]] for line in lines)
    assert sum(line["weight"] for line in lines) == pytest.approx(len(quality))
    scores = dict(quality.iter_rows())
    assert all(line["score"] == pytest.approx(scores[line["id"]]) for line in lines)
    by_stratum: dict[int, list[float]] = {}
    for line in lines:
        by_stratum.setdefault(line["stratum"], []).append(line["score"])
    ends = [(min(found), max(found)) for _, found in sorted(by_stratum.items())]
    assert all(a[1] < b[0] for a, b in pairwise(ends))
    unlabelled = cli("calibrate", tagged_here.store, "--tagger", "quality", "--fpr", 0.1, "--labels", sample)
    assert "no line is labelled" in unlabelled.err

    cut = float(np.quantile(quality["quality"], 0.6))
    sample.write_text("".join(json.dumps({**line, "label": line["score"] > cut}) + "\n" for line in lines))
    out = tmp_path / "overlay.json"
    ran = cli("calibrate", tagged_here.store, "--tagger", "quality", "--fpr", 0.2, "--labels", sample, "-o", out)
    assert ran.code == 0, ran
    found = load_calibration(out)
    assert found.labelled == len(lines)
    assert found.labels_sha256 is not None
    assert found.figures["fpr"].value <= 0.2
    exact = quality.filter(pl.col("quality") <= cut)["quality"] > found.threshold
    assert exact.mean() <= 0.35
    assert found.figures["recall"].value == 1.0


def test_labels_too_few_for_the_target_are_refused_and_nothing_is_written(
    tagged_here: TaggedHere, quality: pl.DataFrame, cli: Cli, tmp_path: Path
) -> None:
    labels, out = tmp_path / "labels.csv", tmp_path / "overlay.json"
    labels.write_text("id,label\n" + "".join(f'"{name}",no\n' for name in quality["doc_id"] if "\x1b" not in name))
    ran = cli("calibrate", tagged_here.store, "--tagger", "quality", "--fpr", 0.001, "--labels", labels, "-o", out)
    assert ran.code == 2
    assert "an fpr of 0.001 takes 3,688 negatives" in ran.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --share, --fpr and --precision"),
        (["--share", "0.1", "--fpr", "0.1"], "give one of --share, --fpr and --precision"),
        (["--sample", "10"], "--sample needs --sample-out"),
        (["--fpr", "0.1"], "--fpr needs --labels"),
        (["--share", "1.5"], "less than 1"),
        (["--fpr", "0.1", "--labels", "none.jsonl"], "none.jsonl: can't read labels"),
        (["--fpr", "0.1", "--labels", "maybe.jsonl"], "maybe.jsonl, line 1: label 'maybe' says neither yes nor no"),
        (["--fpr", "0.1", "--labels", "twice.jsonl"], "twice.jsonl, line 2: document 'a' is labelled twice"),
        (["--fpr", "0.1", "--labels", "torn.jsonl"], "torn.jsonl: not a line of JSON"),
        (["--fpr", "0.1", "--labels", "alien.jsonl"], "1 labelled documents have no score"),
    ],
)
def test_a_mistake_says_what_is_wrong(
    tagged_here: TaggedHere,
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("maybe.jsonl").write_text('{"id": "a", "label": "maybe"}\n')
    Path("twice.jsonl").write_text('{"id": "a", "label": 1}\n{"id": "a", "label": 0}\n')
    Path("torn.jsonl").write_text('{"id": "a", "la')
    Path("alien.jsonl").write_text('{"id": "\\u001b[2J", "label": 1}\n')
    ran = cli("calibrate", tagged_here.store, "--tagger", "quality", *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert "\x1b" not in ran.err


def test_a_label_tagger_and_an_unknown_one_are_refused(tagged_here: TaggedHere, cli: Cli) -> None:
    assert (
        "only a score has a threshold" in cli("calibrate", tagged_here.store, "--tagger", "domain", "--share", 0.1).err
    )
    assert "did you mean 'quality'?" in cli("calibrate", tagged_here.store, "--tagger", "qualty", "--share", 0.1).err

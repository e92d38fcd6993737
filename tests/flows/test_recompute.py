"""Recomputing decides what a run left open, with the model on those documents alone, as a run of its own."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from assay.flows.apply import apply_taggers
from assay.flows.recompute import recompute, recompute_lines
from assay.sae_runtime.runtime import Runtime
from assay.schemas.parameters import ApplyParameters, RecomputeParameters
from assay.schemas.store import TagManifest
from assay.workers.recomputing import ShardRecomputer
from tests.flows.conftest import Cli, TaggedHere, tag_here
from tests.flows.corpora import hashes

ATTEMPTS = ("/commits/", ".tmp-")


@pytest.fixture
def applied(store: Path, new_taggers: Path) -> TagManifest:
    """A run in `store` that left documents undecided."""
    return apply_taggers(ApplyParameters(store=str(store), taggers=str(new_taggers))).manifest


def tags_of(store: Path, manifest: TagManifest) -> pl.DataFrame:
    """Documents by shard and row."""
    frames = [
        pl.read_parquet(store / entry.objects["tags"].key).with_columns(shard=pl.lit(entry.shard))
        for entry in manifest.shards
        if not entry.unreadable and entry.rows_kept
    ]
    return pl.concat(frames).sort("shard", "row")


def parameters(store: Path, run: str) -> RecomputeParameters:
    return RecomputeParameters(store=str(store), run=run, device="cpu", threads=1)


def test_afterwards_every_tag_is_what_the_model_gives_and_the_others_are_untouched(
    tagged_here: TaggedHere,
    store: Path,
    applied: TagManifest,
    new_taggers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    stream = Runtime.stream

    def watching(self: Runtime, chunks: object) -> object:
        def told() -> object:
            for chunk in chunks:  # type: ignore[attr-defined]
                seen.extend(chunk)
                yield chunk

        return stream(self, told())  # type: ignore[arg-type]

    monkeypatch.setattr(Runtime, "stream", watching)
    before = hashes(store)
    report = recompute(parameters(store, applied.run))
    monkeypatch.setattr(Runtime, "stream", stream)
    assert before.items() <= hashes(store).items()
    was, now = tags_of(store, applied), tags_of(store, report.manifest)
    names = ("courage", "kindness", "open")
    open_rows = was.select(pl.any_horizontal(pl.col(name).is_null() for name in names)).to_series()
    assert 0 < open_rows.sum() < was.height
    assert now.select(names).null_count().row(0) == (0, 0, 0)
    assert report.manifest.undecided == {}
    assert now.filter(~open_rows).equals(was.filter(~open_rows))
    assert was.select("row", "doc_id", "n_bytes", "n_tokens", "tokens_seen").equals(
        now.select("row", "doc_id", "n_bytes", "n_tokens", "tokens_seen")
    )
    again = report.manifest.recomputed
    assert again is not None
    assert (again.run, again.documents) == (applied.run, open_rows.sum())
    assert again.tokens == was.filter(open_rows)["n_tokens"].sum()
    assert sorted(seen) == sorted(tagged_here.corpus.documents[name] for name in was.filter(open_rows)["doc_id"])
    assert f"the model ran on {again.documents:,} of {was.height:,} documents" in "\n".join(recompute_lines(report))

    _keep_everything(tagged_here, tmp_path)
    everything = {"store": str(tmp_path / "whole"), "scope": str(tmp_path / "whole.yaml")}
    fresh = tag_here(tagged_here.parameters(**everything, taggers=str(new_taggers)))
    exact = tags_of(tmp_path / "whole", fresh)
    assert fresh.undecided == {}
    for name in names:
        found = now[name].to_numpy()
        # What was decided within its bounds may lie up to 0.02 from the exact score.
        assert abs(found - exact[name].to_numpy()).max() <= 0.02
        assert abs(found - exact[name].to_numpy())[open_rows.to_numpy()].max() < 2e-3


def _keep_everything(tagged_here: TaggedHere, folder: Path) -> None:
    """Writes the scope with so large a top_m that nothing is cut."""
    (folder / "whole.yaml").write_text(tagged_here.scope.read_text().replace("top_m: 24", "top_m: 100000"))


def test_an_interrupted_recomputation_goes_on_to_the_same_bytes(
    store: Path, applied: TagManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(store, undisturbed)
    wanted = recompute(parameters(undisturbed, applied.run)).manifest
    whole, done = ShardRecomputer.process, []

    def process(self: ShardRecomputer, shard: object, attempt: str) -> object:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(shard)
        return whole(self, shard, attempt)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardRecomputer, "process", process)
    with pytest.raises(KeyboardInterrupt):
        recompute(parameters(store, applied.run))
    monkeypatch.setattr(ShardRecomputer, "process", whole)
    report = recompute(parameters(store, applied.run))
    assert report.skipped == 4
    assert report.manifest == wanted
    assert hashes(store, without=ATTEMPTS) == hashes(undisturbed, without=ATTEMPTS)
    third = recompute(parameters(store, applied.run))
    assert (third.skipped, third.manifest) == (len(wanted.shards), wanted)


def test_where_nothing_is_undecided_nothing_is_written(tagged_here: TaggedHere, store: Path, cli: Cli) -> None:
    before = hashes(store)
    ran = cli("recompute", store, "--device", "cpu")
    assert "nothing is undecided" in ran.out
    assert hashes(store) == before


def test_the_command_names_what_it_did_and_status_shows_nothing_undecided(
    store: Path, applied: TagManifest, cli: Cli
) -> None:
    rows: Sequence[dict[str, object]] = json.loads(cli("status", store, "--json").out)
    assert {str(r["run"]): r["undecided"] for r in rows}[applied.run] == applied.undecided
    ran = cli("recompute", store, "--run", applied.run, "--device", "cpu", "--threads", 1)
    assert ran.code == 1, "the truncated file is still a finding"
    assert "undecided now: 0" in ran.out
    rows = json.loads(cli("status", store, "--json").out)
    assert len(rows) == 3
    assert sum(bool(r["undecided"]) for r in rows) == 1
    assert [t.name for t in load_taggers_of(store, rows, applied)] == ["courage", "kindness", "open"]


def load_taggers_of(store: Path, rows: Sequence[dict[str, object]], applied: TagManifest) -> object:
    """The taggers of the newest run, as its own record in the store has them."""
    from assay.workers.storage.objects import ObjectStore
    from assay.workers.stores import load_manifest, read_taggers

    objects = ObjectStore(str(store))
    runs = [load_manifest(objects, str(r["run"])) for r in rows]
    [again] = [manifest for manifest in runs if manifest.recomputed]
    assert again.recomputed is not None
    assert again.recomputed.run == applied.run
    return read_taggers(objects, again.tagset)

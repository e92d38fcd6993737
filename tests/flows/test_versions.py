"""A dataset that grows by night: only what is new is done, nothing is taken back but what was taken down."""

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest

from assay.flows import curate as flow
from assay.flows.cli import OK, USAGE
from assay.flows.curate import Preview
from assay.flows.recipes import read_recipe
from assay.flows.tag import plan_shards, seal_run, tag_job
from assay.schemas.curation import CurationManifest
from assay.schemas.parameters import CurateParameters
from assay.workers.curating import ShardCurator
from assay.workers.tagging import ShardTagger
from tests.corpus_files import json_lines, write
from tests.flows.conftest import Cli, tag_parameters
from tests.flows.corpora import document, hashes

RECIPE = """\
name: nightly
sources:
  - {{store: {folder}/store, run: {run}, name: web}}
{takedown}rules:
  - {{name: short, reason: short, drop_if: n_tokens < {least}}}
sample: {{fraction: 0.8}}
output: {{path: {folder}/out, versions: true, dropped: true, shard_mb: 0.01, format: {format}}}
"""


class Nights:
    """A corpus folder that gets a file a night, its store, and its dataset."""

    def __init__(self, folder: Path, scope: Path, kind: str = "parquet") -> None:
        self.folder, self._scope, self._kind = folder, scope, kind
        self.texts: dict[str, str] = {}
        self.run = ""
        (folder / "corpus").mkdir()

    def arrive(self, night: int, count: int = 40) -> None:
        """A night's file arrives and is tagged."""
        rows = [{"id": f"n{night}-{i}", "text": f"{document(night * 100 + i)} night {night} {i}"} for i in range(count)]
        self.texts |= {row["id"]: row["text"] for row in rows}
        write(self.folder / "corpus" / f"night-{night}.jsonl", json_lines(rows))
        plan = plan_shards.fn(tag_parameters(self.folder / "corpus", self.folder / "store", self._scope))
        tagger = ShardTagger(tag_job(plan))
        for shard in plan.corpus.shards:
            tagger.process(shard, f"night-{night}")
        self.run = seal_run.fn(plan).run

    def recipe(self, *, least: int = 30, takedown: str = "") -> Path:
        path = self.folder / "recipe.yaml"
        line = f"takedown: {takedown}\n" if takedown else ""
        text = RECIPE.format(folder=self.folder, run=self.run, least=least, takedown=line, format=self._kind)
        path.write_text(text, "utf-8")
        return path

    def preview(self, **recipe: str) -> Preview:
        """What the recipe would do now."""
        path = self.recipe(**recipe)  # type: ignore[arg-type]
        return flow.survey.fn(CurateParameters(recipe=read_recipe(path), where=str(path)))

    def curate(self, **recipe: str) -> CurationManifest:
        """What the flow does, without Ray."""
        preview = self.preview(**recipe)
        assert not preview.prepared.nothing_new
        flow.claim_output.fn(preview)
        curator = ShardCurator(preview.job, tuple(m.shards for m in preview.prepared.manifests))
        for unit in preview.shards:
            curator.process(unit, "attempt")
        return flow.seal_dataset.fn(preview)

    def ids(self, number: int) -> list[str]:
        """The ids of a version, read as its manifest says, every part verified."""
        manifest = json.loads((self.folder / f"out/v{number:05d}/manifest.json").read_bytes())
        found: list[str] = []
        for part in manifest["version"]["parts"]:
            data = (self.folder / "out" / part["key"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == part["sha256"]
            table = pl.read_parquet(data) if self._kind == "parquet" else pl.read_ndjson(data)
            found += table["assay_id"].to_list()
        assert len(found) == manifest["version"]["rows"]
        return found


@pytest.mark.parametrize("kind", ["parquet", "jsonl.zst"])
def test_each_night_adds_its_own_and_a_takedown_removes_its_documents_from_then_on(
    tiny_scope: Path, tmp_path: Path, cli: Cli, kind: str
) -> None:
    nights = Nights(tmp_path, tiny_scope, kind)
    nights.arrive(1)
    first = nights.curate()
    assert first.version is not None
    assert (first.version.number, first.version.base, first.rows_in) == (1, None, 40)
    one = nights.ids(1)
    assert 5 < len(one) < 40
    frozen = hashes(tmp_path / "out")

    nights.arrive(2)
    second = nights.curate()
    assert second.version is not None
    assert second.recipe.output.path == str(tmp_path / "out/v00002")
    assert (second.version.number, second.rows_in) == (2, 40)
    two = nights.ids(2)
    assert two[: len(one)] == one
    assert {i.split("-")[0] for i in two[len(one) :]} == {"n2"}
    assert second.version.base == hashlib.sha256((tmp_path / "out/v00001/manifest.json").read_bytes()).hexdigest()
    again = nights.preview()
    assert (again.prepared.nothing_new, again.rows_in) == (True, 0)

    listed, hashed = one[3], one[-1]
    (tmp_path / "down.txt").write_text(
        f"# asked for by its author\n{listed}\nsha256:{hashlib.sha256(nights.texts[hashed].encode()).hexdigest()}\n"
        "n3-0\nnever-seen\n"
    )
    nights.arrive(3)
    third = nights.curate(takedown=str(tmp_path / "down.txt"))
    three = nights.ids(3)
    assert [i for i in three if not i.startswith("n3-")] == [i for i in two if i not in (listed, hashed)]
    assert "n3-0" not in three
    assert third.takedown is not None
    entries = sorted(line for line in (tmp_path / "down.txt").read_text().splitlines() if not line.startswith("#"))
    assert third.takedown.sha256 == hashlib.sha256("".join(f"{e}\n" for e in entries).encode()).hexdigest()
    assert (third.takedown.entries, third.takedown.new_documents, third.takedown.removed_rows) == (4, 1, 2)
    assert third.rows_in == third.kept.documents + third.dropped.documents + third.rows_quarantined
    written = b"".join(path.read_bytes() for path in (tmp_path / "out/v00003").rglob("*.jsonl.zst"))
    if kind == "parquet":
        gone = pl.concat([pl.read_parquet(p) for p in sorted((tmp_path / "out/v00003/dropped").iterdir())])
        assert "n3-0" not in gone["assay_id"].to_list()
    else:
        assert written

    assert nights.ids(1) == one
    assert {key: value for key, value in hashes(tmp_path / "out").items() if key.startswith("v00001/")} == frozen
    (tmp_path / "down.txt").write_text((tmp_path / "down.txt").read_text() + f"{three[0]}\n")
    for number in (1, 3):
        checked = cli("fsck", tmp_path / f"out/v{number:05d}")
        assert checked.code == OK, checked.out
    fourth = nights.curate(takedown=str(tmp_path / "down.txt"))
    assert fourth.rows_in == 0
    assert nights.ids(4) == three[1:]


def test_another_recipe_can_not_add_to_a_chain_and_a_changed_manifest_breaks_it(
    tiny_scope: Path, tmp_path: Path, cli: Cli
) -> None:
    nights = Nights(tmp_path, tiny_scope)
    nights.arrive(1)
    nights.curate()
    told = cli("why", tmp_path / "out", "n1-0")
    assert told.code == OK, told.err
    report = cli("report", tmp_path / "out/v00001")
    assert report.code == OK, report.err
    refused = cli("curate", nights.recipe(least=31))
    assert refused.code == USAGE
    assert "the versions there are of another recipe" in refused.err
    nights.arrive(2)
    nights.curate()
    manifest = tmp_path / "out/v00001/manifest.json"
    manifest.write_text(manifest.read_text().replace('"license":"other"', '"license":"mit"'))
    broken = cli("curate", nights.recipe())
    assert broken.code == USAGE
    assert "this version doesn't follow from the one before it" in broken.err

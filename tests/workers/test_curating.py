"""Curating keeps, drops and counts every document once, in order, and leaves the source's columns as they are."""

import datetime
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from assay.schemas.corpus import ReadOptions
from assay.schemas.curation import OutputShard, Tally
from assay.schemas.errors import AssayError
from assay.schemas.recipe import Recipe
from assay.schemas.scope import Scope
from assay.schemas.statistics import TagColumn
from assay.schemas.store import ShardCommit, ShardEntry
from assay.schemas.tagger import Tagger
from assay.workers.corpora.columns import unify_columns
from assay.workers.corpora.planning import plan_corpus
from assay.workers.curate_job import CurateJob, TaggedShard
from assay.workers.curating import ShardCurator, output_schema
from assay.workers.ranking import HashCache
from assay.workers.sealing import shard_entry
from assay.workers.storage.objects import ObjectStore
from assay.workers.survey_total import SurveyTotal
from assay.workers.surveying import OutputPlanner, Survey, Surveyor, find_stages
from assay.workers.tagging import ShardTagger, TagJob
from tests.corpus_files import json_lines, write, write_parquet

OPTIONS = ReadOptions(id_column="id")
COLUMNS = (
    TagColumn(name="quality", axis="quality", kind="score"),
    TagColumn(name="domain", axis="domain", kind="label"),
)
RULES = [
    {"name": "short", "reason": "short", "drop_if": "n_tokens < 12"},
    {"name": "shop", "reason": "shops", "drop_if": 'domain == "shop"'},
    {"name": "tiny", "reason": "never first", "drop_if": "n_tokens < 5"},
]


class Source(NamedTuple):
    """A tagged corpus."""

    path: Path
    store: str
    entries: tuple[ShardEntry, ...]
    columns: dict[str, str]

    def tags(self) -> list[dict[str, Any]]:
        """All its documents' tags, in corpus order."""
        store = ObjectStore(self.store)
        keys = [entry.objects["tags"] for entry in self.entries if not entry.unreadable]
        return [row for key in keys for row in pq.read_table(io.BytesIO(store.read_verified(key))).to_pylist()]


class Curated(NamedTuple):
    """A curation done by hand: what the flow does, without it."""

    job: CurateJob
    surveys: list[Survey]
    shards: list[OutputShard]
    commits: list[ShardCommit]

    def table(self, role: str = "data") -> pa.Table:
        """The output objects, read in order and put together."""
        output = ObjectStore(self.job.recipe.output.path)
        parts = [output.read_verified(commit.objects[role]) for commit in self.commits]
        return pa.concat_tables(pq.read_table(io.BytesIO(data)) for data in parts)

    def lines(self, role: str = "data") -> list[dict[str, Any]]:
        """The rows of JSONL output; anything that isn't strict JSON is an error."""

        def refuse(constant: str) -> None:
            raise ValueError(f"{constant} is no JSON")

        output = ObjectStore(self.job.recipe.output.path)
        rows = []
        for commit in self.commits:
            data = pa.CompressedInputStream(pa.BufferReader(output.read_verified(commit.objects[role])), "zstd").read()
            rows += [json.loads(line, parse_constant=refuse) for line in data.splitlines()]
        return rows


class Workplace:
    """Tags and curates in a folder."""

    def __init__(self, folder: Path, scope: Scope, taggers: tuple[Tagger, ...]) -> None:
        self.folder = folder
        self.watched = frozenset((f.layer, f.feature) for t in taggers for f in t.features)
        self._scope, self._taggers = scope, taggers

    def tag(self, path: Path, shard_bytes: int = 700) -> Source:
        store = str(self.folder / f"store-{path.stem}")
        watched = tuple({(f.layer, f.feature) for t in self._taggers for f in t.features})
        tagger = ShardTagger(TagJob(store, OPTIONS, self._scope, self._taggers, watched, device="cpu"))
        shards = plan_corpus(str(path), OPTIONS, shard_bytes).shards
        commits = [tagger.process(shard, "tag") for shard in shards]
        entries = tuple(shard_entry(shard, commit) for shard, commit in zip(shards, commits, strict=True))
        return Source(path, store, entries, unify_columns(commit.columns for commit in commits))

    def job(
        self,
        sources: Sequence[Source],
        rules: Sequence[dict[str, Any]] = RULES,
        stages: dict[str, Any] | None = None,
        **output: Any,
    ) -> CurateJob:
        recipe = Recipe.model_validate(
            {
                "name": "test",
                "sources": [{"store": source.store, "name": source.path.stem} for source in sources],
                "rules": list(rules),
                "output": {"path": str(self.folder / "output"), **output},
                **(stages or {}),
            }
        )
        columns = unify_columns(source.columns for source in sources)
        labels = {"domain": ("code", "news", "shop")}
        return CurateJob(recipe, "f", (OPTIONS,) * len(sources), COLUMNS, columns, labels, watched=self.watched)

    def curate(self, sources: Sequence[Source], job: CurateJob) -> Curated:
        units = [
            TaggedShard(s, i, entry)
            for s, source in enumerate(sources)
            for i, entry in enumerate(source.entries)
            if not entry.unreadable
        ]
        job = find_stages(job, units, HashCache())
        surveyor, planner, total, surveys = Surveyor(job), OutputPlanner(job.recipe), SurveyTotal(job), []
        for unit in units:
            surveys.append(surveyor.process(unit, "survey"))
            planner.add(unit, surveys[-1])
            total.add(surveys[-1])
        job = job._replace(stages=total.stages())
        shards = planner.finish()
        curator = ShardCurator(job, tuple(source.entries for source in sources))
        return Curated(job, surveys, shards, [curator.process(shard, "curate") for shard in shards])


@pytest.fixture
def workplace(tmp_path: Path, tiny_scope: Scope, tiny_taggers: tuple[Tagger, Tagger]) -> Workplace:
    return Workplace(tmp_path, tiny_scope, tiny_taggers)


def texts(count: int = 40) -> list[dict[str, Any]]:
    words = ["fox", "lazy dog", "cat", "quick brown", "jumps over"]
    return [
        {"id": f"doc-{i}", "text": " ".join(words[(i + j) % 5 * (j % 3) % 5] for j in range(1 + i * 7 % 23)), "n": i}
        for i in range(count)
    ]


@pytest.fixture
def parquet(workplace: Workplace) -> Source:
    """Forty documents in several shards, with a bad row among them."""
    rows = texts()
    rows.insert(11, {"id": "bad", "text": None, "n": -1})
    source = workplace.tag(write_parquet(workplace.folder / "a.parquet", rows, row_group_size=9))
    assert len(source.entries) > 3
    return source


def reference(source: Source) -> tuple[list[str], list[tuple[str, str]]]:
    """The ids that RULES keep, and those they drop with the rule's name, both in corpus order."""
    kept, dropped = [], []
    for row in source.tags():
        if row["n_tokens"] < 12:
            dropped.append((row["doc_id"], "short"))
        elif row["domain"] == "shop":
            dropped.append((row["doc_id"], "shop"))
        else:
            kept.append(row["doc_id"])
    assert len(kept) > 5
    assert {rule for _, rule in dropped} == {"short", "shop"}
    return kept, dropped


@pytest.mark.parametrize("kind", ["parquet", "jsonl.zst"])
@pytest.mark.parametrize("shard_mb", [0.5e-6, 1e-4, 4e-4, 1e-3, 1.0])
def test_outputs_in_order_are_the_kept_documents_in_corpus_order_whatever_their_size(
    workplace: Workplace, parquet: Source, shard_mb: float, kind: str
) -> None:
    curated = workplace.curate([parquet], workplace.job([parquet], shard_mb=shard_mb, format=kind, dropped=True))
    rows, gone = (curated.table(role).to_pylist() for role in ("data", "dropped")) if kind == "parquet" else (
        curated.lines("data"), curated.lines("dropped"),
    )  # fmt: skip
    kept, dropped = reference(parquet)
    assert [row["assay_id"] for row in rows] == [row["id"] for row in rows] == kept
    assert [(row["assay_id"], row["assay_rule"]) for row in gone] == dropped
    commits = curated.commits
    assert sum(c.rows_kept for c in commits) == len(kept)
    assert sum(c.rows_dropped for c in commits) == len(dropped)
    assert all(c.rows_in == c.rows_kept + c.rows_dropped for c in commits)
    by_id = {row["doc_id"]: row for row in parquet.tags()}
    assert all(row["assay_n_tokens"] == by_id[row["id"]]["n_tokens"] for row in rows)
    assert all(row["assay_quality"] == by_id[row["id"]]["quality"] for row in rows)
    assert sum(c.tokens for c in commits) == sum(row["assay_n_tokens"] for row in rows)


@pytest.mark.parametrize("shard_mb", [0.5e-6, 1e-4, 4e-4, 1e-3, 1.0])
def test_output_shards_exceed_their_size_by_less_than_a_document(
    workplace: Workplace, parquet: Source, shard_mb: float
) -> None:
    curated = workplace.curate([parquet], workplace.job([parquet], shard_mb=shard_mb))
    sizes = {row["doc_id"]: row["n_bytes"] for row in parquet.tags()}
    output = ObjectStore(curated.job.recipe.output.path)
    largest, target = max(sizes.values()), shard_mb * 2**20
    made = []
    for shard, commit in zip(curated.shards, curated.commits, strict=True):
        assert commit.objects["data"].key == f"data/{shard.id}.parquet"
        ids = pq.read_table(io.BytesIO(output.read_verified(commit.objects["data"])))["id"].to_pylist()
        made.append(sum(sizes[i] for i in ids))
    assert all(size < target + largest for size in made)
    if shard_mb == 1.0:
        assert len(made) == 1
    if shard_mb == 1e-4:
        assert len(made) > 5


def test_a_survey_counts_what_each_rule_drops_first_and_alone(workplace: Workplace, parquet: Source) -> None:
    surveys = workplace.curate([parquet], workplace.job([parquet])).surveys
    kept, dropped = reference(parquet)
    tags = parquet.tags()
    total = sum((s.kept for s in surveys), Tally())
    assert total == Tally(
        documents=len(kept),
        tokens=sum(row["n_tokens"] for row in tags if row["doc_id"] in kept),
        bytes=sum(row["n_bytes"] for row in tags if row["doc_id"] in kept),
    )
    first = [sum(s.dropped[i].documents for s in surveys) for i in range(3)]
    assert first == [sum(rule == name for _, rule in dropped) for name in ("short", "shop", "tiny")]
    alone = [sum(s.alone[i] for s in surveys) for i in range(3)]
    assert alone == [
        sum(row["n_tokens"] < 12 for row in tags),
        sum(row["domain"] == "shop" for row in tags),
        sum(row["n_tokens"] < 5 for row in tags),
    ]
    for statistics, count in (("kept", len(kept)), ("dropped", len(dropped))):
        cells = pa.concat_tables(s.statistics[statistics] for s in surveys)
        lengths = cells.filter(pc.equal(cells["metric"], "tokens"))
        assert sum(lengths["docs"].to_pylist()) == count


def test_without_rules_everything_is_kept_and_a_rule_for_all_leaves_an_empty_dataset_with_its_columns(
    workplace: Workplace, parquet: Source
) -> None:
    everything = workplace.curate([parquet], workplace.job([parquet], [], path=str(workplace.folder / "all")))
    assert everything.table()["id"].to_pylist() == [row["id"] for row in texts()]
    rule = {"name": "all", "reason": "all", "drop_if": "n_tokens > -1"}
    nothing = workplace.curate([parquet], workplace.job([parquet], [rule], path=str(workplace.folder / "none")))
    assert nothing.table().num_rows == 0
    assert nothing.table().schema.equals(output_schema(nothing.job))
    assert sum(c.rows_dropped for c in nothing.commits) == 40


def typed_table() -> pa.Table:
    rows = texts(12)
    stamps = [datetime.datetime(2026, 1, 1 + i, tzinfo=datetime.UTC) for i in range(12)]
    return pa.table(
        {
            "text": pa.array([row["text"] for row in rows], pa.large_string()),
            "id": [row["id"] for row in rows],
            "when": pa.array(stamps, pa.timestamp("ms", tz="UTC")),
            "tags": pa.array([[{"k": i, "v": None}] for i in range(12)]),
            "kind": pa.array(["a", "b", None] * 4).dictionary_encode(),
            "small": pa.array(range(12), pa.uint8()),
            "ratio": pa.array([float("nan"), float("inf"), None, 0.5] * 3),
            "raw": pa.array([b"\xff\x00", b"text", None] * 4),
        }
    )


def test_parquet_columns_come_through_with_their_types_and_values(workplace: Workplace) -> None:
    source = typed_table()
    tagged = workplace.tag(write_parquet(workplace.folder / "typed.parquet", source))
    found = workplace.curate([tagged], workplace.job([tagged], [])).table()
    for name in source.column_names:
        assert found.schema.field(name).type == source.schema.field(name).type
    exact = [name for name in source.column_names if name != "ratio"]
    assert found.select(exact).to_pylist() == source.select(exact).to_pylist()
    assert repr(found["ratio"].to_pylist()) == repr(source["ratio"].to_pylist())


def test_jsonl_output_of_any_column_is_strict_json(workplace: Workplace) -> None:
    tagged = workplace.tag(write_parquet(workplace.folder / "typed.parquet", typed_table()))
    rows = workplace.curate([tagged], workplace.job([tagged], [], format="jsonl.zst")).lines()
    assert rows[0]["when"] == "2026-01-01T00:00:00+00:00"
    assert rows[1]["tags"] == [{"k": 1, "v": None}]
    assert [row["ratio"] for row in rows[:4]] == [None, None, None, 0.5]
    assert [row["raw"] for row in rows[:3]] == ["/wA=", "text", None]
    assert [row["kind"] for row in rows[:3]] == ["a", "b", None]


@pytest.mark.parametrize("kind", ["parquet", "jsonl.zst"])
def test_jsonl_columns_come_through_and_mixed_ones_as_json_text(workplace: Workplace, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "text": "the fox jumps", "n": 1, "x": 1, "meta": {"b": [1, 2]}},
        {"id": "b", "text": "the dog — 漢字", "n": 2, "x": "one", "late": True},
        {"id": "c", "text": "the cat", "n": None, "x": None, "meta": None},
    ]
    tagged = workplace.tag(write(workplace.folder / "mixed.jsonl", json_lines(rows)))
    curated = workplace.curate([tagged], workplace.job([tagged], [], format=kind, tags=False))
    found = curated.table().to_pylist() if kind == "parquet" else curated.lines()
    assert [{k: v for k, v in row.items() if k != "assay_n_tokens"} for row in found] == [
        {"id": "a", "text": "the fox jumps", "n": 1, "x": "1", "meta": '{"b":[1,2]}', "late": None, "assay_id": "a"},
        {"id": "b", "text": "the dog — 漢字", "n": 2, "x": '"one"', "meta": None, "late": True, "assay_id": "b"},
        {"id": "c", "text": "the cat", "n": None, "x": None, "meta": None, "late": None, "assay_id": "c"},
    ]


def test_sources_of_unlike_columns_become_one_dataset_in_the_recipes_order(
    workplace: Workplace, parquet: Source
) -> None:
    other = workplace.tag(write(workplace.folder / "b.jsonl", json_lines([{"id": "j", "text": "a fox", "n": "many"}])))
    curated = workplace.curate([other, parquet], workplace.job([other, parquet], [], shard_mb=1e-4))
    found = curated.table()
    assert found["id"].to_pylist() == ["j", *(row["id"] for row in texts())]
    assert found["n"].to_pylist()[:3] == ['"many"', "0", "1"]


def test_polars_reads_the_dataset(workplace: Workplace, parquet: Source) -> None:
    curated = workplace.curate([parquet], workplace.job([parquet], shard_mb=4e-4))
    folder = Path(curated.job.recipe.output.path) / "data"
    assert pl.read_parquet(folder / "*.parquet")["id"].to_list() == reference(parquet)[0]


def contents(store: str) -> dict[str, bytes]:
    objects = ObjectStore(store)
    return {key: objects.read(key) for key in objects.list()}


@pytest.mark.parametrize("kind", ["parquet", "jsonl.zst"])
def test_curating_again_changes_nothing_and_elsewhere_gives_the_same_bytes(
    workplace: Workplace, parquet: Source, kind: str
) -> None:
    job = workplace.job([parquet], shard_mb=4e-4, format=kind, dropped=True)
    first = workplace.curate([parquet], job)
    before = contents(job.recipe.output.path)
    assert workplace.curate([parquet], job).commits == first.commits
    assert contents(job.recipe.output.path) == before
    path = str(workplace.folder / "elsewhere")
    workplace.curate([parquet], workplace.job([parquet], shard_mb=4e-4, format=kind, dropped=True, path=path))
    data = {key: value for key, value in before.items() if not key.startswith("_assay/")}
    assert data == {key: value for key, value in contents(path).items() if not key.startswith("_assay/")}


def test_an_attempt_that_fails_between_its_data_and_its_commit_is_made_good(
    workplace: Workplace, parquet: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = workplace.job([parquet], dropped=True)
    original = ObjectStore.create

    def create(self: ObjectStore, key: str, data: bytes, *, attempt: str) -> bool:
        if "/commits/" in key:
            raise OSError("the network is gone")
        return original(self, key, data, attempt=attempt)

    monkeypatch.setattr(ObjectStore, "create", create)
    with pytest.raises(OSError, match="gone"):
        workplace.curate([parquet], job)
    left = contents(job.recipe.output.path)
    assert len(left) == 2
    monkeypatch.setattr(ObjectStore, "create", original)
    curated = workplace.curate([parquet], job)
    assert curated.table()["id"].to_pylist() == reference(parquet)[0]
    assert left.items() <= contents(job.recipe.output.path).items()


def test_an_output_object_of_other_bytes_is_an_error_and_stays(workplace: Workplace, parquet: Source) -> None:
    job = workplace.job([parquet])
    output = ObjectStore(job.recipe.output.path)
    output.create("data/part-00000-of-00001.parquet", b"somebody else's", attempt="other")
    with pytest.raises(AssayError, match="the object isn't what was written"):
        workplace.curate([parquet], job)
    assert contents(job.recipe.output.path) == {"data/part-00000-of-00001.parquet": b"somebody else's"}


@pytest.mark.parametrize(
    ("column", "output"),
    [
        ("assay_id", {"tags": False}),
        ("assay_n_tokens", {}),
        ("assay_quality", {}),
        ("assay_domain_p", {}),
        ("assay_rule", {"dropped": True}),
    ],
)
def test_a_source_column_with_one_of_our_names_is_refused(
    workplace: Workplace, column: str, output: dict[str, Any]
) -> None:
    job = _job_with(workplace, column, output)
    with pytest.raises(AssayError, match=f"the source already has columns \\['{column}'\\]"):
        output_schema(job)


def test_a_source_column_with_the_name_of_what_is_not_written_is_fine(workplace: Workplace) -> None:
    for column, output in (("assay_quality", {"tags": False}), ("assay_rule", {})):
        assert column in output_schema(_job_with(workplace, column, output)).names


@pytest.mark.parametrize("name", ["id", "rule"])
def test_a_tagger_with_the_name_of_another_column_of_ours_is_refused(workplace: Workplace, name: str) -> None:
    job = _job_with(workplace, "text", {"dropped": True})
    job = job._replace(tag_columns=(TagColumn(name=name, axis="custom", kind="score"),))
    with pytest.raises(AssayError, match=f"assay_{name}"):
        output_schema(job)


def _job_with(workplace: Workplace, column: str, output: dict[str, Any]) -> CurateJob:
    source = Source(workplace.folder, str(workplace.folder / "store"), (), {"text": "string", column: "string"})
    return workplace.job([source], [], **output)


def test_a_shard_without_documents_adds_none(workplace: Workplace) -> None:
    good, bad = texts(3), [{"id": f"bad-{i}", "text": ""} for i in range(3)]
    (workplace.folder / "c").mkdir()
    for name, rows in (("1", bad), ("2", good), ("3", bad)):
        write(workplace.folder / "c" / f"{name}.jsonl", json_lines(rows))
    tagged = workplace.tag(workplace.folder / "c")
    assert [entry.rows_kept for entry in tagged.entries] == [0, 3, 0]
    curated = workplace.curate([tagged], workplace.job([tagged], []))
    assert curated.table()["id"].to_pylist() == [row["id"] for row in good]
    assert len(curated.shards) == 1


def test_a_source_that_changed_since_it_was_tagged_is_an_error(workplace: Workplace, parquet: Source) -> None:
    write_parquet(parquet.path, texts(41))
    with pytest.raises(AssayError, match="changed"):
        workplace.curate([parquet], workplace.job([parquet]))


@pytest.fixture
def large(workplace: Workplace) -> Source:
    """Four hundred documents in several shards."""
    return workplace.tag(write_parquet(workplace.folder / "large.parquet", texts(400), row_group_size=70), 9_000)


def chosen(workplace: Workplace, source: Sequence[Source], stages: dict[str, Any], folder: str = "o") -> pa.Table:
    """What a recipe without rules writes with these stages."""
    job = workplace.job(source, [], stages, path=str(workplace.folder / folder), tags=True)
    return workplace.curate(source, job).table()


def tokens_by_domain(rows: Sequence[dict[str, Any]], prefix: str = "") -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        domain = row[f"{prefix}domain"]
        found[domain] = found.get(domain, 0) + row[f"{prefix}n_tokens"]
    return found


def test_a_mixture_meets_its_shares_to_within_a_document_and_repeats_by_whole_copies_and_a_hashed_rest(
    workplace: Workplace, large: Source
) -> None:
    there = tokens_by_domain(large.tags())
    domains = sorted(there, key=lambda d: there[d])
    small, big = domains[-2:]
    shares = {small: 0.5, big: 0.5}
    total = int(there[small] * 2.3 / 0.5)
    mixture = {"by": "domain", "shares": shares, "total": total, "max_repeat": 2.5}
    rows = chosen(workplace, [large], {"mixture": mixture}).to_pylist()
    longest = max(row["n_tokens"] for row in large.tags())
    got = tokens_by_domain(rows, "assay_")
    assert set(got) == {small, big}
    for domain in shares:
        assert 0 <= total / 2 - got[domain] < longest
    copies: dict[str, list[int]] = {}
    for row in rows:
        copies.setdefault(row["assay_id"], []).append(row["assay_copy"])
    counts = {i: len(c) for i, c in copies.items() if row_domain(large, i) == small}
    assert set(counts) == {row["doc_id"] for row in large.tags() if row["domain"] == small}
    assert set(counts.values()) == {2, 3}
    assert all(c == list(range(len(c))) for c in copies.values())


def row_domain(source: Source, doc_id: str) -> str:
    return next(row["domain"] for row in source.tags() if row["doc_id"] == doc_id)


def test_a_mixture_without_a_total_is_as_large_as_its_caps_allow(workplace: Workplace, large: Source) -> None:
    there = tokens_by_domain(large.tags())
    names = sorted(there)[:2]
    mixture = {"by": "domain", "shares": {names[0]: 0.25, names[1]: 0.75}, "unit": "documents"}
    rows = chosen(workplace, [large], {"mixture": mixture}).to_pylist()
    count = {n: sum(row["domain"] == n for row in large.tags()) for n in names}
    total = min(count[names[0]] / 0.25, count[names[1]] / 0.75)
    got = {n: sum(row["assay_domain"] == n for row in rows) for n in names}
    assert got == {names[0]: int(total * 0.25), names[1]: int(total * 0.75)}
    assert "assay_copy" not in rows[0]


def test_a_cap_that_binds_is_reported_and_the_rest_can_be_kept(workplace: Workplace, large: Source) -> None:
    there = tokens_by_domain(large.tags())
    name = min(there, key=lambda d: there[d])
    mixture = {"by": "domain", "shares": {name: 1.0}, "total": 10 * there[name], "max_repeat": 2, "rest": "keep"}
    curated = workplace.curate([large], workplace.job([large], [], {"mixture": mixture}))
    (stage,) = curated.job.stages
    by_name = {s.stratum: s for s in stage.strata}
    assert by_name[name].capped
    assert by_name[name].written.tokens == 2 * there[name]
    assert by_name[""].written == by_name[""].available == by_name[""].kept
    assert stage.dropped.documents == 0
    assert sum(c.rows_repeated for c in curated.commits) == by_name[name].kept.documents
    assert curated.table().num_rows == sum(c.rows_kept + c.rows_repeated for c in curated.commits)


def test_a_mixture_of_a_value_that_no_document_has_needs_a_total(workplace: Workplace, large: Source) -> None:
    gone = [{"name": "r", "reason": "r", "drop_if": "domain == 'code'"}]
    job = workplace.job([large], gone, {"mixture": {"by": "domain", "shares": {"code": 0.5, "news": 0.5}}})
    with pytest.raises(AssayError, match="no document is left whose domain is 'code'"):
        workplace.curate([large], job)


@pytest.mark.parametrize("size", [{"documents": 100}, {"tokens": 900}, {"fraction": 0.3}])
@pytest.mark.parametrize("top", [None, "quality", "-n_tokens"])
def test_a_larger_sample_holds_a_smaller_one_and_keeps_its_budget(
    workplace: Workplace, large: Source, size: dict[str, float], top: str | None
) -> None:
    (unit, amount), order = next(iter(size.items())), {"top": top} if top else {}
    small, big = (
        chosen(workplace, [large], {"sample": {unit: times * amount, **order}}, folder).to_pylist()
        for times, folder in ((1, "small"), (2, "big"))
    )
    assert {row["id"] for row in small} < {row["id"] for row in big}
    tags = {row["doc_id"]: row for row in large.tags()}
    if unit == "tokens":
        longest = max(row["n_tokens"] for row in tags.values())
        assert 0 <= amount - sum(row["assay_n_tokens"] for row in small) < longest
    elif unit == "documents" or top:
        assert len(small) == (100 if unit == "documents" else 120)
    if top:
        score = {i: row["quality"] if top == "quality" else -row["n_tokens"] for i, row in tags.items()}
        known = [row["id"] for row in small if score[row["id"]] is not None]
        out = [score[i] for i in tags.keys() - {row["id"] for row in small} if score[i] is not None]
        assert min(score[i] for i in known) >= max(out)


def test_a_sample_within_a_tag_keeps_the_part_of_each_value(workplace: Workplace, large: Source) -> None:
    rows = chosen(workplace, [large], {"sample": {"documents": 200, "within": "domain"}}).to_pylist()
    for domain in {row["domain"] for row in large.tags()}:
        there = sum(row["domain"] == domain for row in large.tags())
        assert abs(sum(row["assay_domain"] == domain for row in rows) - there / 2) <= 1


def test_another_source_does_not_reshuffle_the_first(workplace: Workplace, large: Source, parquet: Source) -> None:
    alone = chosen(workplace, [large], {"sample": {"fraction": 0.4}}, "alone").to_pylist()
    both = chosen(workplace, [parquet, large], {"sample": {"fraction": 0.4}}, "both").to_pylist()
    names = [row["id"] for row in both]
    assert [row["id"] for row in alone] == names[len(names) - len(alone) :]
    reseeded = chosen(workplace, [large], {"sample": {"fraction": 0.4}, "seed": 1}, "seed").to_pylist()
    assert {row["id"] for row in reseeded} != {row["id"] for row in alone}


def test_sample_and_mixture_account_for_every_document_and_are_named_in_dropped(
    workplace: Workplace, large: Source
) -> None:
    stages = {
        "sample": {"fraction": 0.5},
        "mixture": {"by": "source", "shares": {"large": 1}, "total": 50, "unit": "documents"},
    }
    curated = workplace.curate([large], workplace.job([large], RULES[:1], stages, dropped=True))
    gone = [row["assay_rule"] for row in curated.table("dropped").to_pylist()]
    assert set(gone) == {"short", "sample", "mixture"}
    assert curated.table().num_rows == 50
    assert {s.name: s.dropped.documents for s in curated.job.stages} == {
        name: gone.count(name) for name in ("sample", "mixture")
    }
    assert len(gone) + 50 == 400
    sample, mixture = curated.job.stages
    assert sum(s.kept.documents for s in sample.strata) == sum(s.available.documents for s in mixture.strata)


def test_the_order_of_a_hash_shuffles_each_part_alike_and_loses_nothing(workplace: Workplace, large: Source) -> None:
    mixture = {"by": "source", "shares": {"large": 1}, "total": 500, "unit": "documents", "max_repeat": 2}
    tables = [
        workplace.curate(
            [large],
            workplace.job([large], [], {"mixture": mixture}, path=str(workplace.folder / name), order=order),
        ).table()
        for name, order in (("a", "corpus"), ("b", "hash"), ("c", "hash"))
    ]
    pairs = [list(zip(t["assay_id"].to_pylist(), t["assay_copy"].to_pylist(), strict=True)) for t in tables]
    assert pairs[1] == pairs[2] != pairs[0]
    assert sorted(pairs[0]) == sorted(pairs[1])


def test_an_output_can_name_its_columns_and_compression(workplace: Workplace, large: Source) -> None:
    job = workplace.job([large], [], columns=["n", "text"], compression="snappy", tags=False)
    curated = workplace.curate([large], job)
    assert curated.table().column_names == ["n", "text", "assay_id", "assay_n_tokens"]
    data = ObjectStore(job.recipe.output.path).read_verified(curated.commits[0].objects["data"])
    assert pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0).compression == "SNAPPY"


def test_a_rule_on_a_feature_reads_it_from_the_store_and_bounds_what_was_cut(
    workplace: Workplace, parquet: Source
) -> None:
    store = ObjectStore(parquet.store)
    features = pa.concat_tables(
        pq.read_table(io.BytesIO(store.read_verified(entry.objects["features"]))) for entry in parquet.entries
    )
    rows = features.select(["doc_id", "l1_ids", "l1_max", "l1_floor"]).to_pylist()
    feature = next(i for row in rows for i in row["l1_ids"] if (1, i) not in workplace.watched)
    value = {
        row["doc_id"]: dict(zip(row["l1_ids"], row["l1_max"], strict=True)).get(feature, row["l1_floor"] and None)
        for row in rows
    }
    floor = {row["doc_id"]: row["l1_floor"] for row in rows}
    cut = sorted(v for v in value.values() if v)[0]
    rule = {"name": "f", "reason": "f", "drop_if": f"feature(1, {feature}) >= {cut!r}"}
    job = workplace.job([parquet], [rule], dropped=True)
    curated = workplace.curate([parquet], job)
    gone = {row["assay_id"] for row in curated.table("dropped").to_pylist()}
    assert gone == {i for i, v in value.items() if v is not None and v >= cut}
    unknown = sum(survey.unknown[0] for survey in curated.surveys)
    assert unknown == sum(v is None and floor[i] >= cut for i, v in value.items())


def test_a_curation_that_was_broken_off_and_continued_gives_the_same_bytes(workplace: Workplace, large: Source) -> None:
    mixture = {"by": "domain", "shares": {"code": 0.4, "shop": 0.6}, "total": 3000, "max_repeat": 2}
    settings: dict[str, Any] = {"shard_mb": 0.001, "order": "hash", "dropped": True}
    stages = {"sample": {"documents": 300}, "mixture": mixture}
    whole = workplace.curate(
        [large], workplace.job([large], RULES, stages, path=str(workplace.folder / "whole"), **settings)
    )
    assert len(whole.shards) > 3
    again = workplace.job([large], RULES, stages, path=str(workplace.folder / "again"), **settings)
    units = [TaggedShard(0, i, entry) for i, entry in enumerate(large.entries)]
    first = ShardCurator(find_stages(again, units, HashCache()), (large.entries,))
    for unit in whole.shards[::2]:
        first.process(unit, "killed")
    second = ShardCurator(find_stages(again, units[:], HashCache(), threads=3), (large.entries,))
    commits = [second.process(unit, "continued") for unit in whole.shards]
    assert {commit.attempt for commit in commits} == {"killed", "continued"}
    assert [commit.objects for commit in commits] == [commit.objects for commit in whole.commits]

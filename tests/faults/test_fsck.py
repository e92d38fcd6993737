"""fsck finds every byte that isn't what was written, and its repair makes the same command come to the same bytes."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from assay.flows.cli import FINDINGS, OK, USAGE
from assay.flows.fsck import fsck
from assay.flows.tag import TagPlan, tag_job
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagging import ShardTagger
from tests.corpus_files import json_lines
from tests.faults.stores import begin, make_dataset, tag
from tests.flows.conftest import Cli
from tests.flows.corpora import document, hashes

ATTEMPTS = ["/commits/"]


class Whole(NamedTuple):
    """A finished run and a dataset made from it, which no test changes."""

    corpus: Path
    store: Path
    dataset: Path
    scope: Path
    tagger: ShardTagger
    shards: int


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_scope: Path) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "corpus").mkdir()
    for file in range(3):
        rows = [{"id": f"{file}/{row}", "text": document(100 * file + row)} for row in range(6)]
        (folder / "corpus" / f"{file}.jsonl").write_bytes(json_lines([*rows, {"id": "none", "text": None}]))
    plan = begin(folder / "corpus", folder / "store", tiny_scope)
    tagger = ShardTagger(tag_job(plan))
    tag(plan, tagger)
    make_dataset(folder / "store", folder / "dataset")
    yield Whole(folder / "corpus", folder / "store", folder / "dataset", tiny_scope, tagger, len(plan.corpus.shards))


@pytest.fixture
def store(whole: Whole, tmp_path: Path) -> Path:
    """A copy of the store, to be damaged."""
    return Path(shutil.copytree(whole.store, tmp_path / "store"))


def first(store: Path, pattern: str) -> Path:
    return sorted(store.glob(pattern))[0]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def again(whole: Whole, store: Path) -> None:
    """Does what is missing in `store`, as `assay tag` would."""
    plan: TagPlan = begin(whole.corpus, store, whole.scope)
    tag(plan, ShardTagger(tag_job(plan)))


def test_a_whole_store_and_a_whole_dataset_have_no_problem(whole: Whole, cli: Cli) -> None:
    report = fsck(str(whole.store))
    assert (report.problems, report.unfinished, report.orphans, report.strays) == ((), (), 0, ())
    assert report.commits == 2 * whole.shards
    assert report.objects == 4 * whole.shards + 1
    assert report.bytes == sum(p.stat().st_size for p in whole.store.rglob("*-????????????.*"))
    shown = cli("fsck", whole.dataset)
    assert shown.code == OK, shown.err
    assert "every byte and every row that a record names is there" in shown.out


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink], ids=["a bit flips", "a byte is cut off", "it is gone"])
@pytest.mark.parametrize(
    "pattern",
    ["features/*/data/*", "features/*/quarantine/*", "tags/*/data/*", "tags/*/statistics/*", "runs/*/statistics-*"],
)
def test_a_harmed_object_is_found_and_after_a_repair_the_same_command_makes_the_same_bytes(
    whole: Whole, store: Path, pattern: str, harm: Callable[[Path], None]
) -> None:
    victim = first(store, pattern)
    harm(victim)
    before = hashes(store)
    report = fsck(str(store))
    assert {problem.key for problem in report.problems} >= {str(victim.relative_to(store))}
    assert all(problem.kind in ("damaged", "missing", "disagrees") for problem in report.problems)
    assert hashes(store) == before
    assert fsck(str(store), fix=True).repaired
    left = fsck(str(store))
    assert left.problems == ()
    assert len(left.unfinished) == (not pattern.startswith("runs"))
    again(whole, store)
    assert fsck(str(store)).problems == ()
    assert hashes(store, without=ATTEMPTS) == hashes(whole.store, without=ATTEMPTS)


RECORDS = ["tags/*/commits/*", "features/*/identity.json", "tags/*/taggers.json", "runs/*/run.json",
           "runs/*/plan.json", "runs/*/manifest.json"]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "harm"),
    [("features/*/commits/*", half), ("assay-store.json", Path.unlink)]
    + [(pattern, harm) for pattern in RECORDS for harm in (half, Path.unlink)],
)
def test_a_harmed_record_is_found_and_made_good(
    whole: Whole, store: Path, pattern: str, harm: Callable[[Path], None], cli: Cli
) -> None:
    victim = first(store, pattern)
    harm(victim)
    found = cli("fsck", store)
    assert found.code == FINDINGS, found.out
    assert cli("fsck", store, "--fix").code == FINDINGS
    again(whole, store)
    assert fsck(str(store)).problems == ()
    assert hashes(store, without=ATTEMPTS) == hashes(whole.store, without=ATTEMPTS)


def test_a_commit_of_features_that_is_gone_is_no_harm_while_the_tags_name_their_objects(store: Path) -> None:
    first(store, "features/*/commits/*").unlink()
    report = fsck(str(store))
    assert (report.problems, report.orphans) == ((), 0)


def test_a_manifest_that_says_other_than_its_commits_is_found_and_written_again(whole: Whole, store: Path) -> None:
    path = first(store, "runs/*/manifest.json")
    manifest = json.loads(path.read_bytes())
    manifest["rows_kept"] += 1
    manifest["shards"][1]["tokens"] += 1
    path.write_bytes(json.dumps(manifest).encode())
    [problem] = fsck(str(store), fix=True).problems
    assert problem.kind == "disagrees"
    assert "rows_kept, shards" in problem.what
    assert hashes(store) == hashes(whole.store)


def test_a_commit_under_another_shards_or_runs_name_is_found(store: Path) -> None:
    one, two = sorted(store.glob("tags/*/commits/*"))[:2]
    two.write_bytes(one.read_bytes())
    assert str(two.relative_to(store)) in {problem.key for problem in fsck(str(store)).problems}
    record = json.loads(one.read_bytes())
    record["fingerprint"] = "0" * 16
    one.write_bytes(json.dumps(record).encode())
    assert str(one.relative_to(store)) in {problem.key for problem in fsck(str(store)).problems}


def test_a_run_whose_driver_died_before_the_manifest_is_sealed_by_a_repair(whole: Whole, store: Path) -> None:
    first(store, "runs/*/manifest.json").unlink()
    [problem] = fsck(str(store)).problems
    assert problem.kind == "unsealed"
    fsck(str(store), fix=True)
    assert hashes(store) == hashes(whole.store)


def test_orphans_and_strays_are_told_and_are_no_problem(store: Path) -> None:
    orphan = first(store, "tags/*/data/*")
    shutil.copy(orphan, orphan.with_name("0" * 16 + "-" + "a" * 12 + ".parquet"))
    (store / "notes.txt").write_text("mine")
    report = fsck(str(store))
    assert (report.problems, report.orphans, report.strays) == ((), 1, ("notes.txt",))


def test_a_store_of_a_later_format_is_refused(store: Path, cli: Cli) -> None:
    (store / "assay-store.json").write_text('{"format": "assay.store/2"}')
    for command in (["fsck", store], ["gc", store], ["status", store]):
        refused = cli(*command)
        assert refused.code == USAGE
        assert "'assay.store/2'" in refused.err


def test_a_folder_that_is_neither_is_refused(tmp_path: Path, cli: Cli) -> None:
    for command in ("fsck", "gc"):
        refused = cli(command, tmp_path)
        assert refused.code == USAGE
        assert "neither an Assay store nor a curated dataset" in refused.err


@pytest.mark.parametrize("harm", [flip, Path.unlink], ids=["a bit flips", "it is gone"])
@pytest.mark.parametrize("pattern", ["data/*", "dropped/*", "_assay/statistics/kept-*", "_assay/commits/*"])
def test_a_harmed_dataset_is_found_and_after_a_repair_curating_makes_the_same_bytes(
    whole: Whole, tmp_path: Path, pattern: str, harm: Callable[[Path], None]
) -> None:
    dataset = Path(shutil.copytree(whole.dataset, tmp_path / "dataset"))
    victim = first(dataset, pattern)
    harm(victim)
    report = fsck(str(dataset))
    assert report.problems
    fsck(str(dataset), fix=True)
    assert not (dataset / "manifest.json").exists()
    make_dataset(whole.store, dataset)
    assert fsck(str(dataset)).problems == ()
    without = [*ATTEMPTS, "manifest.json", "recipe.json"]  # they hold the dataset's path
    assert hashes(dataset, without=without) == hashes(whole.dataset, without=without)


def test_a_store_on_s3_is_checked_and_repaired_like_one_on_disk(whole: Whole, s3_env: str) -> None:
    store = ObjectStore(s3_env)
    for path in sorted(whole.store.rglob("*")):
        if path.is_file():
            store.create(str(path.relative_to(whole.store)), path.read_bytes(), attempt="copy")
    assert fsck(s3_env).problems == ()
    key = next(key for key in store.list("tags") if "/data/" in key)
    store.delete(key)
    assert {problem.key for problem in fsck(s3_env, fix=True).problems} >= {key}
    assert fsck(s3_env).problems == ()
    again(whole, s3_env)  # type: ignore[arg-type]
    assert store.read(key) == (whole.store / key).read_bytes()

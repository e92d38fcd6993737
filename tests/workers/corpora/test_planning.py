"""Which objects a corpus has, and how they are cut: every row in exactly one shard, whatever the shard size."""

import logging
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay.schemas.corpus import ReadOptions
from assay.schemas.errors import AssayError
from assay.workers.corpora.listing import list_corpus
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.reading import Cursors, Document
from tests.corpus_files import json_lines, read_all, texts, write, write_arrow, write_parquet


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with every format, bad rows, blank lines and row groups of unequal size."""
    root = tmp_path_factory.mktemp("mixed")
    rows = texts(300)
    lines = json_lines(rows[:100]) + b"\n\n{bad\n" + json_lines([{"text": "a " * 3000}]) + json_lines(rows[100:])
    for suffix in ("jsonl", "jsonl.gz", "jsonl.zst"):
        write(root / f"a.{suffix}", lines)
    write(root / "empty.jsonl", b"")
    write(root / "noend.jsonl", lines.rstrip(b"\n"))
    write_parquet(root / "b.parquet", rows, row_group_size=70)
    write_parquet(root / "c.parquet", rows)
    write_parquet(root / "none.parquet", pa.table({"text": pa.array([], pa.string())}))
    write_arrow(root / "d.arrow", rows, 37)
    return root


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shard_bytes=st.integers(1, 40_000), keep_open=st.booleans())
def test_the_shards_at_any_size_hold_what_the_whole_corpus_holds(
    mixed: Path, shard_bytes: int, keep_open: bool
) -> None:
    whole = read_all(mixed)
    assert sum(isinstance(record, Document) for record in whole) == 4 * 301 + 3 * 300
    assert read_all(mixed, shard_bytes=max(shard_bytes, 150), cursors=Cursors() if keep_open else None) == whole


def test_shards_are_about_as_big_as_asked_and_consecutive(mixed: Path) -> None:
    plan = plan_corpus(str(mixed), ReadOptions(), 3000)
    by_object: dict[str, list[tuple[int, int | None]]] = {}
    for shard in plan.shards:
        by_object.setdefault(shard.source.uri, []).append((shard.first_row, shard.rows))
        assert shard.bytes < 3000 * 4
    for uri, runs in by_object.items():
        ends = [first + (rows or 0) for first, rows in runs]
        assert [first for first, _ in runs] == [0, *ends[:-1]]
        assert (runs[-1][1] is None) == (not uri.endswith(".parquet"))
    assert len({shard.id for shard in plan.shards}) == len(plan.shards)


def test_the_same_corpus_gives_the_same_plan_and_a_changed_file_another(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.jsonl", json_lines(texts(50)))
    first, again = (plan_corpus(str(tmp_path), ReadOptions(), 500) for _ in range(2))
    assert first == again
    assert [s.source.uri for s in first.shards] == sorted(s.source.uri for s in first.shards)
    write(tmp_path / "b.jsonl", json_lines(texts(51)))
    assert plan_corpus(str(tmp_path), ReadOptions(), 500).id != first.id


def test_a_row_group_bigger_than_a_shard_is_split_and_small_ones_are_joined(tmp_path: Path) -> None:
    rows = [{"text": f"{i:08d}" * 10} for i in range(1000)]
    big = write_parquet(tmp_path / "big.parquet", rows, use_dictionary=False, compression="none")
    small = write_parquet(tmp_path / "small.parquet", rows, row_group_size=10, use_dictionary=False, compression="none")
    for path in (big, small):
        counts = [shard.rows for shard in plan_corpus(str(path), ReadOptions(), 20_000).shards]
        assert len(counts) in (4, 5)
        assert sum(filter(None, counts)) == 1000


def test_a_folder_is_read_recursively_without_hidden_unknown_or_explicit_json_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "sub/deep/b.ndjson", "c.json.gz", "D.PARQUET"):
        write(tmp_path / name, json_lines(texts(1)))
    for name in ("_x.jsonl", ".y.jsonl", "_delta/a.jsonl", ".git/b.jsonl", "notes.txt", "z.json", "README.md"):
        write(tmp_path / name, json_lines(texts(1)))
    said: list[str] = []
    found = [Path(s.uri).relative_to(tmp_path).as_posix() for s in list_corpus(str(tmp_path), said.append)]
    assert found == ["D.PARQUET", "a.jsonl", "c.json.gz", "sub/deep/b.ndjson"]
    assert len(said) == 1
    assert said[0].startswith("skipped 2 files")
    assert "notes.txt" in said[0]


def test_files_named_by_the_user_are_read_even_if_hidden_or_json(tmp_path: Path) -> None:
    for name in ("_a.jsonl", "b.json"):
        assert len(read_all(write(tmp_path / name, json_lines(texts(2))))) == 2
    assert len(read_all(str(tmp_path / "*.json"))) == 2


def test_globs_match_files_and_folders_at_any_depth(tmp_path: Path) -> None:
    for name in ("run-1/a.jsonl", "run-2/a.jsonl", "run-2/sub/b.jsonl", "other/a.jsonl"):
        write(tmp_path / name, json_lines(texts(1)))
    for pattern, count in {"run-*/a.jsonl": 2, "run-*": 3, "**/*.jsonl": 4, "**": 4, "run-[1]/*": 1}.items():
        assert len(list_corpus(f"{tmp_path}/{pattern}")) == count, pattern


@pytest.mark.parametrize("name", ["none-*.jsonl", "", "notes.txt", "missing/folder/x"])
def test_a_corpus_without_readable_files_is_an_error_that_says_what_was_sought(tmp_path: Path, name: str) -> None:
    write(tmp_path / "notes.txt", b"x")
    with pytest.raises(AssayError) as caught:
        plan_corpus(str(tmp_path / name), ReadOptions(), 2**20)
    assert str(tmp_path) in caught.value.where
    assert ".jsonl" in caught.value.hint or name.startswith("missing")


def test_symlinks_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside/secret.jsonl", json_lines(texts(1)))
    inside = write(tmp_path / "corpus/a.jsonl", json_lines(texts(1)))
    (tmp_path / "corpus/link.jsonl").symlink_to(outside)
    (tmp_path / "corpus/folder").symlink_to(outside.parent)
    (tmp_path / "corpus/loop").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus/alias.jsonl").symlink_to(inside)
    (tmp_path / "corpus/broken.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    for corpus in ("corpus", "corpus/**/*.jsonl", "corpus/*"):
        said: list[str] = []
        found = {Path(source.uri).name for source in list_corpus(str(tmp_path / corpus), said.append)}
        assert found == {"a.jsonl", "alias.jsonl"}
        assert "symbolic links" in said[0]


def test_a_folder_saved_by_hugging_face_datasets_is_read(tmp_path: Path) -> None:
    import datasets

    logging.disable(logging.WARNING)
    try:
        data = datasets.Dataset.from_list(texts(30))
        datasets.DatasetDict(train=data, test=data.select(range(5))).save_to_disk(str(tmp_path))
    finally:
        logging.disable(logging.NOTSET)
    write(tmp_path / "train/cache-0123.arrow", b"not data")
    documents = [r for r in read_all(tmp_path) if isinstance(r, Document)]
    assert [d.text for d in documents] == [row["text"] for row in [*texts(5), *texts(30)]]


def test_a_remote_folder_and_a_remote_glob_are_read_without_directory_markers() -> None:
    memory = fsspec.filesystem("memory")
    for name, data in {"a.jsonl": json_lines(texts(3)), "sub/b.jsonl": json_lines(texts(2)), "_x.jsonl": b"x"}.items():
        memory.pipe_file(f"/plan-test/{name}", data)
    memory.pipe_file("/plan-test/marker/", b"")
    assert len(read_all("memory://plan-test")) == 5
    assert len(read_all("memory://plan-test/*.jsonl")) == 3
    with pytest.raises(AssayError, match="nothing here"):
        list_corpus("memory://absent")


def test_an_unreachable_dataset_id_says_that_there_is_no_such_path_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub as hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub.HfFileSystem, "info", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("offline")))
    with pytest.raises(AssayError, match=r"org/name.*no such local path.*Hugging Face"):
        list_corpus("org/name")

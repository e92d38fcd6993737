"""Definitions read into examples: every row is accounted for, every text stands once."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.flows.definitions import DEFINITIONS, definition_names, load_definition
from assay.schemas.definition import Definition, Passages
from assay.schemas.errors import AssayError
from assay.taggers.examples import LabelledSet
from assay.taggers.made import broken_text, passages, python_code
from assay.taggers.sources import read_definition

ROWS: list[dict[str, Any]] = [
    {"id": f"r{n}", "text": f"text number {n}", "label": ["good", "bad", None, "odd"][n % 4],
     "lang": "de" if n % 2 else "en", "page": f"page-{n // 4}-{'ab'[n % 2]}",
     "stars": n % 6 / 2, "part": ["train", "test"][n % 2]}
    for n in range(40)
]  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def read(folder: Path, *sources: dict[str, Any], rows: list[dict[str, Any]] | None = None, **more: Any) -> LabelledSet:
    write_rows(folder / "set.jsonl.gz", ROWS if rows is None else rows)
    whole = [{"file": "set.jsonl.gz", "id_column": "id", **source} for source in sources]
    definition = Definition.model_validate({"name": "x", "axis": "custom", "sources": whole, **more})
    return read_definition(definition, folder)


def test_rows_are_taken_or_left_out_for_a_reason_that_is_counted(tmp_path: Path) -> None:
    rows = [*ROWS, {"id": "r0", "text": "again", "label": "good"}, {"id": "e", "text": " ", "label": "good"}]
    found = read(tmp_path, {"label_column": "label", "labels": {"good": "yes", "bad": "no"}}, rows=rows)
    assert found.rows_in == 42
    assert found.rows_taken == 20
    assert found.rows_left_out == {"duplicate_id": 1, "empty_text": 1, "label isn't mapped": 10, "no label": 10}
    assert {e.label for e in found.examples} == {"yes", "no"}
    assert found.lines()[0].startswith("rows in 42 = taken 20 + ")


def test_a_text_stands_once_and_with_two_labels_not_at_all(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "same", "label": "x"},
        {"id": "b", "text": "same", "label": "x"},
        {"id": "c", "text": "torn", "label": "x"},
        {"id": "d", "text": "torn", "label": "y"},
        {"id": "e", "text": "alone", "label": "y"},
    ]
    found = read(tmp_path, {"label_column": "label"}, rows=rows)
    assert [e.id for e in found.examples] == ["a", "e"]
    assert found.texts_left_out == {"repeated text": 1, "text with two labels": 2}
    assert found.texts_made == len(found.examples) + sum(found.texts_left_out.values())


def test_columns_become_group_language_source_and_split(tmp_path: Path) -> None:
    source = {
        "label_column": "label", "name": "set", "group_column": "page", "group_without": "-[ab]$",
        "language_column": "lang", "languages": {"de": "German"}, "source_column": "lang", "split_column": "part",
    }  # fmt: skip
    one = read(tmp_path, source).examples[1]
    assert (one.id, one.group, one.language, one.source, one.split) == ("r1", "page-0", "German", "set-de", "test")


def test_conditions_samples_and_limits_choose_the_same_rows_each_time(tmp_path: Path) -> None:
    source = {
        "label_column": "stars",
        "where": [{"column": "stars", "at_least": 1, "below": 2}, {"column": "lang", "among": ["en"]}],
    }
    found = read(tmp_path, source)
    assert {e.label for e in found.examples} == {"1"}
    half = read(tmp_path, {"label": "x", "sample": 0.5})
    assert 8 <= len(half.examples) <= 32
    assert half.rows_left_out["not in the sample"] == 40 - len(half.examples)
    few = read(tmp_path, {"label": "x", "limit": 5})
    more = read(tmp_path, {"label": "x", "limit": 9})
    assert {e.id for e in few.examples} < {e.id for e in more.examples}
    assert more.rows_left_out == {"over the limit": 31}


def test_a_number_is_cut_to_yes_and_no(tmp_path: Path) -> None:
    found = read(tmp_path, {"label_column": "stars", "cut_label": 1.5})
    assert [e.label for e in found.examples[:6]] == ["no", "no", "no", "yes", "yes", "yes"]


def test_a_text_is_cut_from_a_place_and_a_short_rest_is_left_out(tmp_path: Path) -> None:
    rows = [{"id": "long", "text": "aaa bbb ccc ddd eee fff"}, {"id": "short", "text": "aa"}]
    found = read(tmp_path, {"label": "x", "cut": {"characters": 7, "start": 0.5, "at_least": 5}}, rows=rows)
    assert [e.text for e in found.examples] == ["ddd eee"]
    assert found.rows_left_out == {"too short": 1}


def test_parquet_with_typed_columns_is_read_as_jsonl_is(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", "two"], "toxic": pa.array([1, 0], pa.int64()), "score": [0.5, 2.0]})
    pq.write_table(table, tmp_path / "set.parquet")
    for column, labels in (("toxic", ["1", "0"]), ("score", ["0.5", "2"])):
        source = {"corpus": str(tmp_path / "set.parquet"), "label_column": column}
        definition = Definition.model_validate({"name": "x", "axis": "custom", "sources": [source]})
        assert [e.label for e in read_definition(definition).examples] == labels


def test_a_wrong_column_lists_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"unknown column 'labels'\n.*did you mean 'label'\? known: id, label"):
        read(tmp_path, {"label_column": "labels"})
    with pytest.raises(AssayError, match=r"none of its 40 rows is taken \(no_text 40\)"):
        read(tmp_path, {"label_column": "label", "text_column": "body"})


def test_a_missing_set_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="this labelled set is missing") as caught:
        read_definition(load_definition("reading_level"), tmp_path)
    assert caught.value.where == str(tmp_path / "onestop.jsonl.gz")


def test_passages_keep_the_order_of_their_text_in_their_splits() -> None:
    text = "\n".join(f"line {n} " + "x" * 60 for n in range(200))
    found = passages(text, Passages(characters=250))
    assert all(250 <= len(p.text) <= 500 for p in found)
    assert [p.split for p in found] == sorted((p.split for p in found), key=["discovery", "validation", "test"].index)
    assert len(passages(text, Passages(characters=250, at_most=10))) in (10, 11, 12)


def test_broken_text_is_the_same_each_time_and_unlike_its_source() -> None:
    text = "the quick brown fox jumps over the lazy dog " * 20
    made = {broken_text(str(n), text) for n in range(20)}
    assert made == {broken_text(str(n), text) for n in range(20)}
    assert text not in made
    assert len(made) == 20


def test_this_machine_has_code() -> None:
    made = [m for m, _ in zip(python_code(), range(50), strict=False)]
    assert len({m.id for m in made}) == 50
    assert all(len(m.text) > 150 for m in made)


@pytest.mark.parametrize("name", sorted(definition_names()))
def test_every_ready_definition_is_valid_and_says_its_licence(name: str) -> None:
    definition = load_definition(name)
    assert definition.name == name
    assert definition.license
    assert definition.description


def test_the_sets_have_the_default_taggers_and_those_of_public_sets() -> None:
    names = {path.name: {p.stem for p in path.glob("*.yaml")} for path in DEFINITIONS.iterdir()}
    assert names["default"] == {"quality", "toxicity", "domain", "language"}
    assert {"textdetox", "civil_comments", "educational_value", "weborganizer_topic"} <= names["public"]

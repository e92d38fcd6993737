"""Reads a definition's sources into examples: every row is taken or left out for a reason that is counted."""

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from assay.schemas.corpus import ReadOptions
from assay.schemas.definition import Condition, Definition, LabelledSource
from assay.schemas.errors import AssayError, printable, unknown_name
from assay.taggers.examples import Example, LabelledSet, each_text_once
from assay.taggers.made import DERIVED, MADE, passages
from assay.taggers.splits import bucket_split, given_split
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.reading import BadRecord, Cursors, read_documents
from assay.workers.corpora.rows import read_rows

_SHARD_BYTES = 16 * 2**20
Row = Mapping[str, Any]


class _Taken(NamedTuple):
    """A row that passed its source's conditions."""

    id: str
    text: str
    label: str
    row: Row

    @property
    def order(self) -> str:
        return _hash(self.id).hex()


def read_definition(definition: Definition, data: Path | None = None) -> LabelledSet:
    """Every source's examples, each text once. AssayError for a set that can't be found and a column that isn't there.

    `data` is a folder whose files go before the sets' published places.
    """
    made: list[Example] = []
    rows_in = rows_taken = 0
    left_out: Counter[str] = Counter()
    for source in definition.sources:
        reading = _Reading(source)
        for taken in reading.rows(data):
            found = list(_examples(taken, source, definition))
            reading.count("too short" if not found else "")
            made += found
        assert reading.rows_in == reading.taken + reading.left_out.total()  # noqa: S101 - rows are accounted for
        if not reading.taken:
            raise _nothing_taken(source, reading)
        rows_in, rows_taken = rows_in + reading.rows_in, rows_taken + reading.taken
        left_out.update(reading.left_out)
    examples, repeated = each_text_once(made)
    return LabelledSet(examples, rows_in, rows_taken, dict(sorted(left_out.items())), len(made), repeated)


class _Reading:
    """One source's rows, and what became of them."""

    def __init__(self, source: LabelledSource) -> None:
        self.rows_in = self.taken = 0
        self.left_out: Counter[str] = Counter()
        self.columns: set[str] = set()
        self._source = source

    def count(self, reason: str) -> None:
        """One row more is taken, or left out for a reason."""
        if reason:
            self.left_out[reason] += 1
        else:
            self.taken += 1

    def rows(self, data: Path | None) -> Iterator[_Taken]:
        """The rows that pass; the caller counts each of them."""
        source = self._source
        passed = self._made() if source.made else self._read(_corpus(source, data))
        if source.limit is None:
            yield from passed
            return
        seen = Counter(all=0)
        lowest = heapq.nsmallest(source.limit, _counted(passed, seen), key=lambda taken: taken.order)
        self.left_out["over the limit"] += seen["all"] - len(lowest)
        yield from lowest

    def _made(self) -> Iterator[_Taken]:
        assert self._source.made is not None  # noqa: S101 - rows() asks
        if self._source.made not in MADE:
            raise unknown_name("made source", self._source.made, MADE)
        for made in MADE[self._source.made]():
            self.rows_in += 1
            yield _Taken(made.id, made.text, self._source.label or "", {})

    def _read(self, corpus: str) -> Iterator[_Taken]:
        source, cursors = self._source, Cursors()
        options = ReadOptions(text_column=source.text_column, id_column=source.id_column)
        for shard in plan_corpus(corpus, options, _SHARD_BYTES).shards:
            documents = {}
            for record in read_documents(shard, options, cursors):
                self.rows_in += 1
                if isinstance(record, BadRecord):
                    self.left_out[record.reason] += 1
                else:
                    documents[record.row] = record
            rows = iter(documents.values())
            for table in read_rows(shard, options, list(documents), cursors=cursors):
                self.columns |= set(table.column_names)
                for row in table.to_pylist():
                    document = next(rows)
                    label, reason = _judge(row, document.id, source)
                    if reason:
                        self.left_out[reason] += 1
                    else:
                        yield _Taken(document.id, document.text, label, row)
        for column in _named_columns(source):
            if self.columns and column not in self.columns:
                raise unknown_name("column", column, self.columns, where=corpus)


def _nothing_taken(source: LabelledSource, reading: _Reading) -> AssayError:
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in reading.left_out.most_common(5))
    hint = f"it is read by text column {source.text_column!r}" + (
        f" and label column {source.label_column!r}" if source.label_column else ""
    )
    if reading.columns:
        hint += f"; its columns: {', '.join(printable(c, 40) for c in sorted(reading.columns)[:30])}"
    where = source.corpus or source.file or source.made or ""
    return AssayError(f"none of its {reading.rows_in:,} rows is taken ({reasons})", where=where, hint=hint)


def _corpus(source: LabelledSource, data: Path | None) -> str:
    if source.file and data is not None and (data / source.file).exists():
        return str(data / source.file)
    if source.corpus:
        return source.corpus
    where = str(data / str(source.file)) if data is not None else str(source.file)
    raise AssayError("this labelled set is missing", where=where, hint="--data names the folder that has it")


def _named_columns(source: LabelledSource) -> list[str]:
    named = (
        source.label_column,
        source.group_column,
        source.language_column,
        source.source_column,
        source.split_column,
    )
    return [column for column in (*named, *(c.column for c in source.where)) if column]


def _judge(row: Row, id: str, source: LabelledSource) -> tuple[str, str]:
    """(label, why the row is left out or nothing)."""
    if not all(_holds(condition, row) for condition in source.where):
        return "", "condition"
    if source.sample is not None and _hash(id)[-1] >= round(256 * source.sample):
        return "", "not in the sample"
    if source.label is not None:
        return source.label, ""
    value = row.get(str(source.label_column))
    text = as_text(value)
    if text is None or not text.strip():
        return "", "no label"
    if source.cut_label is not None:
        number = _number(value)
        return ("", "label is no number") if number is None else ("yes" if number >= source.cut_label else "no", "")
    if source.labels is None:
        return text, ""
    return (source.labels[text], "") if text in source.labels else ("", "label isn't mapped")


def _holds(condition: Condition, row: Row) -> bool:
    value = row.get(condition.column)
    text, number = as_text(value), _number(value)
    return not (
        (condition.among is not None and text not in condition.among)
        or (condition.not_among is not None and text in condition.not_among)
        or (condition.at_least is not None and (number is None or number < condition.at_least))
        or (condition.below is not None and (number is None or number >= condition.below))
    )


def _examples(taken: _Taken, source: LabelledSource, definition: Definition) -> Iterator[Example]:
    row = taken.row
    group = as_text(row.get(source.group_column)) or "" if source.group_column else taken.id
    if source.group_without:
        group = re.sub(source.group_without, "", group)
    split = bucket_split(group) if definition.splits == "buckets" else ""
    given = source.split or (as_text(row.get(source.split_column)) or "" if source.split_column else None)
    if given is not None:
        split = given_split(given)
    language = as_text(row.get(source.language_column)) or "" if source.language_column else source.language or ""
    named = as_text(row.get(source.source_column)) or "" if source.source_column else ""
    base = Example(
        id=f"{taken.id}{source.id_suffix}",
        text=DERIVED[source.derive](taken.id, taken.text) if source.derive else taken.text,
        label=taken.label,
        group=group,
        language=(source.languages or {}).get(language, language),
        source="-".join(filter(None, (source.name, named))),
        split=split,
    )
    if source.passages:
        for number, text, place in passages(base.text, source.passages):
            id = f"{base.id}-{number}"
            yield base._replace(id=id, text=text, group=id, split=place)
        return
    text = _cut(base, source)
    if text:
        yield base._replace(text=text)


def _cut(example: Example, source: LabelledSource) -> str:
    how, text = source.cut, example.text
    if how is None or (how.whole_held_out and example.split in ("validation", "test")):
        return text
    start = text.find(" ", int(len(text) * how.start)) + 1 if how.start else 0
    part = text[start : start + how.characters]
    part = part.strip() if how.start else part
    return part if len(part) >= how.at_least else ""


def as_text(value: object) -> str | None:
    """A cell as a label: text as it is, numbers without a needless fraction, true and false; None for null."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if value == value else None
    return str(value)


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _hash(id: str) -> bytes:
    return hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()


def _counted(rows: Iterator[_Taken], seen: Counter[str]) -> Iterator[_Taken]:
    for row in rows:
        seen["all"] += 1
        yield row

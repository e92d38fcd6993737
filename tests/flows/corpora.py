"""A small corpus of every format with planted faults, and the `assay` command as a user runs it."""

import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

ASSAY = Path(sys.executable).with_name("assay")
SENTENCE = """the quick brown fox jumps over a lazy dog and cat while rain falls on Zürich 漢字 price $9.99 <b>now</b>
def main(): return 42 kind words help people; click here! buy ∑ x² שלום"""
HOSTILE_ID = "\x1b[31mred\u202egnp.exe"
HOSTILE_TEXT = "first \x1b]0;owned\x07 \x1b[2J\x1b[31m red \u202e gnp.exe \u2066 NUL \x00 bell \x07 \x9b2J\r\n" * 4
QUARANTINED = {"not_json": 1, "null_text": 3, "empty_text": 2, "not_utf8": 1, "duplicate_id": 1, "lone_surrogate": 1,
               "not_an_object": 1, "no_text": 1, "wrong_type": 1}  # fmt: skip
TRUNCATED = "cut \x1b[31m\u202e.jsonl.gz"


class Corpus(NamedTuple):
    """What `write_corpus` wrote."""

    path: Path
    documents: dict[str, str]
    """id -> text of every good document"""


def document(number: int) -> str:
    """Text number `number`, the same every time: 5 to 90 words."""
    draw = random.Random(number)
    return " ".join(draw.choices(SENTENCE.split(), k=draw.randrange(5, 90)))


def write_corpus(folder: Path, documents: int = 160) -> Corpus:
    """Files of each format with QUARANTINED bad records, an empty one, and a .gz that was cut short."""
    folder.mkdir(parents=True)
    texts = {f"doc-{n}": document(n) for n in range(documents)}
    ids = list(texts)
    parts = [ids[i::4] for i in range(4)]
    rows = [
        {"id": i, "text": texts[i], "year": n, "nested": {"url": f"http://x/{i}", "tags": ["a", f"b{n}"]}}
        for n, i in enumerate(parts[0])
    ]
    table = pa.Table.from_pylist([*rows, {"id": "null", "text": None}, {"id": "empty", "text": " \n"}])
    pq.write_table(table, folder / "a.parquet", row_group_size=16)
    lines = [_line(i, texts[i]) for i in parts[1]]
    lines[3:3] = [
        b'{"id": "torn", "text": "this record never',
        b'{"id": "null-2", "text": null}',
        b'{"id": "empty-2", "text": ""}',
        b'{"id": "latin", "text": "caf\xe9"}',
        lines[0],
        b'{"id": "half", "text": "\\ud800"}',
        b"[1, 2]",
        b'{"id": "other", "body": "x"}',
        b'{"id": "number", "text": 7}',
        b"",
        _line(HOSTILE_ID, HOSTILE_TEXT),
    ]
    texts[HOSTILE_ID] = HOSTILE_TEXT
    (folder / "b.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(_lines(parts[2], texts), mtime=0))
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(_lines(parts[3], texts))
    (folder / "d.jsonl.zst").write_bytes(sink.getvalue().to_pybytes())
    whole = gzip.compress(_lines([f"lost-{n}" for n in range(20)], {f"lost-{n}": document(n) for n in range(20)}))
    (folder / TRUNCATED).write_bytes(whole[: len(whole) // 2])
    (folder / "only-bad.jsonl").write_bytes(b'{"id": "none", "text": null}\n')
    (folder / "nothing.jsonl").touch()
    return Corpus(folder, texts)


def assay_environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without what would lead the command to the machine's own services."""
    prefixes = ("AWS_", "PREFECT_", "RAY_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    home.mkdir(parents=True, exist_ok=True)
    return {**plain, "PREFECT_HOME": str(home), "HF_HUB_OFFLINE": "1", "COLUMNS": "160", **more}


def assay(
    home: Path, *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs `assay` with these arguments to its end."""
    return subprocess.run(
        [ASSAY, *map(str, arguments)],
        env=dict(env) if env is not None else assay_environment(home),
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def hashes(root: Path | str, *, without: Iterable[str] = ()) -> dict[str, str]:
    """Every file below `root` -> SHA-256, files with one of `without` in their path left out."""
    folder = Path(root)
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    leave_out = tuple(without)
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(paths.items())
        if not any(part in name for part in leave_out)
    }


def commits(store: Path | str) -> dict[str, dict[str, Any]]:
    """Every commit of a store -> its record, less what differs from one attempt to the next."""
    found = {}
    for path in Path(store).glob("*/*/commits/*.json"):
        record = json.loads(path.read_bytes())
        for name in ("seconds", "attempt", "worker"):
            del record[name]
        found[str(path.relative_to(store))] = record
    return found


def _line(identity: str, text: str) -> bytes:
    return json.dumps({"id": identity, "text": text, "year": 2000.5, "meta": {"of": identity, "n": [1, None]}}).encode()


def _lines(ids: Iterable[str], texts: Mapping[str, str]) -> bytes:
    return b"".join(_line(i, texts[i]) + b"\n" for i in ids)

"""Reads line-delimited JSON, plain or compressed, one line in memory at a time."""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from assay.schemas.corpus import ReadOptions, SourceObject
from assay.workers.corpora.records import BadRecord, BadShard, bad
from assay.workers.corpora.sources import SourceFile
from assay.workers.storage.filesystem import public

BLOCK = 2**20
_CODECS = {"jsonl.gz": "gzip", "jsonl.zst": "zstd"}
_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS: dict[type, str] = {list: "array", str: "string", bool: "boolean", type(None): "null"}


class Lines:
    """One forward-only pass over an object's lines; `row` is the next one's number, blank ones counted."""

    def __init__(self, source: SourceObject, max_line_bytes: int) -> None:
        codec = _CODECS.get(source.format)
        if codec and source.size == 0:
            raise BadShard(
                "the compressed file is empty (0 bytes), not an archive of nothing",
                where=public(source.uri),
                hint="write the file again, or remove it from the corpus",
            )
        self.row = 0
        self._max = max_line_bytes
        self._file = SourceFile(source.uri)
        raw: Any = pa.CompressedInputStream(pa.PythonFile(self._file, "r"), codec) if codec else self._file
        self._buffer = io.BufferedReader(raw, BLOCK)
        self._what = "the compressed data is cut short or damaged" if codec else "the object can't be read"

    def jump_to(self, row: int, byte: int) -> None:
        """Goes straight to `row`, which begins at `byte` of an object that isn't compressed."""
        with self._decoding():
            self._buffer.seek(byte)
        self.row = row

    def skip_to(self, row: int) -> None:
        """Moves on to `row`, or to the end of the object if that comes first."""
        with self._decoding():
            while self.row < row and (part := self._buffer.readline(BLOCK)):
                self._finish(part)
                self.row += 1

    def read(self, end: int | None) -> Iterator[tuple[int, bytes | None]]:
        """The lines up to row `end` with their rows; None for a line over the limit, which is never held.

        Raises BadShard when the object's data are damaged or it ends before `end`.
        """
        while end is None or self.row < end:
            with self._decoding():
                line: bytes | None = self._buffer.readline(self._max + 1)
                if line and len(line) > self._max:
                    self._finish(line)
                    line = None
            if line == b"":
                if end is None:
                    return
                raise self._file.ended(self.row, end)
            row, self.row = self.row, self.row + 1
            yield row, line

    def blocks(self) -> Iterator[bytes]:
        """The rest of the object in the blocks that `read` buffers, so that damage loses the same lines."""
        while True:
            with self._decoding():
                block = self._buffer.read1(BLOCK)
            if not block:
                return
            yield block

    def close(self) -> None:
        """Closes the object."""
        self._file.close()

    def _finish(self, part: bytes) -> None:
        while part and not part.endswith(b"\n"):
            part = self._buffer.readline(BLOCK)

    def _decoding(self) -> Any:
        return self._file.decoding(self._what, "write the file again, or remove it from the corpus")


def max_line_bytes(options: ReadOptions) -> int:
    """The longest line that is read: a text of \\uXXXX escapes only, and 1 MiB of other columns."""
    return options.max_document_bytes * 6 + 2**20


def parse_line(row: int, line: bytes) -> dict[str, Any] | BadRecord | None:
    """The object on a line, the reason why there is none, or None for a blank line."""
    line = line.strip().removeprefix(_BOM).lstrip()
    if not line:
        return None
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return bad(row, "not_utf8", f"byte {line[error.start]:#04x} at {error.start}: {error.reason}")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        near = text[max(0, error.pos - 30) : error.pos + 30]
        return bad(row, "not_json", f"{error.msg} at character {error.pos}, near {near}")
    except (ValueError, RecursionError) as error:
        return bad(row, "not_json", error)
    if not isinstance(value, dict):
        return bad(row, "not_an_object", f"a JSON {_KINDS.get(type(value), 'number')}")
    if "\\u" in text and (key := next((key for key in value if _SURROGATE.search(key)), None)):
        return bad(row, "lone_surrogate", f"in the column name {key}")
    return value

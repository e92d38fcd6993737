"""What a reader gives for a row (a document or a bad record), and the error for a shard it can't read."""

from typing import NamedTuple

from assay.schemas.errors import AssayError, printable

REASONS: dict[str, str] = {
    "not_utf8": "the line, text or id is not valid UTF-8",
    "not_json": "the line is not JSON",
    "not_an_object": "the line is JSON, but not an object with columns",
    "no_text": "the object has no text column",
    "null_text": "the text is null",
    "empty_text": "the text is empty or only white space",
    "wrong_type": "the text is not a string, or the id is not a non-empty string or an integer",
    "lone_surrogate": "the text, the id or a column name holds half of a UTF-16 pair, which is no character",
    "too_long": "the text, or the line it is in, is over the size limit",
    "duplicate_id": "an earlier row of the shard has the same id",
    "bad_page": "the Parquet page or Arrow batch that holds the row can't be decoded",
    "kills_worker": "alone in a worker, the document ended its process: a crash, or no memory was left",
    "stalls_worker": "alone in a worker, the document did not come to an end in the time allowed",
    "fails_worker": "alone in a worker, the document raised the error that `detail` names",
}
WORKER_REASONS = ("kills_worker", "stalls_worker", "fails_worker")
"""Found by trial and not by reading: a larger or another machine may come to other ones."""


class Document(NamedTuple):
    """A row with text. `row` is its 0-based row in the object; `id` is unique within the shard."""

    row: int
    id: str
    text: str


class BadRecord(NamedTuple):
    """A row that is no document, and why: `reason` is a key of REASONS, `detail` is printable ASCII."""

    row: int
    reason: str
    detail: str


class SourceChanged(AssayError):
    """The object isn't the one that was planned: nothing is committed for it, and a new plan will see it as it is."""


class BadShard(AssayError):
    """A shard that can't be read as a whole; nothing that was read from it so far may be used."""


def bad(row: int, reason: str, detail: object = "") -> BadRecord:
    """A bad record whose detail is escaped and at most 200 characters."""
    return BadRecord(row, reason, printable(detail, 200))

"""The values of a metric as a reader compares them: labels, eighths of a score, doublings of a length."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from assay.schemas.statistics import BINS_PER_OCTAVE, NO_BIN, SCORE_BINS, TOKENS, TagColumn, dimensions

Kind = Literal["label", "score", "length"]
NO_TOKENS = "no tokens"
_BANDS = 8


class Metric(NamedTuple):
    """Where a metric's counts stand in a statistics table."""

    name: str
    kind: Kind
    rows: str
    """the value of the column `metric` of its rows"""
    key: str
    """the column that tells its values apart"""

    @property
    def undecided(self) -> Any:
        """The value that stands for none."""
        return "" if self.kind == "label" else NO_BIN

    def counts(self, table: pa.Table) -> Iterator[tuple[Any, int, int]]:
        """Each value that occurs, with its documents and tokens: exact, in no order."""
        cells = table.filter(pc.equal(table["metric"], self.rows)).group_by(self.key)
        for cell in cells.aggregate([("docs", "sum"), ("tokens", "sum")]).to_pylist():
            yield cell[self.key], cell["docs_sum"], cell["tokens_sum"]

    def shown(self, value: Any) -> str:
        """The value, or the band that it lies in, as it is named; empty: undecided."""
        if self.kind == "label":
            return str(value)
        if value == NO_BIN:
            return "" if self.kind == "score" else NO_TOKENS
        if self.kind == "score":
            band = value * _BANDS // SCORE_BINS
            return f"{band / _BANDS:g} to {(band + 1) / _BANDS:g}"
        octave = value // BINS_PER_OCTAVE
        return f"{2**octave:,} to {2 ** (octave + 1) - 1:,} tokens" if octave else "1 token"


LENGTHS = Metric(TOKENS, "length", TOKENS, "bin")


def metrics(columns: Sequence[TagColumn]) -> Iterator[Metric]:
    """The metrics of these tags; lengths are not among them."""
    domain, language = dimensions(columns)
    for column in columns:
        if column.kind == "score":
            yield Metric(column.name, "score", column.name, "bin")
        elif column in (domain, language):
            yield Metric(column.name, "label", TOKENS, "domain" if column == domain else "language")
        else:
            yield Metric(column.name, "label", column.name, "label")

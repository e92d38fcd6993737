"""Keeps the documents nearest to each threshold of a recipe while shards go by, in memory bounded by thresholds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.expression import COMPARISONS, Apply, Literal, Name, Node, Threshold, walk
from assay.workers.rules import KEPT


class Cut(NamedTuple):
    """A number that a rule compares a column of the tags with."""

    rule: int
    """index of the rule among the verdicts"""
    column: str
    value: float


class Near(NamedTuple):
    """A document near a cut; ordered by distance, ties by place, so that the same corpus gives the same ones."""

    distance: float
    place: tuple[int, int, int]
    """source, shard in its manifest, row of the shard's tags table"""
    row: int
    """in the source object"""
    doc_id: str
    value: float
    verdict: int


class NearestDocuments:
    """For each cut the `most` nearest documents below it, and as many at or above it.

    Documents that another rule drops are passed by: the cut decides nothing about them. So are unknown values.
    """

    def __init__(self, cuts: Sequence[Cut], most: int) -> None:
        self.below: dict[Cut, list[Near]] = {cut: [] for cut in cuts}
        self.above: dict[Cut, list[Near]] = {cut: [] for cut in cuts}
        self._most = most

    @property
    def columns(self) -> set[str]:
        """The columns of the tags table that `add` reads."""
        return {"row", "doc_id", *(cut.column for cut in self.below)} if self.below else set()

    def add(self, source: int, shard: int, tags: pa.Table, verdict: NDArray[np.int32]) -> None:
        """Takes a shard's tags and, for each document, KEPT or the index of the rule that drops it."""
        for cut in self.below:
            values = tags[cut.column].cast(pa.float64()).to_numpy()
            open_ = ~np.isnan(values) & ((verdict == KEPT) | (verdict == cut.rule))
            for side, kept in ((values < cut.value, self.below), (values >= cut.value, self.above)):
                places = np.flatnonzero(side & open_)
                distance = np.abs(values[places] - cut.value)
                nearest = places[np.lexsort((places, distance))[: self._most]]
                found = [
                    Near(
                        abs(float(values[place]) - cut.value),
                        (source, shard, int(place)),
                        tags["row"][int(place)].as_py(),
                        tags["doc_id"][int(place)].as_py(),
                        float(values[place]),
                        int(verdict[place]),
                    )
                    for place in nearest
                ]
                kept[cut] = sorted([*kept[cut], *found])[: self._most]


def cuts_of(tree: Node, thresholds: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """The columns that an expression compares with a number, and the numbers; a tagger's threshold is one, too."""
    for node in walk(tree):
        if isinstance(node, Apply) and node.operator in COMPARISONS:
            for one, other in (node.operands, node.operands[::-1]):
                if isinstance(one, Name) and isinstance(other, Threshold):
                    yield one.name, thresholds[other.tagger]
                elif isinstance(one, Name) and isinstance(other, Literal) and isinstance(other.value, float):
                    yield one.name, other.value

"""Labelled documents: each text once, with its label, group, language and source."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

Split = str
"""discovery, validation, test, or empty where it is still to be drawn"""


class Example(NamedTuple):
    """One labelled document."""

    id: str
    text: str
    label: str
    group: str
    language: str = ""
    source: str = ""
    split: Split = ""


class LabelledSet(NamedTuple):
    """Labelled documents, and what became of the rows that they were read from."""

    examples: tuple[Example, ...]
    rows_in: int
    rows_taken: int
    rows_left_out: dict[str, int]
    """reason -> rows; rows_in = rows_taken + these"""
    texts_made: int
    """of the rows that were taken: one each, or some passages"""
    texts_left_out: dict[str, int]
    """reason -> texts; texts_made = examples + these"""

    def lines(self) -> list[str]:
        """What became of the rows, in lines that reconcile."""
        rows = "".join(f" + {reason} {n:,}" for reason, n in self.rows_left_out.items())
        texts = "".join(f" + {reason} {n:,}" for reason, n in self.texts_left_out.items())
        return [
            f"rows in {self.rows_in:,} = taken {self.rows_taken:,}{rows}",
            f"texts {self.texts_made:,} = examples {len(self.examples):,}{texts}",
        ]


def each_text_once(examples: Iterable[Example]) -> tuple[tuple[Example, ...], dict[str, int]]:
    """Keeps the first of equal texts, and none where their labels differ; what is left out is counted by reason.

    Equal texts in two splits would let a tagger be tested on what it was fitted on.
    """
    first: dict[str, Example] = {}
    torn: set[str] = set()
    counts: Counter[str] = Counter()
    for example in examples:
        known = first.setdefault(example.text, example)
        if known is example:
            continue
        if known.label == example.label:
            counts["repeated text"] += 1
        else:
            torn.add(example.text)
            counts["text with two labels"] += 1
    counts["text with two labels"] += len(torn)
    kept = tuple(example for text, example in first.items() if text not in torn)
    return kept, {reason: n for reason, n in sorted(counts.items()) if n}

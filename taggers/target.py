"""What is to be told: labels as numbers, with the kind of question that they ask."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.schemas.definition import LabelKind
from assay.schemas.errors import AssayError, printable

_YES = ("1", "true", "yes", "True", "1.0")
_NO = ("0", "false", "no", "False", "0.0")
_FEWEST = 10
_BINS = 5


class Target(NamedTuple):
    """N labels as numbers."""

    kind: LabelKind
    classes: tuple[str, ...]
    """binary: the positive label alone; regression: what a high score is called"""
    y_N: NDArray[np.float64]
    """binary: 1 or 0; multiclass: index in classes; regression: label on the scale of unit, 0 to 1"""
    stratum_N: NDArray[np.int64]
    """the class, or of a regression the bin of the label: what splits and screening are stratified by"""
    unit: tuple[float, float] | None = None

    @property
    def strata(self) -> int:
        """How many there are."""
        return int(self.stratum_N.max()) + 1

    @property
    def outputs(self) -> int:
        """Numbers that a tagger gives for a document before it decides."""
        return len(self.classes) if self.kind == "multiclass" else 1


def make_target(
    labels: Sequence[str],
    kind: LabelKind | None = None,
    *,
    positive: str | None = None,
    order: Sequence[str] = (),
    unit: tuple[float, float] | None = None,
    name: str = "high",
    known: NDArray[np.bool_] | None = None,
) -> Target:
    """The labels as numbers; without `kind` it is read off them.

    A regression's scale and bins are those of the `known` documents, by default all: pass those that aren't for
    testing.

    Two labels are binary, numbers of more than two values a regression, anything else multiclass. AssayError for one
    label only, for fewer than ten documents of a label, and where the positive label isn't known.
    """
    counts = Counter(labels)
    if len(counts) < 2:
        only = f"all {len(labels):,} labels are {printable(next(iter(counts)), 60)!r}" if counts else "no label at all"
        raise AssayError(only, hint="a tagger tells labels apart: it takes two of them at least")
    kind = kind or _kind_of(counts, positive, order)
    if kind == "regression":
        return _regression(labels, order, unit, name, known)
    if kind == "binary":
        return _binary(labels, counts, positive)
    rare = {label: n for label, n in counts.items() if n < _FEWEST}
    if rare:
        raise _too_few(rare)
    classes = tuple(sorted(counts))
    index = {label: i for i, label in enumerate(classes)}
    y_N = np.array([index[label] for label in labels])
    return Target("multiclass", classes, y_N.astype(float), y_N)


def describe(target: Target, *, inferred: bool) -> str:
    """One line that says how the labels were taken."""
    how = " (read off the labels; --kind says otherwise)" if inferred else ""
    if target.kind == "binary":
        yes = int(target.y_N.sum())
        return f"binary{how}: {yes:,} documents are {target.classes[0]!r}, {len(target.y_N) - yes:,} are not"
    if target.kind == "multiclass":
        return f"multiclass{how}: {len(target.classes)} labels"
    low, high = target.unit or (0.0, 1.0)
    return f"regression{how}: score 0 stands for {low:g}, 1 for {high:g}"


def _kind_of(counts: Counter[str], positive: str | None, order: Sequence[str]) -> LabelKind:
    if positive is not None or (len(counts) == 2 and not order):
        return "binary"
    return "regression" if order or all(_number(label) is not None for label in counts) else "multiclass"


def _binary(labels: Sequence[str], counts: Counter[str], positive: str | None) -> Target:
    if positive is None:
        yes = [label for label in counts if label in _YES]
        if len(counts) != 2 or len(yes) != 1 or not any(label in _NO for label in counts):
            some = ", ".join(printable(label, 40) for label, _ in counts.most_common(8))
            raise AssayError("which label is the positive one?", hint=f"--positive names one of: {some}")
        positive = yes[0]
    if positive not in counts:
        some = ", ".join(printable(label, 40) for label, _ in counts.most_common(8))
        raise AssayError(f"no document has the label {printable(positive, 60)!r}", hint=f"labels: {some}")
    rest = len(labels) - counts[positive]
    rare = {k: n for k, n in ((positive, counts[positive]), ("any other label", rest)) if n < _FEWEST}
    if rare:
        raise _too_few(rare)
    y_N = np.array([label == positive for label in labels])
    return Target("binary", (positive,), y_N.astype(float), y_N.astype(np.int64))


def _regression(
    labels: Sequence[str],
    order: Sequence[str],
    unit: tuple[float, float] | None,
    name: str,
    known: NDArray[np.bool_] | None,
) -> Target:
    place = {label: float(i) for i, label in enumerate(order)}
    values = [place.get(label) if order else _number(label) for label in labels]
    wrong = [label for label, value in zip(labels, values, strict=True) if value is None]
    if wrong:
        what = "isn't in the order" if order else "is no number"
        raise AssayError(
            f"{len(wrong):,} labels can't be placed: {printable(wrong[0], 60)!r} {what}",
            hint="--order names all labels from lowest to highest, where they aren't numbers",
        )
    value_N = np.array(values, float)
    if len(value_N) < 2 * _FEWEST:
        raise _too_few({"any label": len(value_N)})
    seen = value_N if known is None else value_N[known]
    low, high = unit or (float(seen.min()), float(seen.max()))
    if high <= low:
        raise AssayError(f"all labels are {low:g}", hint="a regression takes different ones")
    edges = np.unique(np.quantile(seen, np.linspace(0, 1, _BINS + 1)[1:-1]))
    stratum_N = np.unique(np.searchsorted(edges, value_N, "right"), return_inverse=True)[1]
    y_N = np.clip((value_N - low) / (high - low), 0, 1)
    return Target("regression", (order[-1] if order else name,), y_N, stratum_N, (low, high))


def _too_few(rare: dict[str, int]) -> AssayError:
    listed = ", ".join(f"{printable(label, 40)} {n}" for label, n in sorted(rare.items())[:8])
    return AssayError(
        f"too few documents of a label: {listed}", hint=f"{_FEWEST} at least; leave rare labels out or join them"
    )


def _number(label: str) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None

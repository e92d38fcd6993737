"""Discovery, validation and test: a group of documents is in one of them, and each has its share of every label."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from assay.schemas.errors import AssayError, printable
from assay.taggers.examples import Split

SHARES: tuple[tuple[Split, float], ...] = (("discovery", 0.7), ("validation", 0.1), ("test", 0.2))
_NAMES = {
    "discovery": "discovery", "train": "discovery", "training": "discovery",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


def bucket_split(group: str) -> Split:
    """By the first 32 bits of the group's SHA-256, modulo 10: 0 to 6 discovery, 7 validation, 8 and 9 test."""
    bucket = int(hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) % 10
    return "discovery" if bucket < 7 else "validation" if bucket == 7 else "test"


def stratified_splits(groups: Sequence[str], strata: Sequence[str], seed: int = 0) -> list[Split]:
    """A split for each document: groups in the order of their hash, cut at 70 and 80 % of each stratum's documents.

    A group belongs to the stratum that most of its documents are in.
    """
    return _cut(groups, strata, seed, SHARES)


def given_split(value: str) -> Split:
    """The split that a column's value names; AssayError for another value."""
    found = _NAMES.get(value.strip().lower())
    if found is None:
        raise AssayError(
            f"{printable(value, 60)!r} names no split", hint="the split column holds train, validation or test"
        )
    return found


def complete_splits(given: Sequence[Split], groups: Sequence[str], strata: Sequence[str], seed: int = 0) -> list[Split]:
    """Given splits, where absent drawn; without a validation split an eighth of the discovery documents become it.

    AssayError where only some documents have a split.
    """
    missing = sum(not split for split in given)
    if missing == len(given):
        return stratified_splits(groups, strata, seed)
    if missing:
        raise AssayError(f"{missing:,} of {len(given):,} documents have no split, the others do")
    splits = list(given)
    if "validation" not in splits:
        rows = [i for i, split in enumerate(splits) if split == "discovery"]
        drawn = _cut(
            [groups[i] for i in rows], [strata[i] for i in rows], seed, (("discovery", 7 / 8), ("validation", 1 / 8))
        )
        for i, split in zip(rows, drawn, strict=True):
            splits[i] = split
    return splits


def shared_groups(groups: Sequence[str], splits: Sequence[Split]) -> int:
    """How many groups are in more than one split."""
    seen: dict[str, set[Split]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        seen[group].add(split)
    return sum(len(found) > 1 for found in seen.values())


def _cut(groups: Sequence[str], strata: Sequence[str], seed: int, shares: Sequence[tuple[Split, float]]) -> list[Split]:
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for group, stratum in zip(groups, strata, strict=True):
        members[group][stratum] += 1
    by_stratum: dict[str, list[str]] = defaultdict(list)
    for group, counts in members.items():
        most = max(counts.values())
        by_stratum[min(s for s, n in counts.items() if n == most)].append(group)
    chosen: dict[str, Split] = {}
    for _, names in sorted(by_stratum.items()):
        names.sort(key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogatepass")).digest())
        total, before = sum(members[g].total() for g in names), 0
        for group in names:
            # The middle of a group decides, so that a large one doesn't fall out of a small split.
            place = (before + members[group].total() / 2) / total
            before += members[group].total()
            edge = 0.0
            for split, share in shares:
                edge += share
                if place <= edge or split == shares[-1][0]:
                    chosen[group] = split
                    break
    return [chosen[group] for group in groups]

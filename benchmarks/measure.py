"""A contest of loaded rivals: all must agree, then all run on the same documents, in turn."""

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

import torch

from assay.schemas.errors import AssayError
from benchmarks import machine
from benchmarks.agreement import TOLERANCE, Agreement, compare
from benchmarks.documents import Document, Kind, Writer
from benchmarks.rivals import OURS, REFERENCE, VARIANTS
from benchmarks.rivals.base import Features, Rival

_FIRST_TRIAL = 2
"""tweets that all must agree on before anything else"""
_FEWEST = {"tweets": 8, "web": 2, "books": 1}
"""documents of the smallest sample; a book is cut to just over one window"""
_SHARE_OF_TRIAL = 0.2
"""of a cell's seconds, for a smaller sample of its kind that tells more exactly how large the sample may be"""
_WEIGHT = {"tweets": 0.5, "web": 1.5, "books": 1.0}
"""of a cell's seconds: web pages need the largest samples, for their padding"""
_PATIENCE = 3
"""times the seconds of a cell that its smallest sample may take before there are two repetitions only"""
_TOO_LONG = 0.8
"""of a cell's seconds: a rival that takes this long for one run isn't run again"""
_MOST_TOKENS = 100_000


class Run(NamedTuple):
    """One timed call."""

    seconds: float
    cpu_seconds: float
    """of all threads of the process"""
    peak_bytes: int | None
    """above what the process held before; None where it can't be read"""


class Spread(NamedTuple):
    """A figure over the repetitions."""

    median: float
    least: float
    most: float


@dataclass
class Contender:
    """A rival in one cell."""

    name: str
    rival: Rival
    agreement: Agreement | None = None
    problem: str | None = None
    """why there is no ratio for it"""
    runs: list[Run] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """What one cell gave."""

    sample: list[Document]
    contenders: dict[str, Contender]

    def seconds(self, name: str) -> Spread:
        """Of a rival that was timed."""
        return spread([run.seconds for run in self.contenders[name].runs])

    def ratio(self, name: str) -> Spread | None:
        """Rival's seconds over ours, repetition by repetition; None for who wasn't or mustn't be compared."""
        contender, ours = self.contenders[name], self.contenders[OURS]
        if contender.problem or ours.problem:
            return None
        both = zip(contender.runs, ours.runs, strict=False)  # a very slow one has been run once only
        return spread([theirs.seconds / mine.seconds for theirs, mine in both])


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most."""
    return Spread(median(values), min(values), max(values))


class Contest:
    """Rivals that are loaded with the same weights; who gives other features than the reference gets no ratio."""

    def __init__(self, rivals: Mapping[str, Rival], writer: Writer, *, dtype: str, device: str) -> None:
        """Runs everyone on a few short documents, twice: the second time tells how fast they are about.

        Raises AssayError if ours differs from the reference.
        """
        self._rivals = rivals
        self._writer = writer
        self._tolerance = TOLERANCE[dtype]
        self._device = device
        self._problems: dict[str, str] = {}
        # The libraries leave millions of objects behind; walking them at a random time would fall on a random rival.
        gc.collect()
        gc.freeze()
        tweets = writer.sample("tweets", 1, _FIRST_TRIAL)
        for _ in range(2):
            cell = self._cell(tweets)
            seconds = self._round(cell, check=True)
            self._problems = {c.name: c.problem for c in cell.contenders.values() if c.problem}
        if OURS in self._problems:
            raise AssayError(
                f"ours {self._problems[OURS]}", where="the benchmark", hint="no speed is worth measuring before that"
            )
        self._seconds_per_token = seconds / _tokens(tweets)

    def measure(self, kind: Kind, *, repeats: int, seconds: float, tell: Callable[[str], None]) -> Cell:
        """Runs all on one sample, `repeats` times; the sample is as large as about `seconds` for everything allow.

        The first repetition is checked like the trial, so every ratio is of runs that gave the same features. Where
        the smallest sample takes far longer than `seconds`, there are fewer repetitions, of slow rivals only one.
        """
        seconds *= _WEIGHT[kind]
        per_token = self._seconds_per_token
        trial = self._writer.sample(kind, int(_SHARE_OF_TRIAL * seconds / per_token))
        if _tokens(trial) * per_token < 2 * _SHARE_OF_TRIAL * seconds:
            per_token = self._round(self._cell(trial), check=False) / _tokens(trial)
        affordable = min(int(seconds / (repeats * per_token)), _MOST_TOKENS)
        cell = self._cell(self._writer.sample(kind, affordable, _FEWEST[kind]))
        size = f"{len(cell.sample)} documents, {_tokens(cell.sample)} tokens"
        if _tokens(cell.sample) * per_token * repeats > _PATIENCE * seconds:
            repeats = min(repeats, 2)
        for repetition in range(repeats):
            took = self._round(cell, check=repetition == 0, turn=repetition, too_long=_TOO_LONG * seconds)
            tell(f"repetition {repetition + 1} of {repeats}: {size}, {took:.1f} s")
        return cell

    def _cell(self, sample: list[Document]) -> Cell:
        contenders = {
            name: Contender(name, rival, problem=self._problems.get(name)) for name, rival in self._rivals.items()
        }
        return Cell(sample, contenders)

    def _round(self, cell: Cell, *, check: bool, turn: int = 0, too_long: float = math.inf) -> float:
        """Everyone once, beginning with another one each turn: who runs first may find other caches than who runs last.

        Who took `too_long` before is left out, but for ours. Returns the seconds that all took together.
        """
        texts = [document.text for document in cell.sample]
        active = [
            contender
            for contender in cell.contenders.values()
            if not contender.problem
            and (contender.name == OURS or all(run.seconds < too_long for run in contender.runs))
        ]
        turn %= len(active)
        results: dict[str, Features] = {}
        for contender in active[turn:] + active[:turn]:
            try:
                run, features = timed(contender.rival, texts, self._device)
            except Exception as e:
                if contender.name in (OURS, REFERENCE):
                    raise
                contender.problem = f"failed: {type(e).__name__}: {e}".splitlines()[0]
                continue
            contender.runs.append(run)
            if check:
                results[contender.name] = features
        for name, features in results.items():
            self._check(cell.contenders[name], results[REFERENCE], features)
        return sum(contender.runs[-1].seconds for contender in active if contender.runs)

    def _check(self, contender: Contender, reference: Features, features: Features) -> None:
        """Notes how its features differ, and a problem if by too much.

        Variants of ours are not held to it: they leave features out, or compute in another precision.
        """
        contender.agreement = compare(reference, features, self._tolerance)
        difference = contender.agreement.problem(self._tolerance)
        if difference and (contender.name == OURS or contender.name not in VARIANTS):
            contender.problem = f"gives other features: {difference}"


def timed(rival: Rival, texts: Sequence[str], device: str) -> tuple[Run, Features]:
    """Times one call; on a GPU the arrays that come back mean that all work has ended."""
    gc.collect()
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if gpu else machine.reset_peak()
    start, cpu_start = time.perf_counter(), time.process_time()
    features = rival.features(texts)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = torch.cuda.max_memory_allocated() if gpu else machine.peak_rss()
    return Run(seconds, cpu_seconds, None if held is None else max(0, peak - held)), features


def _tokens(documents: Sequence[Document]) -> int:
    return sum(document.tokens for document in documents)

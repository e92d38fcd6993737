"""What this machine is fast at, measured at start: GEMM rates by type, and how many threads pay.

Instruction-set flags mislead (a CPU can list AVX512_BF16 and still be slower in bfloat16), so nothing is read off them.
A decision is only taken on a clear lead, because two measurements of one machine must agree.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from assay.schemas.scope import Scope

_LEAD = 1.5
"""bfloat16 must be this many times as fast as float32 to be chosen: the GEMMs aren't all of the work"""
_INT8_LEAD = 2.5
SCREEN_FROM = 256
"""d_model below which the float32 GEMM costs too little for a screen to save much"""
_ROWS, _WIDTH, _FEATURES = 128, 512, 1024


class GemmRates(NamedTuple):
    """GEMM rates of one CPU thread, in operations a second."""

    float32: float
    bfloat16: float
    int8: float
    """0 where this build has no int8 GEMM"""

    @property
    def bfloat16_pays(self) -> bool:
        """True where a backbone in bfloat16 is clearly faster."""
        return self.bfloat16 > _LEAD * self.float32

    @property
    def int8_pays(self) -> bool:
        """True where an int8 screen in front of the float32 encoder is clearly faster."""
        return self.int8 > _INT8_LEAD * self.float32


@lru_cache(maxsize=1)
def cpu_rates() -> GemmRates:
    """Measures this CPU once a process, in about a tenth of a second.

    One thread measures: several would wait for each other wherever the machine has other work.
    """
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure_rates()
    finally:
        torch.set_num_threads(kept)


def _measure_rates() -> GemmRates:
    a, b = torch.ones(_ROWS, _WIDTH), torch.ones(_FEATURES, _WIDTH)
    halves = a.bfloat16(), b.bfloat16()
    bytes_ = a.to(torch.int8), b.to(torch.int8)
    gemms: list[Callable[[], object]] = [lambda: a @ b.T, lambda: halves[0] @ halves[1].T]
    with contextlib.suppress(RuntimeError, NotImplementedError, AttributeError):
        torch._int_mm(bytes_[0], bytes_[1].T)
        gemms.append(lambda: torch._int_mm(bytes_[0], bytes_[1].T))
    rates = [2.0 * _ROWS * _WIDTH * _FEATURES / seconds for seconds in _best(gemms, 0.1)]
    return GemmRates(rates[0], rates[1], rates[2] if len(rates) > 2 else 0.0)


def settle_screen(scope: Scope, device: str, d_model: int) -> Scope:
    """The scope with `screen` said: as it asks where that can be, else as this machine measures.

    Measured in each worker, a loaded machine could give two of them other answers, and so other bytes.
    """
    possible = device == "cpu" and not scope.exact and d_model >= SCREEN_FROM
    wanted = possible and (cpu_rates().int8_pays if scope.screen is None else scope.screen)
    return scope.model_copy(update={"screen": wanted})


@lru_cache(maxsize=1)
def best_threads() -> int:
    """The number of CPU threads that runs a GEMM fastest; a smaller number wins unless a larger one leads by a tenth.

    More threads than the cores that a container may really use make everything slower, and no flag tells.
    """
    kept = torch.get_num_threads()
    limit = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    a, b = torch.ones(1024, 512), torch.ones(512, 1024)
    chosen, fastest = 1, float("inf")
    threads = 1
    try:
        while True:
            torch.set_num_threads(threads)
            (seconds,) = _best([lambda: a @ b], 0.02)
            if seconds < 0.9 * fastest:
                chosen, fastest = threads, seconds
            if threads == limit:
                return chosen
            threads = min(2 * threads, limit)
    finally:
        torch.set_num_threads(kept)


def _best(works: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """The shortest of several runs of each, taken in turn: what else the machine does only makes a run longer."""
    best = [float("inf")] * len(works)
    end = time.perf_counter() + seconds
    for work in works:
        work()
    while time.perf_counter() < end:
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - start)
    return best

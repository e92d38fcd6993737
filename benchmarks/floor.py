"""The least time that a machine needs for the arithmetic and the bytes of a task, from rates measured on it."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.shapes import Shape

_SECONDS = 0.25
_ROWS = (256, 1024, 4096)
_STREAM_BYTES = 2**28


class Rates(NamedTuple):
    """What the machine does, each the best of several tries."""

    backbone: float
    """FLOP/s of the backbone's MLP matrix product, in the dtype used"""
    sae: float
    """FLOP/s of the SAE's matrix product"""
    memory: float
    """bytes/s of a copy, read and written bytes together"""


class Work(NamedTuple):
    """What a sample takes at least."""

    backbone_flops: float
    sae_flops: float
    memory_bytes: float

    def seconds(self, rates: Rates) -> float:
        """The floor: arithmetic at full rate, or memory traffic at full rate, whichever is longer."""
        arithmetic = self.backbone_flops / rates.backbone + self.sae_flops / rates.sae
        return max(arithmetic, self.memory_bytes / rates.memory)


def work(shape: Shape, layers: Sequence[int], d_sae: int, windows: Sequence[int], counted: int, item: int) -> Work:
    """Floating-point operations and bytes for windows of these lengths, of which `counted` tokens are encoded.

    The backbone runs up to the deepest layer, without head. Causal attention is counted as the half that it needs.
    Bytes are those that nothing can avoid: each weight read once (`item` bytes each). Pre-activations are not
    counted, since a kernel that fuses product and top-k would never write them.
    """
    depth = max(layers) + 1
    tokens = sum(windows)
    attention_width = shape.heads * shape.head_dim
    per_layer = (
        2 * shape.hidden * attention_width
        + 2 * shape.hidden * shape.kv_heads * shape.head_dim
        + 3 * shape.hidden * shape.intermediate
    )
    attention = sum(2 * attention_width * n * (n + 1) for n in windows)
    return Work(
        backbone_flops=float(depth * (2 * per_layer * tokens + attention)),
        sae_flops=float(2 * shape.hidden * d_sae * counted * len(layers)),
        memory_bytes=float(item * (depth * per_layer + len(layers) * d_sae * shape.hidden + tokens * shape.hidden)),
    )


def measure_rates(shape: Shape, d_sae: int, *, device: str, dtype: str) -> Rates:
    """Rates at the shapes of the task, the best over three heights of the left matrix."""
    kind = getattr(torch, dtype)
    source = torch.zeros(_STREAM_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return Rates(
        backbone=_gemm_rate(shape.hidden, shape.intermediate, kind, device),
        sae=_gemm_rate(shape.hidden, d_sae, kind, device),
        memory=2 * _STREAM_BYTES / _best_seconds(partial(target.copy_, source), device),
    )


def _gemm_rate(inner: int, outer: int, dtype: torch.dtype, device: str) -> float:
    weight = torch.randn(outer, inner, device=device).to(dtype)
    best = 0.0
    for rows in _ROWS:
        if rows * outer > 2**28:
            continue
        left = torch.randn(rows, inner, device=device).to(dtype)
        out = torch.empty(rows, outer, device=device, dtype=dtype)
        seconds = _best_seconds(partial(torch.mm, left, weight.T, out=out), device)
        best = max(best, 2 * rows * inner * outer / seconds)
    return best


def _best_seconds(run: Callable[[], object], device: str) -> float:
    """The shortest of at least three runs, after one that isn't counted."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    run()
    best, runs, end = float("inf"), 0, time.perf_counter() + _SECONDS
    while runs < 3 or time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        run()
        wait()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best

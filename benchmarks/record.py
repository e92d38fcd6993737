"""What was measured in a cell, as it is kept in JSON."""

from typing import Any

import torch

from benchmarks.floor import Rates, work
from benchmarks.measure import Cell
from benchmarks.rivals import OURS
from benchmarks.rivals.base import Task, cut
from benchmarks.shapes import Shape

Record = dict[str, Any]


def cell_record(cell: Cell, task: Task, place: Record, absent: dict[str, str]) -> Record:
    """All that was measured in a cell; `place` says which cell it is, `absent` names who wasn't run and why."""
    tokens = sum(document.tokens for document in cell.sample)
    results: Record = {}
    for name, contender in cell.contenders.items():
        runs, ratio, tokens_run = contender.runs, cell.ratio(name), contender.rival.tokens_run
        peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
        results[name] = {
            "seconds": [run.seconds for run in runs],
            "cpu_seconds": [run.cpu_seconds for run in runs],
            "tokens_per_second": tokens / cell.seconds(name).median if runs else None,
            "ratio_to_ours": ratio._asdict() if ratio else None,
            "tokens_run": tokens_run,
            "padded_to_real": tokens_run / tokens if tokens_run and runs else None,
            "peak_bytes_above_rest": max(peaks, default=None),
            "agreement_with_reference": contender.agreement._asdict() if contender.agreement else None,
            "problem": contender.problem,
        }
    return {
        **place,
        "layers": task.layers,
        "k": task.k,
        "window": task.window,
        "overlap": task.overlap,
        "batch_tokens": task.batch_tokens,
        "dtype": task.dtype,
        "sample": {"documents": len(cell.sample), "tokens": tokens},
        "results": results | {name: {"problem": reason} for name, reason in absent.items()},
    }


def floor_record(cell: Cell, task: Task, shape: Shape, rates: Rates) -> Record:
    """What the sample takes at least, and how near ours comes to it."""
    windows = [window for document in cell.sample for window in cut(0, [0] * document.tokens, task)]
    least = work(
        shape,
        task.layers,
        task.d_sae,
        windows=[len(window.ids) for window in windows],
        counted=sum(max(0, len(window.ids) - window.counted_from) for window in windows),
        item=torch.finfo(getattr(torch, task.dtype)).bits // 8,
    )
    seconds = least.seconds(rates)
    tokens = sum(document.tokens for document in cell.sample)
    return {
        **least._asdict(),
        "flops_per_token": (least.backbone_flops + least.sae_flops) / tokens,
        "bytes_per_token": least.memory_bytes / tokens,
        "seconds": seconds,
        "share_reached_by_ours": seconds / cell.seconds(OURS).median,
    }

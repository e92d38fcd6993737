"""The runtime under test, through its public interface."""

from collections.abc import Sequence
from typing import Any

import torch

from assay.sae_runtime.runtime import Runtime
from assay.schemas.scope import Scope
from benchmarks.rivals.base import Features, Pooled, Task, Weights


class Ours:
    """A Runtime with as many threads as the others; it keeps every feature unless `changes` to its scope say less."""

    tokens_run = None

    def __init__(self, task: Task, _weights: Weights, **changes: Any) -> None:
        self.runtime = Runtime(scope(task, **changes), device=task.device, threads=torch.get_num_threads())

    def features(self, texts: Sequence[str]) -> Features:
        layers = self.runtime.features(texts).layers
        return {layer: Pooled(f.offsets, f.ids, f.max, f.mean, f.count) for layer, f in layers.items()}


def scope(task: Task, **changes: Any) -> Scope:
    """The scope that asks for what `task` asks for: sinks masked, norm outliers left in, nothing pruned."""
    return Scope.model_validate(
        {
            "name": "benchmark",
            "backbone": str(task.backbone),
            "sae": str(task.saes),
            "layers": task.layers,
            "k": task.k,
            "window": task.window,
            "overlap": task.overlap,
            "norm_outlier": None,
            "top_m": task.d_sae,
            "dtype": task.dtype,
            **changes,
        }
    )

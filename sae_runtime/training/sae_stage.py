"""The SAEs of the embedded model: trained and measured as `assay train-sae` does for any other backbone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import torch

from assay.sae_runtime.backbone import Backbone
from assay.sae_runtime.training.common import log, read_json, save_state, write_json
from assay.sae_runtime.training.held_out import fidelity
from assay.sae_runtime.training.layers_run import LayersConfig, LayersRun, StepResult
from assay.sae_runtime.training.residual_stream import Place, ResidualStream
from assay.sae_runtime.training.sae_layouts import save_sae
from assay.sae_runtime.training.sae_trainer import SaeWeights
from assay.sae_runtime.windows import Window

CHECKPOINT_SECONDS = 120.0
_BATCH_TOKENS = 8192
_CURVE_EVERY = 50


def train_saes(
    work: Path, windows: Callable[[], Sequence[Sequence[int]]], layers: Sequence[int], config: LayersConfig
) -> dict[str, Any]:
    """Leaves float32 SAEs in `saes/` and returns their training record; a stopped training goes on where it was.

    `windows` gives the token ids of each window, the same every time; they are repeated where they don't suffice.
    """
    record, checkpoint = work / "saes" / "training.json", work / "saes" / "checkpoint.pt"
    if record.exists():
        return read_json(record)
    saved = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
    run = LayersRun(_backbone(work, layers), endless(windows()), config, saved and saved["run"])
    curves: dict[int, list[list[float]]] = saved["curves"] if saved else {layer: [] for layer in layers}
    last_saved = time.monotonic()
    while not run.finished:
        result = run.step()
        if (run.step_number - 1) % _CURVE_EVERY == 0 or run.finished:
            _follow(run, result, curves)
        if time.monotonic() - last_saved > CHECKPOINT_SECONDS:
            save_state(checkpoint, {"run": run.state_dict(), "curves": curves})
            last_saved = time.monotonic()
    for layer, sae in run.weights().items():
        save_sae(sae, work / "saes" / f"layer{layer}.sae.pt", torch.float32)
    found = {"config": asdict(config.sae), "layers": list(layers), "residuals": run.steps * config.sae.batch_tokens}
    found |= {
        f"layer{layer}": {"scale": run.trainers[layer].scale, "curve_step_fvu_dead": curves[layer]} for layer in layers
    }
    write_json(record, found)
    checkpoint.unlink(missing_ok=True)
    return found


def endless(windows: Sequence[Sequence[int]]) -> Callable[[Place], Iterator[tuple[Place, Window]]]:
    """A source of the windows, over and over; its place is (pass, window). Each window begins a text of its own."""

    def source(place: Place) -> Iterator[tuple[Place, Window]]:
        first_pass, behind = place or (0, 0)
        for number in count(first_pass):
            for n, ids in enumerate(windows[behind:], behind + 1):
                yield (number, n), Window(n, 0, 0, ids)
            behind = 0

    return source


def once(windows: Sequence[Sequence[int]]) -> Callable[[Place], Iterator[tuple[Place, Window]]]:
    """A source of the windows, each a text of its own, that ends."""
    return lambda _: (((n,), Window(n, 0, 0, ids)) for n, ids in enumerate(windows))


def measured(
    work: Path, windows: Sequence[Sequence[int]], saes: dict[int, SaeWeights], k: int
) -> dict[int, dict[str, float]]:
    """Layer -> fidelity of its SAE on all counted tokens of held-out windows."""
    stream = ResidualStream(
        _backbone(work, list(saes)), once(windows), batch_tokens=_BATCH_TOKENS, norm_outlier=LayersConfig.norm_outlier
    )
    whole = sum(map(len, windows))
    return {
        layer: {
            "tokens": found.tokens,
            "fvu": round(found.fvu, 4),
            "l0": round(found.l0, 2),
            "silent_share": round(found.dead_share, 4),
        }
        for layer, found in fidelity(stream, saes, k, whole).items()
    }


def _backbone(work: Path, layers: Sequence[int]) -> Backbone:
    return Backbone(work / "lm", sorted(layers), dtype=torch.float32, device=torch.device("cpu"))


def _follow(run: LayersRun, result: StepResult, curves: dict[int, list[list[float]]]) -> None:
    for layer, fvu in result.fvu.items():
        dead = run.trainers[layer].dead_share()
        curves[layer].append([run.step_number - 1, round(fvu.item(), 4), round(dead, 4)])
        log("sae: step %d of %d  layer %d  FVU %.3f  dead %.1f %%", run.step_number, run.steps, layer, fvu, 100 * dead)

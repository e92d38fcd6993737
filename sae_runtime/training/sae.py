"""Trains TopK sparse autoencoders on any backbone's residual stream and saves them in Qwen-Scope's layout.

The recipe is Gao et al. 2024 (arXiv 2406.04093): acts_TF = topk(relu(hidden_TD @ W_enc.T + b_enc), k),
recon_TD = acts_TF @ W_dec.T + b_dec, unit decoder columns, and an auxiliary loss in which the dead features
rebuild what the live ones miss. b_dec is not subtracted before encoding, so the files mean what
Qwen-Scope's files mean on raw residuals.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from .common import log, write_atomically
from .sae_trainer import SaeConfig, SaeTrainer, SaeWeights


class _Reached(Exception):
    """Ends a forward pass at the deepest layer that is needed."""


def decoder_layers(model: torch.nn.Module) -> torch.nn.ModuleList:
    """Finds the decoder layers of a causal model, a wrapper with `language_model`, or a bare backbone."""
    for path in ("model.layers", "model.language_model.layers", "language_model.layers", "layers"):
        node: Any = model
        for name in path.split("."):
            node = getattr(node, name, None)
        if isinstance(node, torch.nn.ModuleList):
            return node
    raise ValueError(f"{type(model).__name__} has no decoder layers at a known place (model.layers, …)")


@torch.inference_mode()
def residuals(model: torch.nn.Module, ids_BT: torch.Tensor, layers: Iterable[int]) -> dict[int, torch.Tensor]:
    """Gives resid_post of the asked layers, each hidden_BTD (B, T, D), for right-padded rows ids_BT.

    A causal model needs no mask for right padding; the caller leaves the padding positions out.
    Layers after the deepest asked one are not run.
    """
    caught: dict[int, torch.Tensor] = {}

    def catch(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            caught[layer] = output[0] if isinstance(output, tuple) else output
            if layer == deepest:
                raise _Reached

        return hook

    stack, layers = decoder_layers(model), list(layers)
    deepest = max(layers)
    handles = [stack[layer].register_forward_hook(catch(layer)) for layer in layers]
    try:
        getattr(model, "model", model)(input_ids=ids_BT, use_cache=False)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return caught


def collect(
    model: torch.nn.Module, windows: list[torch.Tensor], layers: list[int], batch_rows: int = 16
) -> dict[int, torch.Tensor]:
    """Gathers the residuals of all windows but their first token, per layer hidden_ND (N, D) in float16.

    Each window is one document's ids (t,), starting where inference would start it.
    """
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    ordered = sorted(windows, key=len)
    for start in range(0, len(ordered), batch_rows):
        batch = ordered[start : start + batch_rows]
        ids_BT = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        keep_BT = torch.arange(ids_BT.shape[1])[None, :] < torch.tensor([len(row) for row in batch])[:, None]
        keep_BT[:, 0] = False
        for layer, hidden_BTD in residuals(model, ids_BT, layers).items():
            found[layer].append(hidden_BTD[keep_BT].half())
        if start // batch_rows % 100 == 0:
            log("sae: collected %d of %d windows", min(start + batch_rows, len(ordered)), len(ordered))
    return {layer: torch.cat(chunks) for layer, chunks in found.items()}


def without_outliers(hidden_ND: torch.Tensor, max_ratio: float) -> torch.Tensor:
    """Drops residuals whose norm exceeds `max_ratio` times the median norm, and non-finite ones."""
    norm_N = torch.cat([chunk.float().norm(dim=1) for chunk in hidden_ND.split(100_000)])
    return hidden_ND[norm_N.isfinite() & (norm_N <= max_ratio * norm_N.nanmedian())]


def train_sae(hidden_ND: torch.Tensor, config: SaeConfig) -> tuple[SaeWeights, dict[str, Any]]:
    """Fits one SAE to hidden_ND (N, D) and returns its weights for raw residuals, with a training record."""
    generator = torch.Generator().manual_seed(config.seed)
    hidden_ND = without_outliers(hidden_ND, config.max_norm_ratio)
    count = len(hidden_ND)
    sample_ND = hidden_ND[torch.randperm(count, generator=generator)[:100_000]].float()
    trainer = SaeTrainer(sample_ND, config, generator)
    steps = int(count * config.passes) // config.batch_tokens
    order, curve = torch.empty(0, dtype=torch.long), []
    for step in range(steps):
        if len(order) < config.batch_tokens:
            order = torch.randperm(count, generator=generator)
        chosen, order = order[: config.batch_tokens], order[config.batch_tokens :]
        fvu = trainer.step(hidden_ND[chosen].float(), step / steps)
        if step % 50 == 0 or step == steps - 1:
            dead = trainer.dead_share()
            curve.append([step, round(fvu.item(), 4), round(dead, 4)])
            log("sae: step %d of %d  FVU %.3f  dead %.1f %%", step, steps, fvu.item(), 100 * dead)
    record = {"tokens_collected": count, "steps": steps, "scale": trainer.scale, "curve_step_fvu_dead": curve}
    return trainer.weights(), record


def save_sae(weights: SaeWeights, path: Path, dtype: torch.dtype) -> None:
    """Writes `layer{n}.sae.pt`: a plain dict of W_enc (F, D), W_dec (D, F), b_enc (F,), b_dec (D,)."""
    buffer = io.BytesIO()
    torch.save({name: tensor.to(dtype).contiguous().clone() for name, tensor in weights.items()}, buffer)
    write_atomically(path, buffer.getvalue())

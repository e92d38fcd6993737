"""Trains TopK sparse autoencoders on any backbone's residual stream and saves them in Qwen-Scope's layout.

The recipe is Gao et al. 2024 (arXiv 2406.04093): acts_TF = topk(relu(hidden_TD @ W_enc.T + b_enc), k),
recon_TD = acts_TF @ W_dec.T + b_dec, unit decoder columns, and an auxiliary loss in which the dead features
rebuild what the live ones miss. b_dec is not subtracted before encoding, so the files mean what
Qwen-Scope's files mean on raw residuals.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .common import log, write_atomically

SaeWeights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class SaeConfig:
    """Shape and training of one SAE."""

    d_sae: int = 4096
    k: int = 32
    aux_k: int = 128
    """Dead features used per token in the auxiliary loss (half of d_model, as in the paper)."""
    aux_coefficient: float = 1 / 32
    dead_after_tokens: int = 150_000
    """A feature is dead once it was silent for this many tokens."""
    batch_tokens: int = 1024
    learning_rate: float = 2e-3
    decay: float = 0.4
    """Share of the run, at its end, with falling learning rate."""
    passes: float = 1.0
    max_norm_ratio: float = 10.0
    """Residuals longer than this many median norms are left out of training."""
    seed: int = 11


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


def topk_acts(pre_TF: torch.Tensor, k: int) -> torch.Tensor:
    """Keeps the k largest positive pre-activations of each token and zeroes the rest."""
    values_TK, index_TK = pre_TF.relu().topk(k, dim=-1, sorted=False)
    return torch.zeros_like(pre_TF).scatter(-1, index_TK, values_TK)


def train_sae(hidden_ND: torch.Tensor, config: SaeConfig) -> tuple[SaeWeights, dict[str, Any]]:
    """Fits one SAE to hidden_ND (N, D) and returns its weights for raw residuals, with a training record.

    Works on residuals divided by their root mean square; that scale is folded back into the biases at the
    end: relu and topk commute with a positive factor, so b_enc and b_dec take it and the matrices stay.
    """
    generator = torch.Generator().manual_seed(config.seed)
    hidden_ND = without_outliers(hidden_ND, config.max_norm_ratio)
    count, d_model = hidden_ND.shape
    sample = hidden_ND[torch.randperm(count, generator=generator)[:100_000]].float()
    b_dec = geometric_median(sample)
    scale = (sample - b_dec).pow(2).mean().sqrt().item()
    b_dec = (b_dec / scale).requires_grad_()
    W_dec = torch.randn(d_model, config.d_sae, generator=generator)
    W_dec = (W_dec / W_dec.norm(dim=0)).requires_grad_()
    W_enc = W_dec.detach().T.clone().requires_grad_()
    b_enc = (-(W_enc.detach() @ b_dec.detach())).requires_grad_()
    parameters = [W_enc, W_dec, b_enc, b_dec]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, betas=(0.9, 0.999), fused=True)
    silent_F = torch.zeros(config.d_sae)
    steps = int(count * config.passes) // config.batch_tokens
    order, curve = torch.empty(0, dtype=torch.long), []
    for step in range(steps):
        if len(order) < config.batch_tokens:
            order = torch.randperm(count, generator=generator)
        chosen, order = order[: config.batch_tokens], order[config.batch_tokens :]
        x_TD = hidden_ND[chosen].float() / scale
        remaining = 1 - step / steps
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / 100, remaining / config.decay)
        pre_TF = x_TD @ W_enc.T + b_enc
        acts_TF = topk_acts(pre_TF, config.k)
        error_TD = x_TD - (acts_TF @ W_dec.T + b_dec)
        variance = (x_TD - x_TD.mean(0)).pow(2).sum(1).mean()
        fvu = error_TD.pow(2).sum(1).mean() / variance
        fired_F = (acts_TF.detach() > 0).any(0)
        silent_F = torch.where(fired_F, 0.0, silent_F + config.batch_tokens)
        loss = fvu + config.aux_coefficient * _aux_loss(error_TD, pre_TF, W_dec, silent_F, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            if W_dec.grad is not None:
                # The part of the gradient along a column only changes its length, which is fixed.
                W_dec.grad -= (W_dec.grad * W_dec).sum(0) * W_dec
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            W_dec /= W_dec.norm(dim=0)
        if step % 50 == 0 or step == steps - 1:
            dead = (silent_F > config.dead_after_tokens).float().mean().item()
            curve.append([step, round(fvu.item(), 4), round(dead, 4)])
            log("sae: step %d of %d  FVU %.3f  dead %.1f %%", step, steps, fvu.item(), 100 * dead)
    weights = {
        "W_enc": W_enc.detach(),
        "W_dec": W_dec.detach(),
        "b_enc": b_enc.detach() * scale,
        "b_dec": b_dec.detach() * scale,
    }
    return weights, {"tokens_collected": count, "steps": steps, "scale": scale, "curve_step_fvu_dead": curve}


def _aux_loss(
    error_TD: torch.Tensor,
    pre_TF: torch.Tensor,
    W_dec: torch.Tensor,
    silent_F: torch.Tensor,
    config: SaeConfig,
) -> torch.Tensor:
    """Gives the share of the error that the strongest dead features fail to rebuild; 0 with none dead."""
    dead = (silent_F > config.dead_after_tokens).nonzero().flatten()
    if not len(dead):
        return torch.zeros(())
    target_TD = error_TD.detach()
    rebuilt_TD = topk_acts(pre_TF[:, dead], min(config.aux_k, len(dead))) @ W_dec[:, dead].T
    missed = (target_TD - rebuilt_TD).pow(2).sum(1).mean() / target_TD.pow(2).sum(1).mean().clamp_min(1e-8)
    return missed.nan_to_num(0.0)


def geometric_median(points_ND: torch.Tensor, rounds: int = 30) -> torch.Tensor:
    """Gives the point (D,) with about the least summed distance to all points (Weiszfeld iteration)."""
    median_D = points_ND.mean(0)
    for _ in range(rounds):
        weight_N = 1.0 / (points_ND - median_D).norm(dim=1).clamp_min(1e-6)
        median_D = (points_ND * weight_N[:, None]).sum(0) / weight_N.sum()
    return median_D


def save_sae(weights: SaeWeights, path: Path, dtype: torch.dtype) -> None:
    """Writes `layer{n}.sae.pt`: a plain dict of W_enc (F, D), W_dec (D, F), b_enc (F,), b_dec (D,)."""
    buffer = io.BytesIO()
    torch.save({name: tensor.to(dtype).contiguous().clone() for name, tensor in weights.items()}, buffer)
    write_atomically(path, buffer.getvalue())

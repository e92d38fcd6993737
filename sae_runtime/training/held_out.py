"""How well SAEs rebuild residuals that they weren't trained on, summed over a stream in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from assay.sae_runtime.training.residual_stream import ResidualStream
from assay.sae_runtime.training.sae_trainer import SaeWeights, topk_acts

_ROWS = 2048


class Fidelity(NamedTuple):
    """One SAE on held-out tokens."""

    tokens: int
    fvu: float
    """sum |h - h_hat|^2 / sum |h - mean h|^2"""
    l0: float
    """mean active features a token"""
    dead_share: float
    """share of the features that no token made fire"""


def fidelity(stream: ResidualStream, saes: Mapping[int, SaeWeights], k: int, tokens: int) -> dict[int, Fidelity]:
    """Layer -> its SAE's fidelity on up to about `tokens` tokens of the stream; empty where it gives none."""
    sums: dict[int, _Sums] = {}
    seen = 0
    while seen < tokens and (rows := stream.read()) is not None:
        seen += len(next(iter(rows.values())))
        for layer, hidden_TD in rows.items():
            if layer not in sums:
                sums[layer] = _Sums(saes[layer], k, hidden_TD.device)
            sums[layer].add(hidden_TD)
    return {layer: found.result() for layer, found in sums.items() if found.tokens > 1}


class _Sums:
    def __init__(self, sae: SaeWeights, k: int, device: torch.device) -> None:
        self._sae, self._k = {name: t.to(device) for name, t in sae.items()}, k
        self._sum_D = torch.zeros(len(sae["b_dec"]), dtype=torch.float64, device=device)
        self._fired_F = torch.zeros(len(sae["b_enc"]), dtype=torch.bool, device=device)
        self.tokens = self._active = 0
        self._error = self._square = 0.0

    @torch.inference_mode()
    def add(self, hidden_TD: Tensor) -> None:
        sae = self._sae
        for part_TD in hidden_TD.split(_ROWS):
            x_TD = part_TD.float()
            acts_TF = topk_acts(x_TD @ sae["W_enc"].T + sae["b_enc"], self._k)
            error_TD = x_TD - acts_TF @ sae["W_dec"].T - sae["b_dec"]
            self._error += error_TD.double().pow(2).sum().item()
            self._square += x_TD.double().pow(2).sum().item()
            self._sum_D += x_TD.double().sum(0)
            self._active += int((acts_TF > 0).sum())
            self._fired_F |= (acts_TF > 0).any(0)
            self.tokens += len(x_TD)

    def result(self) -> Fidelity:
        spread = self._square - self._sum_D.pow(2).sum().item() / self.tokens
        return Fidelity(
            self.tokens,
            self._error / max(spread, 1e-12),
            self._active / self.tokens,
            1 - self._fired_F.float().mean().item(),
        )

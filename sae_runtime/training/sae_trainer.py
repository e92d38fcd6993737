"""One TopK SAE in training, a batch of residuals at a time; whoever calls it decides where residuals come from.

The recipe is Gao et al. 2024 (arXiv 2406.04093), equations 2 and 4 and appendix A:
acts_TF = topk(relu(hidden_TD @ W_enc.T + b_enc), k), recon_TD = acts_TF @ W_dec.T + b_dec, unit decoder columns, and an
auxiliary loss in which the dead features rebuild what the live ones miss. b_dec is not subtracted before encoding, so
the weights mean what Qwen-Scope's mean on raw residuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

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
    seed: int = 11


class SaeTrainer:
    """Gives the same SAE for the same sample, configuration, seed and batches, also over `state_dict`.

    Works on residuals divided by their root mean square; that scale is folded back into the biases at the
    end: relu and topk commute with a positive factor, so b_enc and b_dec take it and the matrices stay.
    """

    def __init__(self, sample_ND: torch.Tensor, config: SaeConfig, generator: torch.Generator | None = None) -> None:
        """Starts from the geometric median and the spread of sample_ND (N, D), float32, on the device of it."""
        generator = generator or torch.Generator().manual_seed(config.seed)
        self.config, device, d_model = config, sample_ND.device, sample_ND.shape[1]
        b_dec = geometric_median(sample_ND)
        self.scale: float = (sample_ND - b_dec).pow(2).mean().sqrt().item() or 1.0
        self._b_dec = (b_dec / self.scale).requires_grad_()
        W_dec = torch.randn(d_model, config.d_sae, generator=generator).to(device)
        self._W_dec = (W_dec / W_dec.norm(dim=0)).requires_grad_()
        self._W_enc = self._W_dec.detach().T.clone().requires_grad_()
        self._b_enc = (-(self._W_enc.detach() @ self._b_dec.detach())).requires_grad_()
        self._parameters = [self._W_enc, self._W_dec, self._b_enc, self._b_dec]
        self._optimizer = torch.optim.Adam(self._parameters, lr=config.learning_rate, betas=(0.9, 0.999), fused=True)
        self._silent_F = torch.zeros(config.d_sae, device=device)
        self._steps = 0

    @classmethod
    def resumed(cls, state: dict[str, Any], d_model: int, config: SaeConfig, device: torch.device) -> SaeTrainer:
        """A trainer that continues where `state` was taken."""
        trainer = cls(torch.zeros(1, d_model, device=device), config)
        trainer.load_state_dict(state)
        return trainer

    def step(self, raw_TD: torch.Tensor, progress: float) -> torch.Tensor:
        """Takes one step on raw residuals (T, D) and returns the batch's FVU; `progress` is the share of the run done.

        The learning rate rises over the first 100 steps and falls over the last `decay` of the run.
        """
        config, W_dec = self.config, self._W_dec
        x_TD = raw_TD.float() / self.scale
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (self._steps + 1) / 100, (1 - progress) / config.decay)
        pre_TF = x_TD @ self._W_enc.T + self._b_enc
        acts_TF = topk_acts(pre_TF, config.k)
        error_TD = x_TD - (acts_TF @ W_dec.T + self._b_dec)
        variance = (x_TD - x_TD.mean(0)).pow(2).sum(1).mean()
        fvu = error_TD.pow(2).sum(1).mean() / variance
        fired_F = (acts_TF.detach() > 0).any(0)
        self._silent_F = torch.where(fired_F, 0.0, self._silent_F + len(x_TD))
        loss = fvu + config.aux_coefficient * _aux_loss(error_TD, pre_TF, W_dec, self._silent_F, config)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            if W_dec.grad is not None:
                # The part of the gradient along a column only changes its length, which is fixed.
                W_dec.grad -= (W_dec.grad * W_dec).sum(0) * W_dec
            torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self._optimizer.step()
            W_dec /= W_dec.norm(dim=0)
        self._steps += 1
        return fvu.detach()

    def dead_share(self) -> float:
        """The share of features that were silent for longer than `dead_after_tokens`."""
        return (self._silent_F > self.config.dead_after_tokens).float().mean().item()

    def weights(self) -> SaeWeights:
        """W_enc (F, D), W_dec (D, F), b_enc (F,), b_dec (D,) for raw residuals, float32, on the CPU."""
        found = {
            "W_enc": self._W_enc.detach(),
            "W_dec": self._W_dec.detach(),
            "b_enc": self._b_enc.detach() * self.scale,
            "b_dec": self._b_dec.detach() * self.scale,
        }
        return {name: tensor.cpu().clone() for name, tensor in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on, loadable with `weights_only=True`."""
        return {
            "parameters": [p.detach() for p in self._parameters],
            "optimizer": self._optimizer.state_dict(),
            "silent_F": self._silent_F,
            "scale": self.scale,
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; the shapes must be those of this trainer."""
        with torch.no_grad():
            for parameter, saved in zip(self._parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self._silent_F = state["silent_F"].to(self._silent_F)
        self.scale, self._steps = float(state["scale"]), int(state["steps"])


def topk_acts(pre_TF: torch.Tensor, k: int) -> torch.Tensor:
    """Keeps the k largest positive pre-activations of each token and zeroes the rest."""
    values_TK, index_TK = pre_TF.relu().topk(k, dim=-1, sorted=False)
    return torch.zeros_like(pre_TF).scatter(-1, index_TK, values_TK)


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

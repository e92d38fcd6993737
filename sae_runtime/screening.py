"""The exact top-k of a float32 encoder at the price of an int8 one, for CPUs with fast int8 GEMMs.

An int8 GEMM over all F features says which few can be among the k largest; their activations alone are computed in
float32. With x = s_x (x_q + e), |e| <= 1/2, and each row of W_enc quantised likewise, the error of a screened value is
a sum of D small independent terms with standard deviation

    sigma^2 = (s_x |W_q s_w|)^2 / 12 + (|x| s_w)^2 / 12.

Features within 10 sigma of the k-th largest screened value are candidates. Afterwards the k-th largest exact value must
lie at least 7 sigma above the cut, so that a feature left out could only belong to the top k if its error exceeded 7
sigma (10^-12 for one near the cut); tokens that fail this, and blocks with too many candidates, are encoded densely.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from assay.sae_runtime.topk import exact_topk

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)

_CUT = 10.0
_CERTAIN = 7.0
_MOST_CANDIDATES = 12
"""times k, on average over a block: beyond it the dense encoder is as fast"""
_GROUPS_PER_K = 8


class Screened(NamedTuple):
    """The k largest of T tokens."""

    acts_TK: Tensor
    ids_TK: Tensor
    unsure_T: Tensor
    """True for a token that must be encoded densely instead"""


class Int8Screen:
    """Finds each token's k largest pre-activations without computing most of them."""

    def __init__(self, W_enc_FD: Tensor, b_enc_F: Tensor, W_int8_FD: Tensor, scale_F: Tensor, k: int) -> None:
        """Takes the float32 encoder and its rows in int8 (W_enc ~ W_int8 * scale, one scale a feature)."""
        self.W_enc_FD, self.b_enc_F = W_enc_FD, b_enc_F
        self.W_int8_FD, self.scale_F = W_int8_FD, scale_F
        self.k = k
        self._widest_row = float(
            max(
                (part.float().norm(dim=1) * scale).max()
                for part, scale in zip(W_int8_FD.split(8192), scale_F.split(8192), strict=True)
            )
        )
        self._largest_scale = float(scale_F.max())
        self._size = _group_size(len(b_enc_F), k)

    def topk(self, hidden_TD: Tensor) -> Screened | None:
        """(acts_TK, ids_TK) of float32 tokens; None where screening doesn't pay for this block."""
        cut_T, sigma_T, token_C, feature_C = self._candidates(hidden_TD)
        counts_T = torch.bincount(token_C, minlength=len(hidden_TD))
        # Fewer than k stand above the cut only where a residual isn't finite.
        if len(token_C) > _MOST_CANDIDATES * self.k * len(hidden_TD) or counts_T.amin() < self.k:
            return None
        values_C = self._exact(hidden_TD, counts_T, feature_C)
        acts_TK, ids_TK = _topk_ragged(values_C, counts_T, token_C, feature_C, self.k)
        certain_T = acts_TK.amin(1) - cut_T >= _CERTAIN * sigma_T
        # A k-th value of 0 or less is never active, and neither is anything below the cut.
        harmless_T = cut_T + _CERTAIN * sigma_T <= 0
        return Screened(acts_TK, ids_TK, ~(certain_T | harmless_T))

    def _candidates(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(cut_T, sigma_T, token_C, feature_C): all pairs whose screened value reaches the token's cut."""
        T, F = len(x_TD), len(self.b_enc_F)
        step_T1 = (x_TD.abs().amax(1, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        x_int8 = torch.round(x_TD / step_T1).to(torch.int8)
        sums_TF = torch._int_mm(x_int8, self.W_int8_FD.T)
        # In place: what the int32 sums leave in the cache is still there for the next two passes.
        pre_TF = sums_TF.view(torch.float32)
        torch.mul(sums_TF, self.scale_F, out=pre_TF)
        torch.addcmul(self.b_enc_F, pre_TF, step_T1, out=pre_TF)
        sigma_T = torch.hypot(step_T1[:, 0] * self._widest_row, x_TD.norm(dim=1) * self._largest_scale) / 12**0.5
        pre_TSG = pre_TF.view(T, self._size, F // self._size)
        largest_TG = pre_TSG.amax(1)
        cut_T = torch.topk(largest_TG, self.k, dim=1, sorted=False).values.amin(1) - _CUT * sigma_T
        token_P, group_P = (largest_TG >= cut_T[:, None]).nonzero(as_tuple=True)
        near_PS = pre_TSG[token_P, :, group_P] >= cut_T[token_P, None]
        pair_C, row_C = near_PS.nonzero(as_tuple=True)
        # In order of token, then feature: exact_topk gives a tie to the lowest column, so to the lowest feature.
        keys_C = torch.sort(token_P[pair_C] * F + row_C * largest_TG.shape[1] + group_P[pair_C]).values
        token_C = torch.div(keys_C, F, rounding_mode="floor")
        return cut_T, sigma_T, token_C, keys_C - token_C * F

    def _exact(self, x_TD: Tensor, counts_T: Tensor, feature_C: Tensor) -> Tensor:
        """values_C: x . W_enc[feature] + b_enc[feature] in float32, for each candidate alone."""
        rows = torch.cat([counts_T.new_zeros(1), counts_T.cumsum(0)])
        zeros_C = torch.zeros(len(feature_C))
        wanted = torch.sparse_csr_tensor(
            rows, feature_C, zeros_C, (len(x_TD), len(self.b_enc_F)), check_invariants=False
        )
        return torch.sparse.sampled_addmm(wanted, x_TD, self.W_enc_FD.T, beta=0).values() + self.b_enc_F[feature_C]


def quantise_rows(W_FD: Tensor) -> tuple[Tensor, Tensor]:
    """(W_int8_FD, scale_F): each row in steps of its largest magnitude / 127, rounded to nearest."""
    scale_F = (W_FD.abs().amax(1).float() / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.round(W_FD / scale_F[:, None]).to(torch.int8), scale_F


def _topk_ragged(
    values_C: Tensor, counts_T: Tensor, token_C: Tensor, feature_C: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """(acts_TK, ids_TK) among each token's candidates, of which it has at least k; candidates lie in order."""
    column_C = torch.arange(len(token_C)) - (counts_T.cumsum(0) - counts_T)[token_C]
    values_TW = torch.full((len(counts_T), int(counts_T.amax())), -torch.inf)
    features_TW = torch.zeros(values_TW.shape, dtype=torch.long)
    values_TW[token_C, column_C] = values_C
    features_TW[token_C, column_C] = feature_C
    acts_TK, where_TK = exact_topk(values_TW, k)
    return acts_TK, torch.gather(features_TW, 1, where_TK)


def _group_size(width: int, k: int) -> int:
    """The largest power of two that divides `width` and leaves at least 8 k groups (or 1)."""
    size = 1
    while width % (2 * size) == 0 and width // (2 * size) >= _GROUPS_PER_K * k:
        size *= 2
    return size

"""Pre-activations of a block of tokens, always as float32: pre = h @ W_enc.T + b_enc."""

import math
from typing import Protocol

import torch
from torch import Tensor

_HALF_LIMIT = 2.0**14
"""residuals are scaled below this before they become float16, whose largest value is 65504"""


class Matmul(Protocol):
    """The linear half of an encoder."""

    def __call__(self, hidden_TD: Tensor) -> Tensor:
        """pre_TF in float32."""


class Float32Matmul:
    """float32 throughout, without TF32: the exact way on a CPU, and on a GPU for a float32 backbone."""

    def __init__(self, W_enc_FD: Tensor, b_enc_F: Tensor) -> None:
        self.W_enc_FD, self.b_enc_F = W_enc_FD, b_enc_F

    def __call__(self, hidden_TD: Tensor) -> Tensor:
        return torch.addmm(self.b_enc_F, hidden_TD.float(), self.W_enc_FD.T)


class HalfMatmul:
    """Tensor-core GEMM with float32 sums and output; the bias rides along as two more columns of W_enc.

    With float16 weights some 0.05 % of the top k differ from float32's, less than what rounding a residual to
    bfloat16 changes (docs/runtime.md).
    """

    def __init__(self, W_enc_FD: Tensor, b_enc_F: Tensor) -> None:
        high_F = b_enc_F.half()
        low_F = (b_enc_F - high_F.float()).half()
        self._width = _multiple_of_8(W_enc_FD.shape[1] + 2)
        self._weights_FE = _columns([W_enc_FD.half(), high_F[:, None], low_F[:, None]], self._width)

    def __call__(self, hidden_TD: Tensor) -> Tensor:
        # A power of two, so that scaling is exact; massive residual dimensions reach 10^4 and more.
        exponent = torch.ceil(torch.log2(hidden_TD.abs().amax().float() / _HALF_LIMIT)).clamp_min(0)
        scale = torch.exp2(exponent)
        rest_TE = torch.zeros(len(hidden_TD), self._width, dtype=torch.float16, device=hidden_TD.device)
        D = hidden_TD.shape[1]
        rest_TE[:, :D] = hidden_TD / scale
        rest_TE[:, D : D + 2] = 1 / scale
        return _mm_float32(rest_TE, self._weights_FE.T).mul_(scale)


class SplitMatmul:
    """float32 weights as a sum of two bfloat16 ones, in one GEMM of twice the depth: exact mode for bfloat16 residuals.

    A residual in bfloat16 is taken as it is, and 16 bits of each weight are kept; the top k came out as float32's in
    every token tried (docs/runtime.md).
    """

    def __init__(self, W_enc_FD: Tensor, b_enc_F: Tensor) -> None:
        high_FD, low_FD, _ = _split(W_enc_FD)
        bias = [part_F[:, None] for part_F in _split(b_enc_F)]
        self._width = _multiple_of_8(2 * W_enc_FD.shape[1] + 3)
        self._weights_FE = _columns([high_FD, low_FD, *bias], self._width)

    def __call__(self, hidden_TD: Tensor) -> Tensor:
        if hidden_TD.dtype != torch.bfloat16:
            raise TypeError(f"SplitMatmul takes bfloat16 residuals, not {hidden_TD.dtype}")
        ones_T3 = torch.ones(len(hidden_TD), 3, dtype=torch.bfloat16, device=hidden_TD.device)
        return _mm_float32(_columns([hidden_TD, hidden_TD, ones_T3], self._width), self._weights_FE.T)


def _split(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three bfloat16 tensors whose sum is `values` to 24 bits."""
    high = values.bfloat16()
    middle = (values - high.float()).bfloat16()
    return high, middle, (values - high.float() - middle.float()).bfloat16()


def _columns(parts: list[Tensor], width: int) -> Tensor:
    """The parts side by side, zeros up to `width`."""
    missing = width - sum(part.shape[1] for part in parts)
    return torch.cat([*parts, parts[0].new_zeros(len(parts[0]), missing)], dim=1)


def _multiple_of_8(width: int) -> int:
    """Tensor cores want rows of whole 16-byte pieces."""
    return math.ceil(width / 8) * 8


def _mm_float32(a: Tensor, b: Tensor) -> Tensor:
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()

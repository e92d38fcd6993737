"""The SAE encoder: which features are active on which token, and how strongly.

    pre = h @ W_enc.T + b_enc                         h: the residual after the hooked layer (resid_post)
    acts = topk(relu(pre), k)                         TopK (arXiv 2605.11887, section 4.1)
    acts = pre where pre > threshold >= 0, else 0     JumpReLU, BatchTopK at inference; ReLU with threshold 0

A feature is active where its act is > 0. b_dec is not subtracted from h; for the formats whose encoders were trained
with it subtracted, sae_weights.py has folded it into b_enc.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from assay.sae_runtime.encoder_cache import cached_encoder
from assay.sae_runtime.matmul import Float32Matmul, HalfMatmul, Matmul, SplitMatmul
from assay.sae_runtime.sae_files import SaeFile
from assay.sae_runtime.screening import Int8Screen
from assay.sae_runtime.topk import exact_topk
from assay.schemas.errors import AssayError

_BLOCK_BYTES = {"cpu": 8 * 2**20, "cuda": 2**30}
"""pre-activations that exist at once: what a CPU's cache holds; on a GPU enough rows for a full-speed GEMM"""
_FEWEST_ROWS = 32


class Activations(NamedTuple):
    """The active features of T tokens, A entries in order of token."""

    token_A: Tensor
    """int64, row in hidden_TD"""
    ids_A: Tensor
    """int64, feature"""
    acts_A: Tensor
    """float32, > 0"""


class Encoder:
    """One layer's encoder half on a device."""

    def __init__(
        self,
        sae: SaeFile,
        *,
        k: int | None,
        d_model: int,
        device: torch.device,
        dtype: torch.dtype,
        exact: bool,
        screen: bool = False,
    ) -> None:
        """Maps the encoder's weights, shared with other processes of this machine.

        `dtype` is the backbone's. On a GPU `exact` keeps float32 products where the default takes float16 weights; on
        a CPU `screen` finds with int8 which few products are needed. Raises AssayError for weights that are damaged or
        of another backbone.
        """
        on_gpu = device.type != "cpu"
        halves = on_gpu and not exact
        weights = cached_encoder(sae, "float16" if halves else "float32", int8=screen)
        self.d_sae, width = weights.W_enc_FD.shape
        self.k = k if k is not None else weights.k
        if width != d_model:
            raise AssayError(
                f"the SAE is for d_model {width}, the backbone has {d_model}",
                where=str(sae.weights),
                hint="SAE and backbone must be of one suite; `assay scopes` lists the published pairs",
            )
        if weights.activation == "topk" and not (self.k and 0 < self.k <= self.d_sae):
            raise AssayError(f"k = {self.k} with d_sae = {self.d_sae}", where=str(sae.weights))
        W_enc_FD, b_enc_F = weights.W_enc_FD.to(device), weights.b_enc_F.to(device)
        self._threshold_F = None if weights.threshold_F is None else weights.threshold_F.to(device)
        self._matmul: Matmul
        if halves:
            self._matmul = HalfMatmul(W_enc_FD, b_enc_F)
        elif on_gpu and dtype == torch.bfloat16:
            self._matmul = SplitMatmul(W_enc_FD, b_enc_F)
        else:
            self._matmul = Float32Matmul(W_enc_FD, b_enc_F)
        self._screen: Int8Screen | None = None
        if weights.activation == "topk" and weights.W_int8_FD is not None and weights.scale_F is not None:
            assert self.k is not None  # noqa: S101 - checked above
            self._screen = Int8Screen(W_enc_FD, b_enc_F, weights.W_int8_FD, weights.scale_F, self.k)
        self._block = max(_FEWEST_ROWS, _BLOCK_BYTES["cuda" if on_gpu else "cpu"] // (4 * self.d_sae))

    @torch.inference_mode()
    def encode(self, hidden_TD: Tensor) -> Activations:
        """The active features of each token, a block of tokens at a time."""
        if len(hidden_TD) == 0:
            none_A = torch.zeros(0, dtype=torch.int64, device=hidden_TD.device)
            return Activations(none_A, none_A, torch.zeros(0, device=hidden_TD.device))
        parts, start = [], 0
        for block_TD in hidden_TD.split(self._block):
            token_A, ids_A, acts_A = self._encode_block(block_TD)
            parts.append((token_A + start, ids_A, acts_A))
            start += len(block_TD)
        return Activations(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _encode_block(self, hidden_TD: Tensor) -> Activations:
        if self._threshold_F is not None:
            return _above(self._matmul(hidden_TD), self._threshold_F)
        acts_TK, ids_TK = self._topk(hidden_TD)
        token_A, column_A = (acts_TK > 0).nonzero(as_tuple=True)
        return Activations(token_A, ids_TK[token_A, column_A], acts_TK[token_A, column_A])

    def _topk(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        # relu after top-k leaves the same positive activations as relu before it, on k instead of d_sae values.
        assert self.k is not None  # noqa: S101 - checked when loading
        if self._screen is None:
            return exact_topk(self._matmul(hidden_TD), self.k)
        hidden_TD = hidden_TD.float()
        screened = self._screen.topk(hidden_TD)
        if screened is None:
            return exact_topk(self._matmul(hidden_TD), self.k)
        acts_TK, ids_TK, unsure_T = screened
        if unsure_T.any():
            acts_TK[unsure_T], ids_TK[unsure_T] = exact_topk(self._matmul(hidden_TD[unsure_T]), self.k)
        return acts_TK, ids_TK


def _above(pre_TF: Tensor, threshold_F: Tensor) -> Activations:
    token_A, ids_A = (pre_TF > threshold_F).nonzero(as_tuple=True)
    return Activations(token_A, ids_A, pre_TF[token_A, ids_A])

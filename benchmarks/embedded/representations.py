"""What a model gives for a text: the mean residual of each layer, and the largest activation of each SAE feature."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from assay.sae_runtime.backbone import Backbone
from assay.sae_runtime.masking import counted_tokens
from assay.sae_runtime.training.pretrain import PretrainConfig, build_model
from assay.sae_runtime.windows import Tokenizer, cut_windows, make_batches, pad

LENGTH = 128
"""Tokens of a text that are read."""
K = 32
_BATCH_TOKENS = 2048


class Sae(NamedTuple):
    """The encoder of one layer."""

    W_enc_FD: Tensor
    b_enc_F: Tensor


class Pooled(NamedTuple):
    """N texts."""

    mean: dict[int, NDArray[np.float32]]
    """layer -> mean residual (N, D), the first token left out"""
    max: sparse.csr_matrix
    """(N, layers * F): the largest activation of each feature, layer after layer"""


def shortened(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Each text up to its LENGTH-th token, so that every method reads the same."""
    found = []
    for text in texts:
        offsets = tokenizer.encode_with_offsets(text[: LENGTH * 30]).offsets
        found.append(text[: offsets[LENGTH - 1][1]] if len(offsets) > LENGTH else text)
    return found


@torch.inference_mode()
def pool(backbone: Backbone, tokenizer: Tokenizer, texts: Sequence[str], saes: Mapping[int, Sae]) -> Pooled:
    """Runs the model over the first LENGTH tokens of each text."""
    ids = tokenizer.encode(texts)
    windows = [w for n, row in enumerate(ids) for w in cut_windows(n, row[:LENGTH], LENGTH, 0)]
    mean = {layer: np.zeros((len(texts), backbone.d_model), np.float32) for layer in backbone.layers}
    found: list[tuple[NDArray, NDArray, NDArray]] = []
    F = len(next(iter(saes.values())).b_enc_F)
    for batch in make_batches(windows, _BATCH_TOKENS):
        documents = np.array([w.document for w in batch])
        keep_BL = counted_tokens(batch, mask_first=True).usable_BL
        for at, (layer, hidden_BLD) in enumerate(backbone.residuals(pad(batch)).items()):
            total_BD = (hidden_BLD * keep_BL[:, :, None]).sum(1)
            mean[layer][documents] = (total_BD / keep_BL.sum(1).clamp_min(1)[:, None]).numpy()
            largest_BF = _largest(hidden_BLD, keep_BL, saes[layer])
            row, feature = np.nonzero(largest_BF)
            found.append((documents[row], feature + at * F, largest_BF[row, feature]))
    rows, columns, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return Pooled(mean, sparse.csr_matrix((values, (rows, columns)), (len(texts), F * len(backbone.layers))))


def _largest(hidden_BLD: Tensor, keep_BL: Tensor, sae: Sae) -> NDArray[np.float32]:
    acts_TF = (hidden_BLD[keep_BL] @ sae.W_enc_FD.T + sae.b_enc_F).relu()
    values_TK, ids_TK = acts_TF.topk(K, dim=1)
    B, F = len(hidden_BLD), len(sae.b_enc_F)
    at_TK = keep_BL.nonzero()[:, :1] * F + ids_TK
    largest = torch.zeros(B * F).scatter_reduce_(0, at_TK.flatten(), values_TK.flatten(), "amax")
    return largest.view(B, F).numpy()


def random_control(folder: Path, layers: Sequence[int], vocabulary: int) -> tuple[Backbone, dict[int, Sae]]:
    """The same architecture with the weights it would start training from, and random SAEs of the same shape.

    The SAE's rows are random directions; their biases centre each layer's residual, so that no feature fires always.
    """
    config = PretrainConfig(vocab_size=vocabulary)
    build_model(config).save_pretrained(folder)
    backbone = Backbone(folder, layers, dtype=torch.float32, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    sample = torch.randint(0, vocabulary, (8, LENGTH), generator=generator)
    saes = {}
    for layer, hidden_BLD in backbone.residuals(sample).items():
        W_enc_FD = torch.randn(16 * config.d_model, config.d_model, generator=generator)
        W_enc_FD /= W_enc_FD.norm(dim=1, keepdim=True)
        saes[layer] = Sae(W_enc_FD, -(W_enc_FD @ hidden_BLD.flatten(0, 1).mean(0)))
    return backbone, saes

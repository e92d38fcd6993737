"""The SAE encoder, with Qwen-Scope's semantics.

acts = topk(relu(h @ W_enc.T + b_enc), k), where h is the residual after the hooked layer; b_dec is not subtracted
from h; a feature is active where its act is > 0. (arXiv 2605.11887, section 4.1, and the model cards' example.)
"""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from assay.sae_runtime.topk import exact_topk
from assay.schemas.errors import AssayError

_SHAPES = "W_enc (d_sae, d_model), W_dec (d_model, d_sae), b_enc (d_sae,), b_dec (d_model,)"
_BLOCK_BYTES = 64 * 2**20


class TopKEncoder:
    """The encoder half of one layer's SAE, in fp32."""

    def __init__(self, path: Path, k: int, *, d_model: int, device: torch.device) -> None:
        """Maps `path` (a torch-saved dict of four tensors) and reads only W_enc and b_enc.

        Raises AssayError for a file that isn't one, holds code, or belongs to a backbone of another width.
        """
        W_enc, b_enc = _read_encoder(path)
        if not (torch.isfinite(W_enc).all() and torch.isfinite(b_enc).all()):
            raise AssayError("W_enc or b_enc holds NaN or infinity", where=str(path), hint="fetch the file again")
        if W_enc.shape[1] != d_model:
            raise AssayError(
                f"the SAE is for d_model {W_enc.shape[1]}, the backbone has {d_model}",
                where=str(path),
                hint="SAE and backbone must be of one suite; `assay scopes` lists the published pairs",
            )
        if not 0 < k <= W_enc.shape[0]:
            raise AssayError(f"k = {k} with d_sae = {W_enc.shape[0]}", where=str(path))
        self.W_enc_FD = W_enc.to(device, torch.float32)
        self.b_enc_F = b_enc.to(device, torch.float32)
        self.k = k
        self.d_sae: int = W_enc.shape[0]

    @torch.inference_mode()
    def encode(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        """(acts_TK fp32 >= 0, ids_TK int64): each token's k largest activations; entries with act 0 are not active.

        Works through blocks of tokens, so that no more than 64 MB of pre-activations exist at once.
        """
        block = max(64, _BLOCK_BYTES // (4 * self.d_sae))
        parts = [self._encode_block(part) for part in hidden_TD.split(block)]
        if not parts:
            empty = torch.empty(0, self.k, device=hidden_TD.device)
            return empty, empty.long()
        return torch.cat([acts for acts, _ in parts]), torch.cat([ids for _, ids in parts])

    def _encode_block(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        pre_TF = torch.addmm(self.b_enc_F, hidden_TD.float(), self.W_enc_FD.T)
        acts_TK, ids_TK = exact_topk(pre_TF, self.k)
        # relu after top-k selects the same positive activations as relu before it, on k instead of d_sae values.
        return acts_TK.relu_(), ids_TK


def encoder_shape(path: Path) -> tuple[int, int]:
    """(d_sae, d_model) of an SAE file, read without its weights."""
    W_enc, _ = _read_encoder(path)
    return W_enc.shape[0], W_enc.shape[1]


def _read_encoder(path: Path) -> tuple[Tensor, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as e:
        raise AssayError(
            "the file holds more than tensors and was not loaded",
            where=str(path),
            hint=f"expected a torch-saved dict of four tensors: {_SHAPES}",
        ) from e
    except (RuntimeError, OSError, EOFError, ValueError) as e:
        raise AssayError(
            f"not a readable torch file ({str(e).splitlines()[0]})",
            where=str(path),
            hint="truncated or of another format? fetch it again",
        ) from e
    if not isinstance(state, dict) or not {"W_enc", "b_enc"} <= set(state):
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise AssayError(f"not a Qwen-Scope SAE: found {found}", where=str(path), hint=f"expected {_SHAPES}")
    W_enc, b_enc = state["W_enc"], state["b_enc"]
    tensors = isinstance(W_enc, Tensor) and isinstance(b_enc, Tensor)
    if not tensors or W_enc.ndim != 2 or b_enc.shape != W_enc.shape[:1]:
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (W_enc, b_enc)]
        raise AssayError(
            f"wrong shapes: W_enc {shapes[0]}, b_enc {shapes[1]}", where=str(path), hint=f"expected {_SHAPES}"
        )
    return W_enc, b_enc

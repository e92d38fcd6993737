"""SAE weights of three formats, read as one plain encoder: pre = h @ W_enc_FD.T + b_enc_F.

| format | how it encodes the residual h |
|---|---|
| Qwen-Scope | topk(relu(h @ W_enc.T + b_enc), k); b_dec is not subtracted |
| SAELens | topk, jumprelu or relu of (h - b_dec) @ W_enc + b_enc; see cfg.json |
| sparsify | topk(relu((h - b_dec) @ encoder.weight.T + encoder.bias), k) |

What a format does beside that is folded into W_enc and b_enc here, or refused by name; nothing is guessed.
No file is trusted: weights are mapped, never unpickled as objects, and each error names the file and what was expected.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from assay.sae_runtime.sae_config import Activation, Format, Recipe, read_recipe, require_file
from assay.sae_runtime.sae_files import SaeFile
from assay.schemas.errors import AssayError

_TENSORS: dict[Format, dict[str, str]] = {  # name -> its axes: F d_sae, D d_model
    "qwen-scope": {"W_enc": "FD", "b_enc": "F", "W_dec": "DF", "b_dec": "D"},
    "saelens": {
        "W_enc": "DF",
        "b_enc": "F",
        "W_dec": "FD",
        "b_dec": "D",
        "threshold": "F",
        "log_threshold": "F",
        "topk_threshold": "",
    },
    "sparsify": {"encoder.weight": "FD", "encoder.bias": "F", "W_dec": "FD", "b_dec": "D"},
}
_AXES = {"F": "d_sae", "D": "d_model"}
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_BLOCK_ELEMENTS = 2**20


@dataclass(frozen=True)
class EncoderWeights:
    """One layer's encoder with every convention of its format folded in: nothing else is done to h."""

    W_enc_FD: Tensor
    """as stored (fp32, bf16 or fp16) and memory-mapped, perhaps as a transposed view; fp32 where it had to be folded"""
    b_enc_F: Tensor
    """fp32"""
    activation: Activation
    """plain ReLU is jumprelu with threshold 0"""
    k: int | None
    """topk: active features a token; None when no file says it"""
    threshold_F: Tensor | None
    """jumprelu, fp32, >= 0: a feature is active where pre > threshold, and its act is pre"""


class EncoderShape(NamedTuple):
    """What is known of an encoder without reading its weights."""

    d_sae: int
    d_model: int
    k: int | None
    activation: Activation


def read_shape(sae: SaeFile) -> EncoderShape:
    """Sizes, k and activation, from configuration and headers alone; refuses what read_encoder refuses of these."""
    recipe, tensors, weight, _ = _open(sae)
    sizes = dict(zip(_TENSORS[sae.format][weight], tensors[weight].shape, strict=True))
    return EncoderShape(sizes["F"], sizes["D"], recipe.k, recipe.activation)


def read_encoder(sae: SaeFile) -> EncoderWeights:
    """The encoder, exact: W_enc is a view of the file unless its rows must be scaled, and sums are made in fp64.

    Raises AssayError for anything that isn't a whole SAE of the format, holds NaN or infinity, or can't be folded.
    """
    recipe, tensors, weight, bias = _open(sae)
    W_enc = tensors[weight]
    _require_finite(sae, weight, W_enc)
    W_enc_FD = W_enc if _TENSORS[sae.format][weight] == "FD" else W_enc.T
    b_enc_F = _vector(sae, tensors, bias).double()
    if recipe.subtract_b_dec:
        b_dec_D = _vector(sae, tensors, "b_dec").double()
        for rows in row_blocks(W_enc_FD):
            b_enc_F[rows] -= W_enc_FD[rows].double() @ b_dec_D
    if recipe.decoder_norm or W_enc_FD.dtype == torch.float64:
        scale_F = _decoder_norms(tensors["W_dec"], recipe) if recipe.decoder_norm else torch.ones_like(b_enc_F)
        b_enc_F *= scale_F
        folded_FD = torch.empty(W_enc_FD.shape)
        for rows in row_blocks(W_enc_FD):
            folded_FD[rows] = (W_enc_FD[rows].double() * scale_F[rows, None]).float()
        _require_finite(sae, f"{weight} (in fp32, times the norms of W_dec)", folded_FD)
        W_enc_FD = folded_FD
    b_enc_F = b_enc_F.float()
    _require_finite(sae, f"{bias} (in fp32, folded)", b_enc_F[None])
    threshold_F = _threshold(sae, tensors, recipe.threshold, bias) if recipe.activation == "jumprelu" else None
    return EncoderWeights(W_enc_FD, b_enc_F, recipe.activation, recipe.k, threshold_F)


def row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Slices of rows that together cover the matrix, of some million elements each."""
    rows = max(1, _BLOCK_ELEMENTS // max(1, matrix.shape[1]))
    return (slice(start, min(start + rows, len(matrix))) for start in range(0, len(matrix), rows))


def _decoder_norms(W_dec_FD: Tensor, recipe: Recipe) -> Tensor:
    norms_F = torch.empty(len(W_dec_FD), dtype=torch.float64)
    for rows in row_blocks(W_dec_FD):
        norms_F[rows] = torch.linalg.vector_norm(W_dec_FD[rows], dim=1, dtype=torch.float64)
    # Where SAELens turns a batchtopk checkpoint into a jumprelu SAE, it floors the norms; in its topk it doesn't.
    return norms_F.clamp_(min=1e-8 if recipe.activation == "jumprelu" else 0.0)


def _threshold(sae: SaeFile, tensors: dict[str, Tensor], name: str, bias: str) -> Tensor:
    """max(threshold, 0), because SAELens multiplies relu(pre) by (pre > threshold)."""
    if not name:
        return torch.zeros(len(tensors[bias]))
    stored = _vector(sae, tensors, name)
    if name == "log_threshold":
        stored = stored.exp()
    if name == "topk_threshold":
        stored = torch.ones_like(tensors[bias]) * stored.item()
    return stored.float().clamp_(min=0.0)


def _vector(sae: SaeFile, tensors: dict[str, Tensor], name: str) -> Tensor:
    vector = tensors[name].clone()
    _require_finite(sae, name, vector.reshape(1, -1))
    return vector


def _require_finite(sae: SaeFile, what: str, matrix: Tensor) -> None:
    # Minimum and maximum carry NaN and infinity along, and need no second matrix as isfinite does.
    if not all(torch.isfinite(torch.stack(torch.aminmax(matrix[rows]))).all() for rows in row_blocks(matrix)):
        raise AssayError(f"{what} holds NaN or infinity", where=str(sae.weights), hint="fetch the file again")


def _open(sae: SaeFile) -> tuple[Recipe, dict[str, Tensor], str, str]:
    """(recipe, mapped tensors, name of the weight, name of the bias), checked in all but the values."""
    recipe = read_recipe(sae.format, sae.weights, sae.config)
    axes = _TENSORS[sae.format]
    weight, bias = list(axes)[:2]
    tensors = _map_tensors(sae)
    where, hint = str(sae.weights), "expected " + ", ".join(_describe(name, axes[name]) for name in axes)
    if recipe.threshold == "threshold" and "threshold" not in tensors and "log_threshold" in tensors:
        recipe = recipe._replace(threshold="log_threshold")
    needed = [weight, bias, *(["b_dec"] if recipe.subtract_b_dec else []), *(["W_dec"] if recipe.decoder_norm else [])]
    missing = [name for name in [*needed, recipe.threshold] if name and name not in tensors]
    if missing:
        raise AssayError(f"no tensor {missing[0]!r}; found {sorted(tensors) or 'none of them'}", where=where, hint=hint)
    if tensors[weight].ndim != 2 or 0 in tensors[weight].shape:
        raise AssayError(f"{weight} has shape {tuple(tensors[weight].shape)}", where=where, hint=hint)
    sizes = dict(zip(axes[weight], tensors[weight].shape, strict=True))
    for name, tensor in tensors.items():
        expected = tuple(sizes[axis] for axis in axes[name])
        if tensor.shape != expected:
            raise AssayError(
                f"{name} has shape {tuple(tensor.shape)}, which with {weight} {tuple(tensors[weight].shape)} "
                f"should be {expected}",
                where=where,
                hint=hint,
            )
        if tensor.dtype not in _FLOATS:
            raise AssayError(f"{name} is {tensor.dtype}", where=where, hint=f"expected one of {_FLOATS}")
    for axis, field, value in recipe.sizes:
        if value is not None and value != sizes[axis]:
            raise AssayError(
                f"{weight} has {_AXES[axis]} {sizes[axis]}, but cfg.json says {field} = {value!r}", where=where
            )
    if recipe.k is not None and recipe.k > sizes["F"]:
        raise AssayError(f"k = {recipe.k} with d_sae = {sizes['F']}", where=where)
    return recipe, tensors, weight, bias


def _map_tensors(sae: SaeFile) -> dict[str, Tensor]:
    """The format's tensors that are in the file, memory-mapped; no weight is read."""
    path, names = sae.weights, _TENSORS[sae.format]
    require_file(path)
    if path.stat().st_size == 0:
        raise AssayError("the file is empty", where=str(path), hint="fetch it again")
    if sae.format == "qwen-scope":
        return _map_torch_file(path, names)
    try:
        with safe_open(path, "pt") as f:
            found = set(f.keys())
            return {name: f.get_tensor(name) for name in names if name in found}
    except Exception as e:
        raise _unreadable(path, "safetensors", e) from e


def _map_torch_file(path: Path, names: dict[str, str]) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as e:
        raise AssayError(
            "the file holds more than tensors, or is damaged, and was not loaded",
            where=str(path),
            hint="expected a torch-saved dict of tensors",
        ) from e
    except Exception as e:
        raise _unreadable(path, "torch", e) from e
    if not isinstance(state, dict):
        raise AssayError(f"holds {type(state).__name__}, expected a dict of tensors", where=str(path))
    tensors = {}
    for name in (name for name in names if name in state):
        tensor = state[name]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise AssayError(f"{name} is not a plain tensor", where=str(path), hint="expected a dict of tensors")
        # Strides can make a few bytes look like terabytes.
        if tensor.numel() * tensor.element_size() > path.stat().st_size:
            raise AssayError(f"{name} {tuple(tensor.shape)} is larger than the file", where=str(path))
        tensors[name] = tensor.detach()
    return tensors


def _unreadable(path: Path, kind: str, error: Exception) -> AssayError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return AssayError(
        f"not a readable {kind} file ({said})", where=str(path), hint="truncated or of another format? fetch it again"
    )


def _describe(name: str, axes: str) -> str:
    return f"{name} ({', '.join(_AXES[axis] for axis in axes)})"

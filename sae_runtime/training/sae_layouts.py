"""Writes trained SAEs as others read them: Qwen-Scope's `layer{n}.sae.pt`, or a SAELens folder for each layer."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save

from assay.sae_runtime.training.common import write_atomically, write_json
from assay.sae_runtime.training.sae_trainer import SaeWeights

Layout = Literal["qwen-scope", "saelens"]

_SAELENS_VERSION = "6.0.0"
"""the first release that reads this layout; without a version SAELens takes it for an older one and drops the hook"""


def write_saes(saes: Mapping[int, SaeWeights], folder: Path, layout: Layout, *, k: int, backbone: str) -> list[Path]:
    """Writes float32 weights whole or not at all, configuration last, and returns the files written."""
    if layout == "qwen-scope":
        return _write_qwen_scope(saes, folder, k)
    return [path for layer, sae in saes.items() for path in _write_saelens(sae, folder, layer, k, backbone)]


def save_sae(weights: SaeWeights, path: Path, dtype: torch.dtype) -> None:
    """Writes `layer{n}.sae.pt`: a plain dict of W_enc (F, D), W_dec (D, F), b_enc (F,), b_dec (D,)."""
    buffer = io.BytesIO()
    torch.save({name: tensor.to(dtype).contiguous().clone() for name, tensor in weights.items()}, buffer)
    write_atomically(path, buffer.getvalue())


def _write_qwen_scope(saes: Mapping[int, SaeWeights], folder: Path, k: int) -> list[Path]:
    paths = [folder / f"layer{layer}.sae.pt" for layer in saes]
    for path, sae in zip(paths, saes.values(), strict=True):
        save_sae(sae, path, torch.float32)
    d_sae, d_model = next(iter(saes.values()))["W_enc"].shape
    shape = {"k": k, "hook_point": "resid_post", "d_model": d_model, "d_sae": d_sae, "layers": sorted(saes)}
    write_json(folder / "config.json", shape)
    return [*paths, folder / "config.json"]


def _write_saelens(sae: SaeWeights, folder: Path, layer: int, k: int, backbone: str) -> list[Path]:
    """SAELens' matrices act on row vectors: W_enc (D, F), W_dec (F, D)."""
    hook = f"blocks.{layer}.hook_resid_post"
    weights, config = folder / hook / "sae_weights.safetensors", folder / hook / "cfg.json"
    tensors = {name: (t.T if name.startswith("W_") else t).float().contiguous() for name, t in sae.items()}
    write_atomically(weights, save(tensors))
    d_sae, d_model = sae["W_enc"].shape
    fields = {
        "architecture": "topk",
        "k": k,
        "d_in": d_model,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {
            "sae_lens_version": _SAELENS_VERSION,
            "model_name": backbone,
            "hook_name": hook,
            "hook_head_index": None,
            "prepend_bos": False,
        },
    }
    write_json(config, fields)
    return [weights, config]

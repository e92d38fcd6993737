"""How much of a model's next-token loss survives when a layer's output is replaced by its SAE's reconstruction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from assay.sae_runtime.training.evaluate import decoder_layers, loss_recovered, mean_loss
from assay.sae_runtime.training.sae_trainer import SaeWeights
from assay.schemas.errors import printable


def recovered_losses(
    folder: Path, windows: list[torch.Tensor], saes: Mapping[int, SaeWeights], k: int, device: torch.device
) -> tuple[dict[int, dict[str, float]], str]:
    """Layer -> CE clean, with SAE, with zeros, and the share recovered; or nothing and why it wasn't measured.

    The whole checkpoint is loaded, in float32; position 0 keeps its residual. Windows are token ids (t,). Where zeros
    cost nothing (a random model) the share is left out.
    """
    windows = [ids.to(device) for ids in windows if len(ids) > 2]
    if not windows:
        return {}, "CE was not measured: the held-out documents are too short"
    try:
        model: Any = _whole_model(folder).to(device)
        decoder_layers(model)[max(saes)]
        clean = mean_loss(model, windows)
    except Exception as e:  # noqa: BLE001 - whatever transformers lacks or raises, the SAEs are trained
        return {}, f"CE was not measured: the checkpoint doesn't run as a causal model ({printable(e, 120)})"
    found = {}
    for layer, sae in saes.items():
        on_device = {name: tensor.to(device) for name, tensor in sae.items()}
        row = loss_recovered(model, layer, on_device, k, windows, clean)
        if not all(map(math.isfinite, row.values())):
            return {}, "CE was not measured: it isn't finite"
        if row["ce_zero"] <= row["ce_clean"]:
            del row["ce_recovered"]  # nothing was lost that could be recovered
        found[layer] = row
    return found, ""


def _whole_model(folder: Path) -> Any:
    """The checkpoint with its head; ValueError where weights lack, which would be random."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
    model, info = loaded
    if info["missing_keys"]:
        raise ValueError(f"it lacks {len(info['missing_keys'])} tensors")
    return model.eval().requires_grad_(False)

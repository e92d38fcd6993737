"""SAELens: its loader's steps on a local file, and its bridge with attached SAEs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from torch import Tensor

from benchmarks.rivals.base import Task, Weights, load
from benchmarks.rivals.batches_of_16 import BatchesOf16, HuggingFaceHooks


class SaeLens(HuggingFaceHooks):
    """Hooks on AutoModel in batches of 16, with SAELens' own SAE object to encode."""

    def __init__(self, task: Task, weights: Weights) -> None:
        BatchesOf16.__init__(self, task, weights)
        self._model = weights.model.model
        self._saes = sae_objects(task, weights)

    def _encode(self, layer: int, hidden_BTD: Tensor) -> Tensor:
        return self._saes[layer].encode(hidden_BTD)


class SaeLensBridge(BatchesOf16):
    """SAELens' TransformerBridge: `run_with_cache_with_saes` up to the deepest layer, batches of 16.

    With several layers the error term is on: without it each SAE would hand its reconstruction to the layers above,
    and their features would be others.
    """

    def __init__(self, task: Task, weights: Weights) -> None:
        super().__init__(task, weights)
        self._saes = sae_objects(task, weights)
        # A model of its own: the bridge changes its attention and wraps its modules.
        self._bridge = SAETransformerBridge.boot_transformers(
            str(task.backbone),
            hf_model=load(transformers.AutoModelForCausalLM, task, attn_implementation="eager"),
            tokenizer=weights.tokenizer,
            device=task.device,
            dtype=getattr(torch, task.dtype),
        )
        self._names = {layer: self._bridge.get_sae_hook_name(sae) for layer, sae in self._saes.items()}

    def _residuals(self, inputs: Mapping[str, Tensor]) -> Mapping[int, Tensor]:
        """Layer -> dense activations: the bridge has encoded them already."""
        _, cache = self._bridge.run_with_cache_with_saes(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            saes=list(self._saes.values()),
            use_error_term=len(self._saes) > 1,
            names_filter=list(self._names.values()),
            stop_at_layer=max(self._saes) + 1,
        )
        return {layer: cache[name] for layer, name in self._names.items()}

    def _encode(self, layer: int, hidden_BTD: Tensor) -> Tensor:
        return hidden_BTD


def sae_objects(task: Task, weights: Weights) -> dict[int, Any]:
    """layer -> SAELens' object for the task's layers, loaded once for all who share `weights`."""
    for layer in task.layers:
        if layer not in weights.sae_lens:
            path = task.saes / f"layer{layer}.sae.pt"
            weights.sae_lens[layer] = load_sae(path, layer, task.k, task.device, task.dtype)
    return {layer: weights.sae_lens[layer] for layer in task.layers}


def load_sae(path: Path, layer: int, k: int, device: str, dtype: str) -> Any:
    """A TopKSAE made as SAELens' Qwen-Scope loader makes it: torch.load, two transposes, assign.

    Its loader takes a Hub repository only, so its steps are followed here on the file.
    """
    loaded = torch.load(path, map_location=device, weights_only=True)
    state = {
        "W_enc": loaded["W_enc"].T.contiguous(),
        "W_dec": loaded["W_dec"].T.contiguous(),
        "b_enc": loaded["b_enc"],
        "b_dec": loaded["b_dec"],
    }
    d_model, d_sae = state["W_enc"].shape
    config = TopKSAEConfig(
        d_in=d_model,
        d_sae=d_sae,
        k=k,
        dtype="float32",
        device="meta",
        apply_b_dec_to_input=False,
        normalize_activations="none",
        metadata=SAEMetadata(hook_name=f"blocks.{layer}.hook_resid_post"),
    )
    sae = TopKSAE(config)
    sae.cfg.device = device
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state, assign=True)
    return sae.to(dtype=getattr(torch, dtype), device=device).eval().requires_grad_(False)

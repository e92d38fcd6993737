"""Measures a language model on held-out text: its loss, and what of it survives an SAE in a layer's place."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from .baseline import ByteNgram
from .common import Document
from .sae_trainer import SaeWeights, topk_acts

Model = Qwen3ForCausalLM


def decoder_layers(model: torch.nn.Module) -> torch.nn.ModuleList:
    """Finds the decoder layers of a causal model, a wrapper with `language_model`, or a bare backbone."""
    for path in ("model.layers", "model.language_model.layers", "language_model.layers", "layers"):
        node: Any = model
        for name in path.split("."):
            node = getattr(node, name, None)
        if isinstance(node, torch.nn.ModuleList):
            return node
    raise ValueError(f"{type(model).__name__} has no decoder layers at a known place (model.layers, …)")


def windows_of(tokenizer: PreTrainedTokenizerBase, documents: list[Document], limit: int) -> list[torch.Tensor]:
    """Gives the first `limit` ids (t,) of each document, the end-of-text token included where it fits."""
    texts = [document["text"] for document in documents]
    encoded = tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
    eos = tokenizer.eos_token_id
    return [torch.tensor([*ids, eos][:limit]) for ids in encoded]


@torch.inference_mode()
def language_loss(model: Model, tokenizer: PreTrainedTokenizerBase, documents: list[Document], limit: int) -> dict:
    """Gives nats per token and bits per byte over the first `limit` tokens of each document.

    The first token of a document has no context and is not scored; neither are its bytes.
    """
    nats, tokens, byte_count = 0.0, 0, 0
    for ids_T in windows_of(tokenizer, documents, limit):
        if len(ids_T) < 3:
            continue
        logits_TV = model(input_ids=ids_T[None, :-1], use_cache=False).logits[0]
        nats += F.cross_entropy(logits_TV.float(), ids_T[1:], reduction="sum").item()
        tokens += len(ids_T) - 1
        byte_count += len(str(tokenizer.decode(ids_T[1:], skip_special_tokens=True)).encode())
    return {
        "documents": len(documents),
        "tokens": tokens,
        "nats_per_token": round(nats / tokens, 4),
        "bits_per_byte": round(nats / math.log(2) / byte_count, 4),
    }


@torch.inference_mode()
def loss_by_position(model: Model, tokenizer: PreTrainedTokenizerBase, documents: list[Document]) -> dict[str, float]:
    """Gives nats per token in bands of position, over documents that are long enough to fill them all."""
    bands = [(1, 128), (128, 512), (512, 1024), (1024, 2047)]
    sums = [0.0] * len(bands)
    used = 0
    for ids_T in windows_of(tokenizer, documents, 2048):
        if len(ids_T) < 2048 or used == 40:
            continue
        used += 1
        logits_TV = model(input_ids=ids_T[None, :-1], use_cache=False).logits[0]
        nats_T = F.cross_entropy(logits_TV.float(), ids_T[1:], reduction="none")
        for index, (start, end) in enumerate(bands):
            sums[index] += nats_T[start:end].mean().item()
    return {f"{a}-{b}": round(total / max(used, 1), 4) for (a, b), total in zip(bands, sums, strict=True)} | {
        "documents": used
    }


@torch.inference_mode()
def loss_recovered(
    model: Model, layer: int, sae: SaeWeights, k: int, windows: list[torch.Tensor], clean: float
) -> dict[str, float]:
    """Gives CE recovered = (CE_zero - CE_sae) / (CE_zero - CE_clean) and its terms.

    The layer's output is set to zero or to the reconstruction at every position but 0.
    """
    sae = {name: tensor.float() for name, tensor in sae.items()}

    def through_sae(_module: Any, _inputs: Any, output: Any) -> Any:
        acts = topk_acts(output @ sae["W_enc"].T + sae["b_enc"], k)
        return torch.cat([output[:, :1], (acts @ sae["W_dec"].T + sae["b_dec"])[:, 1:]], dim=1)

    def to_zero(_module: Any, _inputs: Any, output: Any) -> Any:
        return torch.cat([output[:, :1], torch.zeros_like(output[:, 1:])], dim=1)

    losses = {"clean": clean}
    for name, hook in (("sae", through_sae), ("zero", to_zero)):
        handle = decoder_layers(model)[layer].register_forward_hook(hook)
        losses[name] = mean_loss(model, windows)
        handle.remove()
    recovered = (losses["zero"] - losses["sae"]) / (losses["zero"] - losses["clean"])
    return {f"ce_{name}": round(value, 4) for name, value in losses.items()} | {"ce_recovered": round(recovered, 4)}


@torch.inference_mode()
def mean_loss(model: Model, windows: list[torch.Tensor]) -> float:
    """Gives nats per token over all windows, the prediction made at position 0 left out."""
    nats, tokens = 0.0, 0
    for ids_T in windows:
        logits_TV = model(input_ids=ids_T[None, :-1], use_cache=False).logits[0, 1:]
        nats += F.cross_entropy(logits_TV.float(), ids_T[2:], reduction="sum").item()
        tokens += len(ids_T) - 2
    return nats / tokens


def byte_baseline(train: list[Document], heldout: dict[str, list[Document]], limit_bytes: int) -> dict[str, float]:
    """Gives the bits per byte of the n-gram baseline on each held-out set, trained on `limit_bytes` bytes."""
    text = b"\n\n".join(document["text"].encode() for document in train)[:limit_bytes]
    model = ByteNgram(text)
    scores = {}
    for name, documents in heldout.items():
        scores[name] = round(model.bits_per_byte(b"\n\n".join(d["text"].encode() for d in documents)), 4)
    return scores | {"training_bytes": len(text), "order": model.order}

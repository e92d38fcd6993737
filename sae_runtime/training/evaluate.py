"""Measures the embedded model on held-out text: language-model loss, SAE fidelity, and a topic probe."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from .baseline import ByteNgram
from .common import Document, log
from .sae import decoder_layers, residuals
from .sae_trainer import SaeWeights, topk_acts

Model = Qwen3ForCausalLM


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
def heldout_residuals(model: Model, layer: int, windows: list[torch.Tensor]) -> torch.Tensor:
    """Gives hidden_TD (T, D) of one layer over all windows, position 0 of each left out."""
    return torch.cat([residuals(model, ids_T[None], [layer])[layer][0, 1:] for ids_T in windows])


@torch.inference_mode()
def reconstruction(hidden_TD: torch.Tensor, sae: SaeWeights, k: int) -> dict[str, float]:
    """Gives FVU = sum |h - h_hat|^2 / sum |h - mean h|^2, mean active features, and the share never active."""
    sae = {name: tensor.float() for name, tensor in sae.items()}
    error, active, fired_F = 0.0, 0, torch.zeros(len(sae["b_enc"]), dtype=torch.bool)
    for chunk_TD in hidden_TD.split(4096):
        acts_TF = topk_acts(chunk_TD @ sae["W_enc"].T + sae["b_enc"], k)
        error += (chunk_TD - acts_TF @ sae["W_dec"].T - sae["b_dec"]).pow(2).sum().item()
        active += int((acts_TF > 0).sum())
        fired_F |= (acts_TF > 0).any(0)
    norm_T = hidden_TD.norm(dim=1)
    return {
        "tokens": len(hidden_TD),
        "fvu": round(error / (hidden_TD - hidden_TD.mean(0)).pow(2).sum().item(), 4),
        "l0": round(active / len(hidden_TD), 2),
        "silent_share": round(1 - fired_F.float().mean().item(), 4),
        "median_norm": round(norm_T.median().item(), 3),
        "share_over_10_median_norms": round((norm_T > 10 * norm_T.median()).float().mean().item(), 5),
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


@torch.inference_mode()
def pooled(
    model: Model, layer: int, windows: list[torch.Tensor], sae: SaeWeights, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gives one row a window: mean residual (N, D) and the max activation of each SAE feature (N, F)."""
    means, maxima = [], []
    W_enc, b_enc = sae["W_enc"].float(), sae["b_enc"].float()
    for ids_T in windows:
        hidden_TD = residuals(model, ids_T[None], [layer])[layer][0, 1:]
        means.append(hidden_TD.mean(0))
        maxima.append(topk_acts(hidden_TD @ W_enc.T + b_enc, k).amax(0))
    return torch.stack(means), torch.stack(maxima)


def probe_accuracy(train_ND: torch.Tensor, train_N: torch.Tensor, test_ND: torch.Tensor, test_N: torch.Tensor) -> float:
    """Gives the test accuracy of a multinomial logistic regression with L2, fitted on standardised columns."""
    mean_D, std_D = train_ND.mean(0), train_ND.std(0).clamp_min(1e-6)
    train_ND, test_ND = (train_ND - mean_D) / std_D, (test_ND - mean_D) / std_D
    classes = int(max(train_N.max(), test_N.max())) + 1
    weight = torch.zeros(train_ND.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(train_ND @ weight + bias, train_N) + 0.02 * weight.pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return round(((test_ND @ weight + bias).argmax(1) == test_N).float().mean().item(), 4)


def topic_probe(
    models: dict[str, Model],
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    sae: SaeWeights,
    k: int,
    train: list[Document],
    test: list[Document],
) -> dict[str, Any]:
    """Compares topic probes on pooled residuals of each model, and on SAE features of the one named trained."""
    topics = sorted({document["topic"] or "" for document in train + test})
    label = {topic: number for number, topic in enumerate(topics)}
    train_N, test_N = (torch.tensor([label[d["topic"] or ""] for d in side]) for side in (train, test))
    rows = [windows_of(tokenizer, side, 256) for side in (train, test)]
    result: dict[str, Any] = {"train_pages": len(train), "test_pages": len(test), "topics": len(topics)}
    result["most_common_topic"] = round((test_N == train_N.mode().values).float().mean().item(), 4)
    for name, model in models.items():
        (mean_train, max_train), (mean_test, max_test) = (pooled(model, layer, side, sae, k) for side in rows)
        result[f"residual_mean_{name}"] = probe_accuracy(mean_train, train_N, mean_test, test_N)
        if name == "trained":
            accuracy = probe_accuracy(max_train.log1p(), train_N, max_test.log1p(), test_N)
            result["sae_feature_max_trained"] = accuracy
    log("evaluate: topic probe %s", result)
    return result


def byte_baseline(train: list[Document], heldout: dict[str, list[Document]], limit_bytes: int) -> dict[str, float]:
    """Gives the bits per byte of the n-gram baseline on each held-out set, trained on `limit_bytes` bytes."""
    text = b"\n\n".join(document["text"].encode() for document in train)[:limit_bytes]
    model = ByteNgram(text)
    scores = {}
    for name, documents in heldout.items():
        scores[name] = round(model.bits_per_byte(b"\n\n".join(d["text"].encode() for d in documents)), 4)
    return scores | {"training_bytes": len(text), "order": model.order}

"""The stages after the text: each leaves its files in the work folder and is skipped when they exist."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from .common import Document, log, read_documents, read_json, write_json
from .evaluate import byte_baseline, language_loss, loss_by_position, loss_recovered, mean_loss, windows_of
from .layers_run import LayersConfig
from .pretrain import PretrainConfig, pretrain
from .sae_stage import measured, train_saes
from .sae_trainer import SaeConfig
from .sources import LABELLED
from .tokenizer import save_tokenizer, tokenize_documents, train_tokenizer


@dataclass(frozen=True)
class BuildConfig:
    """Everything a build depends on besides the text."""

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sae: SaeConfig = field(default_factory=SaeConfig)
    sae_layers: tuple[int, ...] = (1, 3, 4)
    sae_tokens: int = 800_000
    """Residuals that each SAE is trained on."""
    sae_buffer: int = 200_000
    """Residuals that are shuffled together."""
    tokenizer_chars: int = 16_000_000
    evaluation_documents: int = 150
    """Held-out documents per group."""
    curve_documents: int = 30
    """Held-out documents per group whose loss is followed during training."""
    baseline_bytes: int = 20_000_000


def tokenizer_stage(work: Path, weights: dict[str, float], config: BuildConfig) -> None:
    """Leaves the tokenizer in `model/` and the training side's tokens in `tokens/`."""
    folder, shape = work / "model", config.pretrain
    if not (folder / "tokenizer_config.json").exists():
        log("tokenizer: training %d entries", shape.vocab_size)
        documents = list(read_documents(work / "text" / "train.jsonl.gz"))
        tokenizer = train_tokenizer(documents, weights, shape.vocab_size, config.tokenizer_chars, shape.seed)
        save_tokenizer(tokenizer, folder, shape.max_positions)
    tokenize_documents(work, folder)


def pretrain_stage(work: Path, weights: dict[str, float], config: BuildConfig) -> dict[str, Any]:
    """Leaves the language model in `lm/` and returns its training record."""
    by_number = [weights[name] for name in read_json(work / "tokens" / "sources.json")]
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    pages = [page for group in heldout_groups(work, config.curve_documents).values() for page in group]
    heldout = [row for row in windows_of(tokenizer, pages, config.pretrain.context) if len(row) > 2]
    return pretrain(work / "tokens" / "train.npz", by_number, heldout, work / "lm", config.pretrain)


def load_model(work: Path) -> Qwen3ForCausalLM:
    """Loads the saved bfloat16 weights for arithmetic in float32."""
    model = Qwen3ForCausalLM.from_pretrained(work / "lm", dtype=torch.float32)
    return model.eval()


def sae_stage(work: Path, weights: dict[str, float], config: BuildConfig) -> dict[str, Any]:
    """Leaves float32 SAEs in `saes/` and returns their training record."""
    run = LayersConfig(
        sae=config.sae, tokens=config.sae_tokens, buffer=config.sae_buffer, batch_tokens=16 * config.pretrain.context
    )
    return train_saes(work, lambda: _sae_windows(work, weights, config), config.sae_layers, run)


def _sae_windows(work: Path, weights: dict[str, float], config: BuildConfig) -> list[list[int]]:
    """Draws documents in the proportions of pretraining and cuts them into windows of the context length."""
    with np.load(work / "tokens" / "train.npz") as archive:
        ids, offsets, source = archive["ids"], archive["offsets"], archive["source"]
    names = read_json(work / "tokens" / "sources.json")
    rng = np.random.default_rng(config.sae.seed)
    heaviest = max(weights.values())
    chance = np.asarray([weights[names[number]] / heaviest for number in source])
    windows: list[list[int]] = []
    room = config.sae_tokens
    for number in rng.permutation(len(source)):
        if room <= 0:
            break
        if rng.random() >= chance[number]:
            continue
        for start in range(offsets[number], offsets[number + 1], config.pretrain.context):
            row = ids[start : min(start + config.pretrain.context, offsets[number + 1])]
            if len(row) > 1:
                windows.append(row.tolist())
                room -= len(row) - 1
    return windows


def heldout_groups(work: Path, limit: int) -> dict[str, list[Document]]:
    """Gives up to `limit` held-out documents of each group: web pages, packages and code, other labelled sets."""
    labelled = {source.name for source in LABELLED}
    groups: dict[str, list[Document]] = {"web_pages": [], "packages_and_code": [], "other_labelled": []}
    for document in read_documents(work / "text" / "heldout.jsonl.gz"):
        if document["source"] == "weborganizer":
            groups["web_pages"].append(document)
        else:
            name = "other_labelled" if document["source"] in labelled else "packages_and_code"
            groups[name].append(document)
    for documents in groups.values():
        random.Random(3).shuffle(documents)  # noqa: S311 - a fixed sample, no secret
    return {name: documents[:limit] for name, documents in groups.items() if documents}


def evaluate_stage(work: Path, config: BuildConfig) -> dict[str, Any]:
    """Leaves `metrics.json`: every number the model card states, measured on held-out text."""
    path = work / "metrics.json"
    if path.exists():
        return read_json(path)
    model, tokenizer = load_model(work), AutoTokenizer.from_pretrained(work / "model")
    groups = heldout_groups(work, config.evaluation_documents)
    context, k = config.pretrain.context, config.sae.k
    metrics: dict[str, Any] = {"language_model": {}, "saes": {}}
    for name, documents in groups.items():
        metrics["language_model"][name] = language_loss(model, tokenizer, documents, context)
        log("evaluate: %s %s", name, metrics["language_model"][name])
    train = list(read_documents(work / "text" / "train.jsonl.gz"))
    random.Random(4).shuffle(train)  # noqa: S311 - a fixed sample, no secret
    metrics["byte_ngram_bits_per_byte"] = byte_baseline(train, groups, config.baseline_bytes)
    log("evaluate: byte n-gram %s", metrics["byte_ngram_bits_per_byte"])
    everything = [document for documents in groups.values() for document in documents]
    metrics["nats_by_position"] = loss_by_position(model, tokenizer, everything)
    log("evaluate: nats by position %s", metrics["nats_by_position"])
    quarter = max(1, config.evaluation_documents // 4)
    mixed = [document for documents in groups.values() for document in documents[:quarter]]
    windows = [row for row in windows_of(tokenizer, mixed, context) if len(row) > 2]
    clean = mean_loss(model, windows)
    files = {n: work / "saes" / f"layer{n}.sae.pt" for n in config.sae_layers}
    full = {layer: torch.load(file, weights_only=True) for layer, file in files.items()}
    shipped = {layer: {name: t.half().float() for name, t in sae.items()} for layer, sae in full.items()}
    rows = [row.tolist() for row in windows]
    exact, rounded = (measured(work, rows, saes, k) for saes in (full, shipped))
    for layer, sae in shipped.items():
        found = rounded[layer] | {"fvu_float32_weights": exact[layer]["fvu"]}
        metrics["saes"][f"layer{layer}"] = found | loss_recovered(model, layer, sae, k, windows, clean)
        log("evaluate: layer %d %s", layer, metrics["saes"][f"layer{layer}"])
    write_json(path, metrics)
    return metrics

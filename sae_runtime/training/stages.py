"""The stages after the text: each leaves its files in the work folder and is skipped when they exist."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from .common import Document, log, read_documents, read_json, write_json
from .evaluate import (
    byte_baseline,
    heldout_residuals,
    language_loss,
    loss_by_position,
    loss_recovered,
    mean_loss,
    reconstruction,
    topic_probe,
    windows_of,
)
from .pretrain import PretrainConfig, build_model, pretrain
from .sae import collect, save_sae, train_sae
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
    """Residuals collected per layer."""
    tokenizer_chars: int = 16_000_000
    evaluation_documents: int = 150
    """Held-out documents per group."""
    curve_documents: int = 30
    """Held-out documents per group whose loss is followed during training."""
    probe_pages: tuple[int, int] = (800, 400)
    """Pages the topic probe is fitted and tested on."""
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
    """Leaves float32 SAEs in `saes/` and returns their training records; a layer that is done is skipped."""
    records = {layer: work / "saes" / f"layer{layer}.json" for layer in config.sae_layers}
    missing = [layer for layer, path in records.items() if not path.exists()]
    if missing:
        windows = _sae_windows(work, weights, config)
        log("sae: collecting %.2f M residuals", sum(len(row) - 1 for row in windows) / 1e6)
        hidden = collect(load_model(work), windows, missing)
        for layer in missing:
            log("sae: training layer %d", layer)
            residual_count = len(hidden[layer])
            sae, record = train_sae(hidden.pop(layer), config.sae)
            save_sae(sae, work / "saes" / f"layer{layer}.sae.pt", torch.float32)
            write_json(records[layer], record | {"residuals": residual_count})
    by_layer = {f"layer{layer}": read_json(path) for layer, path in records.items()}
    residuals = min(record["residuals"] for record in by_layer.values())
    return {
        "config": asdict(config.sae),
        "layers": list(config.sae_layers),
        "residuals": residuals,
    } | by_layer


def _sae_windows(work: Path, weights: dict[str, float], config: BuildConfig) -> list[torch.Tensor]:
    """Draws documents in the proportions of pretraining and cuts them into windows of the context length."""
    with np.load(work / "tokens" / "train.npz") as archive:
        ids, offsets, source = archive["ids"], archive["offsets"], archive["source"]
    names = read_json(work / "tokens" / "sources.json")
    rng = np.random.default_rng(config.sae.seed)
    heaviest = max(weights.values())
    chance = np.asarray([weights[names[number]] / heaviest for number in source])
    windows: list[torch.Tensor] = []
    room = config.sae_tokens
    for number in rng.permutation(len(source)):
        if room <= 0:
            break
        if rng.random() >= chance[number]:
            continue
        for start in range(offsets[number], offsets[number + 1], config.pretrain.context):
            row = ids[start : min(start + config.pretrain.context, offsets[number + 1])]
            if len(row) > 1:
                windows.append(torch.from_numpy(row.astype(np.int64)))
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
    saes = {}
    clean = mean_loss(model, windows)
    for layer in config.sae_layers:
        full = torch.load(work / "saes" / f"layer{layer}.sae.pt", weights_only=True)
        saes[layer] = {name: tensor.half() for name, tensor in full.items()}
        hidden_TD = heldout_residuals(model, layer, windows)
        row = reconstruction(hidden_TD, saes[layer], k)
        row["fvu_float32_weights"] = reconstruction(hidden_TD, full, k)["fvu"]
        metrics["saes"][f"layer{layer}"] = row | loss_recovered(model, layer, saes[layer], k, windows, clean)
        log("evaluate: layer %d %s", layer, metrics["saes"][f"layer{layer}"])
    topics = [document for document in train if document["topic"]][: config.probe_pages[0]]
    test_pages = [d for d in heldout_groups(work, 10**6).get("web_pages", []) if d["topic"]]
    if topics and test_pages:
        models = {"trained": model, "random_weights": build_model(config.pretrain).eval()}
        last = config.sae_layers[-1]
        metrics["topic_probe"] = topic_probe(
            models, tokenizer, last, saes[last], k, topics, test_pages[: config.probe_pages[1]]
        )
    write_json(path, metrics)
    return metrics

"""Trains a small Qwen3 language model from random weights; stopping and starting again loses minutes at most.

The learning rate follows progress p in [0, 1]: linear warm-up, constant, then linear decay to near zero.
With `steps` set, p = step / steps and a run is repeatable; with `minutes` set, p = elapsed / minutes.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from .common import log, read_json, save_state, write_json
from .evaluate import mean_loss

CHECKPOINT_SECONDS = 120


@dataclass(frozen=True)
class PretrainConfig:
    """Shape of the model and how it is trained."""

    vocab_size: int = 8192
    d_model: int = 256
    layers: int = 6
    query_heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    d_mlp: int = 704
    max_positions: int = 2048
    rope_theta: float = 10_000.0
    context: int = 512
    batch_rows: int = 8
    matrix_learning_rate: float = 5e-3
    """Peak rate of Muon, which trains the layers' matrices; its updates have AdamW's usual size."""
    learning_rate: float = 3e-3
    """Peak rate of AdamW, which trains the tied embedding and the norms."""
    warmup: float = 0.02
    """Share of the run with rising learning rate."""
    decay: float = 0.5
    """Share of the run, at its end, with falling learning rate."""
    weight_decay: float = 0.1
    """Of the matrices; embedding and norms have none."""
    momentum: float = 0.95
    """Of Muon."""
    beta2: float = 0.99
    clip_norm: float = 1.0
    minutes: float = 80.0
    """Wall-clock budget; ignored when `steps` is set."""
    steps: int = 0
    """Exact number of optimiser steps, or 0 to train by `minutes`."""
    bfloat16: bool = True
    """Multiply in bfloat16 (autocast); weights, sums and optimiser stay in float32."""
    compile: bool = False
    """Use torch.compile (needs a C++ compiler; more than twice as fast on two cores)."""
    seed: int = 7


def build_model(config: PretrainConfig) -> Qwen3ForCausalLM:
    """Makes the model with weights drawn from the seed."""
    torch.manual_seed(config.seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_mlp,
            num_hidden_layers=config.layers,
            num_attention_heads=config.query_heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            tie_word_embeddings=True,
            max_position_embeddings=config.max_positions,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attention_bias=False,
            attention_dropout=0.0,
            initializer_range=0.03,
        )
    )


def pack_rows(tokens: dict[str, np.ndarray], weights: list[float], context: int, seed: int) -> np.ndarray:
    """Packs one epoch of documents into rows (R, context) of token ids, each row starting at a piece's start.

    A piece is a document, or the rest of one that the row before had no room for; so most rows start where
    a document starts, as at inference. `weights[s]` is how many times source s is passed through.
    """
    rng = np.random.default_rng(seed)
    ids, offsets = tokens["ids"], tokens["offsets"]
    wanted = np.asarray(weights)[tokens["source"]]
    copies = np.floor(wanted + rng.random(len(wanted))).astype(int)
    order = rng.permutation(np.repeat(np.arange(len(wanted)), copies))
    spans = [(int(offsets[n]), int(offsets[n + 1])) for n in order]
    rows: list[np.ndarray] = []
    leftovers: list[tuple[int, int]] = []
    row, room = [], context
    while spans or leftovers:
        if not spans:
            spans, leftovers = leftovers, []
            rng.shuffle(spans)
        start, end = spans.pop()
        taken = min(end - start, room)
        row.append(ids[start : start + taken])
        room -= taken
        if end - start - taken >= 16:
            leftovers.append((start + taken, end))
        if room == 0:
            rows.append(np.concatenate(row))
            row, room = [], context
    packed = np.stack(rows)
    return packed[rng.permutation(len(packed))]


def pretrain(
    tokens_path: Path, weights: list[float], heldout: list[torch.Tensor], out: Path, config: PretrainConfig
) -> dict[str, Any]:
    """Leaves the trained model in `out` and returns its training record.

    The loss on the held-out windows (t,) is noted with every checkpoint, and decides nothing. Skips when
    `out/pretrain.json` exists; resumes from `out/checkpoint.pt` when that does.
    """
    record_path, checkpoint_path = out / "pretrain.json", out / "checkpoint.pt"
    if record_path.exists():
        return read_json(record_path)
    out.mkdir(parents=True, exist_ok=True)
    with np.load(tokens_path) as archive:
        tokens = dict(archive)
    model = build_model(config)
    optimizers = _optimizers(model, config)
    step, elapsed, epoch = 0, 0.0, 0
    curve: list[list[Any]] = []
    heldout_curve: list[list[Any]] = []
    if checkpoint_path.exists():
        saved = torch.load(checkpoint_path, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, elapsed, curve, heldout_curve = (saved[name] for name in ("step", "elapsed", "curve", "heldout_curve"))
        log("pretrain: resuming at step %d after %.1f minutes", step, elapsed / 60)
    rows_RT = pack_rows(tokens, weights, config.context, config.seed)
    steps_per_epoch = len(rows_RT) // config.batch_rows
    log(
        "pretrain: %.2f M parameters, %.2f M tokens an epoch, %d steps an epoch",
        model.num_parameters() / 1e6,
        rows_RT.size / 1e6,
        steps_per_epoch,
    )
    model.train()
    loss_of = torch.compile(next_token_loss) if config.compile else next_token_loss
    clock, last_saved = time.monotonic(), elapsed
    running: float | None = curve[-1][2] if curve else None
    while (progress := _progress(step, elapsed, config)) < 1.0:
        if step // steps_per_epoch != epoch:
            epoch = step // steps_per_epoch
            rows_RT = pack_rows(tokens, weights, config.context, config.seed + epoch)
        at = step % steps_per_epoch * config.batch_rows
        batch_BT = torch.from_numpy(rows_RT[at : at + config.batch_rows].astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            loss = loss_of(model, batch_BT)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for optimizer, peak in zip(optimizers, (config.matrix_learning_rate, config.learning_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(progress, config)
            optimizer.step()
        step += 1
        now = time.monotonic()
        elapsed, clock = elapsed + now - clock, now
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            seen = step * config.batch_rows * config.context
            curve.append([step, seen, round(running, 4)])
            log(
                "pretrain: step %d  %.2f M tokens  loss %.3f  progress %.1f %%  %.0f tokens/s",
                step,
                seen / 1e6,
                running,
                100 * progress,
                seen / elapsed,
            )
        if elapsed - last_saved > CHECKPOINT_SECONDS:
            last_saved = elapsed
            heldout_curve.append([step, step * config.batch_rows * config.context, mean_loss(model, heldout)])
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step,
                "elapsed": elapsed,
                "curve": curve,
                "heldout_curve": heldout_curve,
            }
            save_state(checkpoint_path, state)
            clock = time.monotonic()
    heldout_curve.append([step, step * config.batch_rows * config.context, mean_loss(model, heldout)])
    model.to(torch.bfloat16).save_pretrained(out)  # type: ignore[arg-type]
    record = {
        "config": asdict(config),
        "parameters": model.num_parameters(),
        "steps": step,
        "tokens": step * config.batch_rows * config.context,
        "tokens_per_epoch": int(rows_RT.size),
        "minutes": round(elapsed / 60, 1),
        "threads": torch.get_num_threads(),
        "loss_curve_step_tokens_nats": curve,
        "heldout_curve_step_tokens_nats": heldout_curve,
    }
    write_json(record_path, record)
    return record


def next_token_loss(model: Qwen3ForCausalLM, ids_BT: torch.Tensor) -> torch.Tensor:
    """Gives the mean next-token cross-entropy in nats over the rows ids_BT (B, T)."""
    logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), ids_BT[:, 1:].flatten())


def schedule(progress: float, config: PretrainConfig) -> float:
    """Gives the share of the peak learning rate at progress p in [0, 1]."""
    rising = min(1.0, (progress + 1e-3) / config.warmup)
    falling = min(1.0, max(0.01, (1.0 - progress) / config.decay))
    return min(rising, falling)


def _progress(step: int, elapsed: float, config: PretrainConfig) -> float:
    return step / config.steps if config.steps else elapsed / (60 * config.minutes)


def _optimizers(model: Qwen3ForCausalLM, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Gives Muon (orthogonalised momentum) for the layers' matrices, AdamW for the tied embedding and the norms."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in named if p.dim() != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            matrices,
            lr=config.matrix_learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, config.beta2), weight_decay=0.0, fused=True),
    ]

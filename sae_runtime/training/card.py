"""Writes the finished folder: weights, tokenizer, SAEs, `training.json` and the model card."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .common import log, read_json, write_atomically, write_json
from .sae_layouts import save_sae
from .stages import BuildConfig

Record = dict[str, Any]


def export(
    work: Path,
    out: Path,
    config: BuildConfig,
    table: Record,
    pretraining: Record,
    saes: Record,
    metrics: Record,
) -> None:
    """Leaves a complete model folder in `out`; every number in its card comes from the records given."""
    (out / "saes").mkdir(parents=True, exist_ok=True)
    for folder, name in (
        ("lm", "config.json"),
        ("lm", "generation_config.json"),
        ("lm", "model.safetensors"),
        ("model", "tokenizer.json"),
        ("model", "tokenizer_config.json"),
    ):
        temporary = out / (name + ".part")
        shutil.copyfile(work / folder / name, temporary)
        temporary.replace(out / name)
    for stale in (out / "saes").glob("layer*.sae.pt"):
        stale.unlink()
    for layer in config.sae_layers:
        weights = torch.load(work / "saes" / f"layer{layer}.sae.pt", weights_only=True)
        save_sae(weights, out / "saes" / f"layer{layer}.sae.pt", torch.float16)
    write_json(
        out / "saes" / "config.json",
        {
            "k": config.sae.k,
            "hook_point": "resid_post",
            "d_model": config.pretrain.d_model,
            "d_sae": config.sae.d_sae,
            "layers": list(config.sae_layers),
        },
    )
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors", "numpy")}
    record = {
        "sources": table,
        "build": asdict(config),
        "pretraining": pretraining,
        "saes": saes,
        "metrics": metrics,
        "versions": versions | {"python": platform.python_version()},
    }
    write_json(out / "training.json", record)
    write_atomically(out / "README.md", card(record, read_json(out / "config.json")))
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    log("export: %s holds %.2f MB", out.name, total / 1e6)


def card(record: Record, model_config: Record) -> str:
    """Gives the model card as Markdown."""
    metrics, training = record["metrics"], record["pretraining"]
    sections = [
        _introduction(record, model_config),
        _model(record),
        _measurements(metrics),
        _limits(metrics, training["config"]),
        _sources(record["sources"], training),
        _rebuild(record),
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(record: Record, model_config: Record) -> str:
    layers = ", ".join(str(layer) for layer in record["build"]["sae_layers"])
    files = [
        "`config.json`, `model.safetensors` (bfloat16), `tokenizer.json`, `tokenizer_config.json`: a "
        f"`{model_config['architectures'][0]}` folder for `AutoModelForCausalLM` and `AutoTokenizer`.",
        f"`saes/layer{{n}}.sae.pt`, n in {layers} (counted from 0): a dict of `W_enc` (d_sae, d_model), "
        "`W_dec` (d_model, d_sae), `b_enc` (d_sae,), `b_dec` (d_model,), float16, loadable with "
        "`weights_only=True`.",
        "`saes/config.json`: k, hook point, widths, layers. `training.json`: this page as data.",
    ]
    return (
        "# Assay's embedded model\n\n"
        "A tiny Qwen3 language model with TopK sparse autoencoders (SAEs) in Qwen-Scope's file layout, "
        "trained on real text, so that Assay runs on a laptop without a download. It exists to run, test and "
        "demonstrate the pipeline; it is no substitute for a Qwen model with Qwen-Scope's own SAEs.\n\n"
        + _block("Files", files)
        + "\n\n`acts = topk(relu(h @ W_enc.T + b_enc), k)`, `h_hat = acts @ W_dec.T + b_dec`; h is the raw "
        "output of decoder layer n (resid_post); b_dec is not subtracted before encoding. "
        "Position 0 was left out of SAE training."
    )


def _model(record: Record) -> str:
    training, build = record["pretraining"], record["build"]
    shape, sae = training["config"], build["sae"]
    points = [
        f"{training['parameters'] / 1e6:.2f} M parameters: d_model {shape['d_model']}, {shape['layers']} "
        f"layers, {shape['query_heads']} query and {shape['kv_heads']} key/value heads of "
        f"{shape['head_dim']}, MLP {shape['d_mlp']}, tied embeddings; byte-level BPE of "
        f"{shape['vocab_size']} entries, no BOS, `<|endoftext|>` ends and pads.",
        f"{training['tokens'] / 1e6:.2f} M tokens in {training['steps']} steps of {shape['batch_rows']} rows "
        f"of {shape['context']}; {training['minutes']} minutes on {training['threads']} CPU threads of a busy "
        f"machine; Muon at {shape['matrix_learning_rate']} on the layers' matrices, AdamW at "
        f"{shape['learning_rate']} on embedding and norms, products in "
        f"{'bfloat16' if shape['bfloat16'] else 'float32'}; linear decay over the last "
        f"{shape['decay']:.0%} of the {'steps' if shape['steps'] else 'wall-clock time'}, "
        f"weight decay {shape['weight_decay']}, seed {shape['seed']}.",
        f"SAEs: d_sae {sae['d_sae']}, k {sae['k']}, after Gao et al. 2024 (arXiv 2406.04093): unit decoder "
        f"columns, AuxK {sae['aux_k']} at {sae['aux_coefficient']}, Adam at {sae['learning_rate']}, "
        f"{record['saes']['residuals'] / 1e6:.2f} M residuals a layer, seed {sae['seed']}.",
    ]
    return _block("Model", points)


def _rebuild(record: Record) -> str:
    training = record["pretraining"]
    flags = f"--steps {training['steps']}" + (" --compile" if training["config"]["compile"] else "")
    built = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return (
        "## Rebuild\n\n```\npython -m assay.sae_runtime.training --work WORK --labelled LABELLED "
        f"--out OUT {flags}\n```\n\n"
        "LABELLED is a folder of labelled sets (`weborganizer.jsonl.gz` and others, see "
        "`training/sources.py`); a missing set is left out. Packages come from `apt-get download`. Seeds are "
        "fixed; another processor, version or package release gives other digits. The texts are not part of "
        f"this folder.\n\nBuilt with {built}."
    )


def _block(title: str, points: list[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {point}" for point in points)


def _measurements(metrics: Record) -> str:
    ngram = metrics["byte_ngram_bits_per_byte"]
    lines = [
        "## Measured on held-out text",
        "",
        f"Each document's first tokens up to the context length; the {ngram['order']}-gram baseline counts bytes "
        f"(Witten-Bell) in {ngram['training_bytes'] / 1e6:.0f} MB of the same training text.",
        "",
        "| text | documents | tokens | nats/token | bits/byte | byte n-gram bits/byte |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in metrics["language_model"].items():
        lines.append(
            f"| {name.replace('_', ' ')} | {row['documents']} | {row['tokens']} | "
            f"{row['nats_per_token']:.3f} | {row['bits_per_byte']:.3f} | {ngram[name]:.3f} |"
        )
    lines += [
        "",
        "| SAE | FVU | FVU with float32 weights | L0 | silent features | CE recovered | CE clean / SAE / zero |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in metrics["saes"].items():
        lines.append(
            f"| {name} | {row['fvu']:.3f} | {row['fvu_float32_weights']:.3f} | {row['l0']:.1f} | "
            f"{row['silent_share']:.1%} | {row['ce_recovered']:.3f} | {row['ce_clean']:.3f} / "
            f"{row['ce_sae']:.3f} / {row['ce_zero']:.3f} |"
        )
    tokens = next(iter(metrics["saes"].values()))["tokens"]
    lines += [
        "",
        f"SAE rows: {tokens} held-out tokens of all groups, position 0 excluded; silent features fired on "
        "none of them; CE recovered = (zero - SAE) / (zero - clean) with the layer's output replaced.",
    ]
    return "\n".join(lines)


def _limits(metrics: Record, shape: Record) -> str:
    bands = metrics["nats_by_position"]
    shown = ", ".join(f"{band}: {value:.2f}" for band, value in bands.items() if band != "documents")
    points = [
        "Trained for minutes on few tokens: it knows common words, spelling, layout, language and a little "
        "of the topic; it "
        "knows no facts and its text is not sensible.",
        "Languages beside English come from manuals, fortunes and one declaration, so their features lean to those.",
        "Some training text is offensive by nature (tweets, web pages, fortunes).",
        "Held-out package text resembles its training side (chapters of the same books, translations, common "
        "manual phrases), so its loss flatters the model; web pages are the harder and more honest test.",
    ]
    if bands["documents"]:
        points.insert(
            1,
            f"It saw windows of {shape['context']} tokens only. Nats per token by position over "
            f"{bands['documents']} long documents: {shown}. Cut documents into windows of "
            f"{shape['context']} tokens.",
        )
    return _block("Limits", points)


def _sources(table: Record, training: Record) -> str:
    epoch = sum(row["train_chars"] * row["weight"] for row in table.values())
    share = training["tokens"] / training["tokens_per_epoch"]
    lines = [
        "## Text",
        "",
        f"{sum(row['train_chars'] for row in table.values()) / 1e6:.1f} M characters on the training side. A key's "
        "bucket (first 8 hex digits of its SHA-256, modulo 10) decides: 0-6 train, 7 validation, 8-9 test; the rest "
        f"never touched training. An epoch passes each source `weight` times ({epoch / 1e6:.0f} M characters); "
        f"the run drew {share:.2f} of an epoch, in random order. Python's library and common licences come from the "
        "building machine, labelled sets from their folder, all else from Debian packages.",
        "",
        "| source | kind | licence | train chars | held-out chars | weight |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        lines.append(
            f"| {name} | {row['kind']} | {row['licence'].replace('|', '/')} | {row['train_chars']:,} | "
            f"{row['heldout_chars']:,} | {row['weight']:g} |"
        )
    return "\n".join(lines)

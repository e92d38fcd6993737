"""Builds the embedded model in one command and resumes wherever it was stopped.

`python -m assay.sae_runtime.training --work DIR --labelled DIR --out DIR [--minutes N] [--quick]`
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from .card import export
from .common import log, read_json, write_json
from .gather import gather
from .pretrain import PretrainConfig
from .sae_trainer import SaeConfig
from .stages import BuildConfig, evaluate_stage, pretrain_stage, sae_stage, tokenizer_stage


def quick_config() -> BuildConfig:
    """Gives a build that ends within a couple of minutes on two cores and proves only that the code works."""
    return BuildConfig(
        pretrain=PretrainConfig(
            minutes=0.6, vocab_size=2048, context=256, batch_rows=4, d_model=128, query_heads=4, d_mlp=352
        ),
        sae=SaeConfig(d_sae=768, aux_k=64, dead_after_tokens=30_000),
        sae_tokens=80_000,
        sae_buffer=20_000,
        tokenizer_chars=1_000_000,
        evaluation_documents=40,
        baseline_bytes=1_000_000,
    )


def main(arguments: list[str] | None = None) -> None:
    """Runs every stage whose output is not there yet and writes the finished folder to `--out`."""
    parser = argparse.ArgumentParser(prog="python -m assay.sae_runtime.training", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads, text and checkpoints")
    parser.add_argument("--labelled", type=Path, help="folder of labelled sets, {name}.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the finished model")
    parser.add_argument("--minutes", type=float, help="wall-clock minutes of language-model training")
    parser.add_argument("--steps", type=int, help="exact training steps instead of --minutes, to repeat a run")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    parser.add_argument("--quick", action="store_true", help="small data, small budget, no downloads")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)

    config = quick_config() if options.quick else BuildConfig()
    changes = {"minutes": options.minutes, "steps": options.steps, "compile": options.compile or None}
    given = {name: value for name, value in changes.items() if value is not None}
    config = replace(config, pretrain=replace(config.pretrain, **given))
    _refuse_mixed_builds(options.work, options.quick)

    table = gather(options.work, options.labelled, options.quick)
    weights = {name: float(str(row["weight"])) for name, row in table.items()}
    tokenizer_stage(options.work, weights, config)
    pretrain_record = pretrain_stage(options.work, weights, config)
    sae_record = sae_stage(options.work, weights, config)
    metrics = evaluate_stage(options.work, config)
    export(options.work, options.out, config, table, pretrain_record, sae_record, metrics)
    log("done: %s", options.out)


def _refuse_mixed_builds(work: Path, quick: bool) -> None:
    """Stops a quick build from reusing a full build's files, and the other way round."""
    path = work / "build.json"
    if path.exists() and read_json(path)["quick"] != quick:
        raise SystemExit(f"{work} holds a {'full' if quick else 'quick'} build; give another --work")
    write_json(path, {"quick": quick})


if __name__ == "__main__":
    main()

"""train_sae: trains a TopK SAE for each chosen layer of any backbone, and leaves a scope that tags with them.

OUT/
  parameters.json      what the SAEs follow from; the same command continues, another is refused
  checkpoint.pt        where an unfinished training stands
  layer{n}.sae.pt, config.json                           --format qwen-scope
  blocks.{n}.hook_resid_post/{cfg.json, sae_weights.safetensors}   --format saelens
  scope.yaml           for assay tag --scope
  training.json        parameters and held-out quality; written last
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from ruamel.yaml import YAML

from assay.flows.engine import assay_version, in_flow_run, markdown_list, step
from assay.flows.progress import duration, stderr
from assay.flows.scopes import require_device
from assay.flows.tag import refuse_output_in_corpus
from assay.sae_runtime.backbone import Backbone, read_config
from assay.sae_runtime.file_hash import file_sha256
from assay.sae_runtime.training.common import read_json, save_state, write_json
from assay.sae_runtime.training.held_out import fidelity
from assay.sae_runtime.training.layers_run import LayersConfig, LayersRun, StepResult
from assay.sae_runtime.training.loss_recovered import recovered_losses
from assay.sae_runtime.training.residual_stream import ResidualStream
from assay.sae_runtime.training.sae_layouts import write_saes
from assay.sae_runtime.training.sae_trainer import SaeConfig, SaeWeights
from assay.sae_runtime.weights import backbone_files, backbone_folder
from assay.sae_runtime.windows import Tokenizer
from assay.schemas.base import fingerprint
from assay.schemas.corpus import CorpusPlan, ReadOptions
from assay.schemas.errors import AssayError
from assay.schemas.parameters import TrainSaeParameters
from assay.schemas.scope import Scope
from assay.workers.corpora.planning import plan_corpus
from assay.workers.training_windows import TrainingWindows

_EXPANSION = 16
_SHARD_BYTES = 16 * 2**20
_LINE_EVERY_S = 20.0
_HELD_OUT_TOKENS = 65_536
_CE_TOKENS = 8_192
_NOT_IDENTITY = {"out", "device", "threads", "checkpoint_minutes", "expansion", "d_sae", "learning_rate"}


class TrainingPlan(NamedTuple):
    """Everything that is decided before the first step."""

    parameters: TrainSaeParameters
    folder: Path
    """of the backbone"""
    corpus: CorpusPlan
    config: LayersConfig
    scope: Scope
    device: torch.device
    dtype: str
    identity: dict[str, Any]
    """what the SAEs follow from, as JSON"""

    @property
    def out(self) -> Path:
        """The folder that is written."""
        return Path(self.parameters.out)

    @property
    def checkpoint(self) -> Path:
        """Where an unfinished training stands."""
        return self.out / "checkpoint.pt"


class TrainingReport(NamedTuple):
    """What a training gave."""

    out: str
    scope: str
    """the scope file"""
    tokens: int
    layers: dict[str, dict[str, float]]
    """layer -> held-out figures; empty where no document is held out"""
    notes: tuple[str, ...]
    files: tuple[str, ...]
    done_before: bool


def plan_training(parameters: TrainSaeParameters) -> TrainingPlan:
    """Finds backbone and corpus and checks that they and the parameters fit; AssayError says what doesn't."""
    p = parameters
    if list(p.layers) != sorted(set(p.layers)) or p.layers[0] < 0:
        raise AssayError(
            f"layers {list(p.layers)}", where="--layers", hint="give distinct, ascending numbers, counted from 0"
        )
    if p.expansion and p.d_sae:
        raise AssayError("both --expansion and --d-sae", hint="d_sae is expansion times the width; give one of them")
    if p.buffer < 2 * p.batch or p.tokens < p.batch:
        raise AssayError(
            f"tokens {p.tokens}, buffer {p.buffer}, batch {p.batch}",
            where="--tokens, --buffer, --batch",
            hint="tokens must be at least one batch, and the buffer two",
        )
    if "://" in p.out:
        raise AssayError("the output must be a local folder", where=p.out, hint="copy it to the store afterwards")
    refuse_output_in_corpus(p.corpus, p.out, "output")
    device = torch.device(require_device(p.device))
    folder = backbone_folder(p.backbone, p.backbone_revision, max(p.layers))
    text = read_config(folder).get_text_config()
    if max(p.layers) >= text.num_hidden_layers:
        raise AssayError(
            f"layer {max(p.layers)} asked for, but the backbone has {text.num_hidden_layers}",
            where=f"--layers, {folder}",
            hint=f"layers are counted from 0: the last is {text.num_hidden_layers - 1}",
        )
    d_sae = p.d_sae or (p.expansion or _EXPANSION) * text.hidden_size
    if p.k > d_sae:
        raise AssayError(
            f"k is {p.k}, but an SAE has only {d_sae} features", where="--k", hint="lower --k or raise --d-sae"
        )
    options = ReadOptions(
        text_column=p.text_column, id_column=p.id_column, max_document_bytes=int(p.max_document_mb * 2**20)
    )
    corpus = plan_corpus(p.corpus, options, _SHARD_BYTES, progress=lambda line: stderr().print(line))
    config = _config(p, d_sae, text.hidden_size, device)
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    files = {path.name: file_sha256(path) for path in backbone_files(folder, max(p.layers))}
    identity = p.model_dump(mode="json", exclude=_NOT_IDENTITY) | {
        "d_sae": d_sae,
        "learning_rate": config.sae.learning_rate,
        "dtype": dtype,
        "documents": corpus.id,
        "backbone_files": fingerprint(files),
    }
    return TrainingPlan(p, folder, corpus, config, _scope(p), device, dtype, identity)


def _config(p: TrainSaeParameters, d_sae: int, d_model: int, device: torch.device) -> LayersConfig:
    sae = SaeConfig(
        d_sae=d_sae,
        k=p.k,
        aux_k=max(1, min(d_model // 2, d_sae)),
        dead_after_tokens=min(10_000_000, max(4 * p.batch, p.tokens // 15)),
        batch_tokens=p.batch,
        learning_rate=p.learning_rate or 2e-3 * math.sqrt(3072 / max(d_sae, 3072)),
        seed=p.seed,
    )
    forward_tokens = _scope(p).on(str(device)).batch_tokens or p.window
    return LayersConfig(sae=sae, tokens=p.tokens, buffer=p.buffer, batch_tokens=max(forward_tokens, p.window))


def _scope(p: TrainSaeParameters) -> Scope:
    """The scope that reads windows as the training did."""
    backbone = str(Path(p.backbone).resolve()) if Path(p.backbone).is_dir() and p.backbone != "embedded" else p.backbone
    return Scope(
        name=Path(p.out).resolve().name or "own",
        backbone=backbone,
        backbone_revision=p.backbone_revision,
        sae=str(Path(p.out).resolve()),
        layers=p.layers,
        k=p.k,
        window=p.window,
        overlap=max(1, p.window // 8),
    )


def _windows(plan: TrainingPlan) -> TrainingWindows:
    scope = plan.scope
    return TrainingWindows(
        plan.corpus, Tokenizer(plan.folder), window=scope.window, overlap=scope.overlap, seed=plan.parameters.seed
    )


def _backbone(plan: TrainingPlan) -> Backbone:
    return Backbone(plan.folder, plan.parameters.layers, dtype=getattr(torch, plan.dtype), device=plan.device)


@task(name="plan training", persist_result=False)
def claim_output(parameters: TrainSaeParameters) -> TrainingPlan:
    """Plans, and makes the output folder this training's own; AssayError if it is another's, saying what differs."""
    plan = plan_training(parameters)
    claim = plan.out / "parameters.json"
    if not plan.checkpoint.exists() and not (plan.out / "training.json").exists():
        # Nothing is trained yet: a claim that a mistake has left may be replaced.
        ours = {claim.name, f"{claim.name}.part", f"{plan.checkpoint.name}.part"}
        if plan.out.exists() and (not plan.out.is_dir() or {path.name for path in plan.out.iterdir()} - ours):
            raise AssayError(
                "the output is not empty and no SAE training's", where=parameters.out, hint="give another --out"
            )
        write_json(claim, plan.identity)
        return plan
    if not claim.is_file():
        raise AssayError("no parameters.json beside the training", where=parameters.out, hint="give another --out")
    before = read_json(claim)
    differs = [
        f"{name} was {before.get(name)!r} and is {plan.identity.get(name)!r}"
        for name in sorted({*before, *plan.identity})
        if before.get(name) != plan.identity.get(name)
    ]
    if differs:
        raise AssayError(
            f"the output holds a training with other parameters: {'; '.join(differs)}",
            where=parameters.out,
            hint="repeat the earlier parameters to continue it, or give another --out",
        )
    return plan


@task(name="train SAEs", persist_result=False)
def train_layers(plan: TrainingPlan) -> dict[int, SaeWeights]:
    """Trains to the end from the last checkpoint, if there is one, and leaves checkpoints on the way."""
    if plan.parameters.threads:
        torch.set_num_threads(plan.parameters.threads)
    state = _load_checkpoint(plan)
    run = LayersRun(_backbone(plan), _windows(plan).training, plan.config, state)
    say, saved = _Progress(run, lambda line: stderr().print(line)), time.monotonic()
    if state:
        stderr().print(f"continuing at {run.step_number * plan.config.sae.batch_tokens:,} tokens")
    while not run.finished:
        say.after(run.step())
        if time.monotonic() - saved >= 60 * plan.parameters.checkpoint_minutes and not run.finished:
            _save_checkpoint(plan, run)
            saved = time.monotonic()
    _save_checkpoint(plan, run)
    return run.weights()


class _Progress:
    """A line every 20 s, and after the first and the last step: tokens, FVU, dead share, tokens/s."""

    def __init__(self, run: LayersRun, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._started, self._last = time.monotonic(), -math.inf
        self._before = run.step_number * run.config.sae.batch_tokens

    def after(self, result: StepResult) -> None:
        now = time.monotonic()
        if now - self._last < _LINE_EVERY_S and not self._run.finished:
            return
        self._last = now
        rate = (result.tokens - self._before) / max(now - self._started, 1e-9)
        total = self._run.steps * self._run.config.sae.batch_tokens
        layers = " · ".join(
            f"layer {layer} FVU {fvu.item():.3f} dead {self._run.trainers[layer].dead_share():.1%}"
            for layer, fvu in result.fvu.items()
        )
        left = "" if self._run.finished else f" · {duration((total - result.tokens) / rate)} left"
        self._say(f"training {result.tokens:,}/{total:,} tokens · {layers} · {rate:,.0f} tokens/s{left}")


def _load_checkpoint(plan: TrainingPlan) -> dict[str, Any] | None:
    if not plan.checkpoint.is_file():
        return None
    try:
        saved = torch.load(plan.checkpoint, map_location="cpu", weights_only=True)
        if saved["fingerprint"] != fingerprint(plan.identity):
            raise ValueError("it is of other parameters")
        state: dict[str, Any] = saved["run"]
    except Exception as e:
        raise AssayError(
            f"can't continue from the checkpoint: {e}", where=str(plan.checkpoint), hint="delete it to start anew"
        ) from e
    return state


def _save_checkpoint(plan: TrainingPlan, run: LayersRun) -> None:
    """Leaves the old checkpoint or the whole new one."""
    save_state(plan.checkpoint, {"fingerprint": fingerprint(plan.identity), "run": run.state_dict()})


@task(name="measure and write SAEs", persist_result=False)
def write_result(plan: TrainingPlan, saes: dict[int, SaeWeights]) -> dict[str, Any]:
    """Writes the SAEs and their scope, measures them on the held-out documents, and writes training.json last."""
    p, out = plan.parameters, plan.out
    files = write_saes(saes, out, p.format, k=p.k, backbone=p.backbone)
    with (out / "scope.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(plan.scope.model_dump(mode="json", exclude_defaults=True), file)
    stderr().print("measuring on held-out documents")
    windows, notes = _windows(plan), []
    stream = ResidualStream(
        _backbone(plan),
        windows.held_out,
        batch_tokens=plan.config.batch_tokens,
        norm_outlier=plan.config.norm_outlier,
    )
    quality: dict[str, dict[str, Any]] = {
        str(layer): {name: round(value, 4) for name, value in found._asdict().items()}
        for layer, found in fidelity(stream, saes, p.k, _HELD_OUT_TOKENS).items()
    }
    if quality:
        rows, total = [], 0
        for _, window in windows.held_out():
            rows.append(torch.tensor(window.ids))
            total += len(window.ids)
            if total >= _CE_TOKENS:
                break
        losses, note = recovered_losses(plan.folder, rows, saes, p.k, plan.device)
        for layer, found_losses in losses.items():
            quality[str(layer)] |= found_losses
        if note:
            notes.append(note)
    else:
        notes.append("no document is held out (one in 20 is, by the hash of its id), so nothing was measured")
    record = {
        "parameters": plan.identity,
        "tokens": plan.config.tokens // plan.config.sae.batch_tokens * plan.config.sae.batch_tokens,
        "held_out": quality,
        "notes": notes,
        "files": [path.relative_to(out).as_posix() for path in files],
        "versions": {"assay": assay_version(), "torch": torch.__version__},
    }
    write_json(out / "training.json", record)
    plan.checkpoint.unlink(missing_ok=True)
    return record


@flow(name="train-sae", flow_run_name="train SAE for {parameters.backbone}", persist_result=False)
def train_sae(parameters: TrainSaeParameters) -> TrainingReport:
    """Trains an SAE for each layer; run again, it continues, and does nothing where it is done."""
    plan: TrainingPlan = step(claim_output)(parameters)
    done = plan.out / "training.json"
    before = done.is_file()
    record = read_json(done) if before else step(write_result)(plan, step(train_layers)(plan))
    report = TrainingReport(
        out=parameters.out,
        scope=str(plan.out / "scope.yaml"),
        tokens=record["tokens"],
        layers=record["held_out"],
        notes=tuple(record["notes"]),
        files=tuple(record["files"]),
        done_before=before,
    )
    if in_flow_run():
        create_markdown_artifact(markdown_list(training_lines(report)), key="train-sae-summary")
    return report


def training_lines(report: TrainingReport) -> list[str]:
    """What was written and how good it is, in plain lines."""
    state = "trained before" if report.done_before else "trained"
    lines = [f"{state} on {report.tokens:,} tokens a layer"]
    for layer, row in report.layers.items():
        ce = f" · CE recovered {row['ce_recovered']:.3f}" if "ce_recovered" in row else ""
        lines.append(
            f"layer {layer}, {row['tokens']:,} held-out tokens: FVU {row['fvu']:.3f} · L0 {row['l0']:.1f} · "
            f"dead {row['dead_share']:.1%}{ce}"
        )
    return [
        *lines,
        *report.notes,
        f"wrote in {report.out}: {', '.join([*report.files, 'scope.yaml', 'training.json'])}",
        f"next: assay tag CORPUS --store STORE --scope {report.scope}",
    ]

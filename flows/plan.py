"""What a command would do, before it does it: shards, documents, tokens and time; or each rule's effect."""

import os
import time
from collections.abc import Sequence
from itertools import islice

import torch

from assay.flows.curate import survey
from assay.flows.progress import duration
from assay.flows.tag import TagPlan, plan_tagging, pool_options, threads_per_worker
from assay.sae_runtime.runtime import Runtime
from assay.schemas.base import Model
from assay.schemas.corpus import Shard
from assay.schemas.curation import RuleTally, StageTally, Tally
from assay.schemas.parameters import CurateParameters, TagParameters
from assay.schemas.recipe import Mixture
from assay.schemas.store import tags_prefix
from assay.workers.corpora.reading import Document, read_documents
from assay.workers.corpora.records import BadShard
from assay.workers.curating import writing_rate
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore

_SHARDS_SAMPLED = 8
_DOCUMENTS_A_SHARD = 64
_TIMED_CHARACTERS = 120_000


class TagForecast(Model):
    """What `assay tag` would do. Documents, tokens and time are estimates from `sampled` documents."""

    run: str
    corpus: str
    objects: int
    shards: int
    shards_done: int
    text_bytes: int
    documents: int
    tokens: int
    sampled: int
    device: str
    workers: int
    tokens_per_second: float
    """of one worker, measured on the sample"""
    seconds: float
    """for the shards that are left, all workers"""


class CurateForecast(Model):
    """What `assay curate` would do: exact, read from the tags; only time and cost are estimates."""

    name: str
    rows_in: int
    rows_quarantined: int
    kept: Tally
    dropped: Tally
    repeated: Tally
    undecided: int
    """kept documents on which a rule is unknown"""
    rules: tuple[RuleTally, ...]
    taken_down: Tally
    """documents on the takedown list"""
    stages: tuple[StageTally, ...]
    mixture: Mixture | None
    thresholds: dict[str, float]
    output_shards: int
    path: str
    surveyed_seconds: float
    """what this forecast took"""
    bytes_per_second: float | None
    """of text read and written by one worker, measured on one shard; null: its source could not be read"""
    workers: int
    seconds: float | None
    """for all workers"""
    price: float | None
    """of one machine for an hour"""
    cost: float | None


def forecast_tagging(parameters: TagParameters) -> TagForecast:
    """Plans the corpus and times the runtime on a small sample of it; writes nothing."""
    plan = plan_tagging(parameters)
    shards = plan.corpus.shards
    done = CommitLog(ObjectStore(parameters.store), tags_prefix(plan.tagset)).committed()
    left = [shard for shard in shards if shard.id not in done]
    texts = _sample(plan)
    tokens_a_document, rate = _measure(plan, texts) if texts else (0.0, 0.0)
    documents, left_documents = (_count(plan, chosen, texts) for chosen in (shards, left))
    gpus = torch.cuda.device_count()
    workers = pool_options(plan, len(left), gpus).workers
    return TagForecast(
        run=plan.run,
        corpus=plan.corpus.corpus,
        objects=len({shard.source.uri for shard in shards}),
        shards=len(shards),
        shards_done=len(shards) - len(left),
        text_bytes=sum(shard.bytes for shard in shards),
        documents=round(documents),
        tokens=round(documents * tokens_a_document),
        sampled=len(texts),
        device=plan.resolved.device,
        workers=workers,
        tokens_per_second=rate,
        seconds=left_documents * tokens_a_document / (rate * workers) if rate else 0.0,
    )


def forecast_curation(parameters: CurateParameters, price: float | None = None) -> CurateForecast:
    """Applies the recipe to the tags and times the writing on a part of one shard; writes nothing.

    `price` is what a machine costs for an hour, in any currency.
    """
    started = time.monotonic()
    preview = survey.fn(parameters, statistics=False)
    surveyed = time.monotonic() - started
    recipe = preview.job.recipe
    workers = min(parameters.workers or os.cpu_count() or 1, max(1, len(preview.shards)))
    rate = writing_rate(preview.job, preview.prepared.shards)
    size = (preview.written + preview.dropped).bytes if recipe.output.dropped else preview.written.bytes
    seconds = size / (rate * workers) if rate else None
    return CurateForecast(
        name=recipe.name,
        rows_in=preview.rows_in,
        rows_quarantined=preview.rows_quarantined,
        kept=preview.kept,
        dropped=preview.dropped,
        repeated=preview.written - preview.kept,
        undecided=preview.undecided,
        rules=preview.rules,
        taken_down=preview.by_stage["takedown"],
        stages=preview.job.stages,
        mixture=recipe.mixture,
        thresholds=preview.job.thresholds,
        output_shards=len(preview.shards),
        path=recipe.output.path,
        surveyed_seconds=round(surveyed, 3),
        bytes_per_second=rate,
        workers=workers,
        seconds=seconds,
        price=price,
        cost=None if price is None or seconds is None else seconds / 3600 * price,
    )


def _count(plan: TagPlan, shards: Sequence[Shard], texts: Sequence[str]) -> float:
    """Documents in `shards`: rows where the plan knows them, else bytes over those of a known or sampled row."""
    known = [shard for shard in plan.corpus.shards if shard.rows]
    if known:
        row_bytes = sum(shard.bytes for shard in known) / sum(shard.rows or 0 for shard in known)
    else:
        row_bytes = sum(len(text.encode()) for text in texts) / max(1, len(texts))
    return sum(shard.rows or shard.bytes / max(1.0, row_bytes) for shard in shards)


def _sample(plan: TagPlan) -> list[str]:
    """The first documents of shards spread evenly over the corpus."""
    shards = plan.corpus.shards
    step = max(1, len(shards) // _SHARDS_SAMPLED)
    texts = []
    for shard in shards[::step][:_SHARDS_SAMPLED]:
        records = read_documents(shard, plan.corpus.options)
        try:
            texts += [r.text for r in islice(records, _DOCUMENTS_A_SHARD) if isinstance(r, Document)]
        except BadShard:
            continue
    return texts


def _measure(plan: TagPlan, texts: Sequence[str]) -> tuple[float, float]:
    """(tokens a document, tokens a second of one worker); the speed is timed on evenly chosen texts."""
    threads = torch.get_num_threads()
    try:
        resolved = plan.resolved
        runtime = Runtime(
            resolved.scope, device=resolved.device, watched=resolved.watched, threads=threads_per_worker(plan)
        )
        tokens = sum(map(len, runtime.tokenizer.encode(texts)))
        share = sum(map(len, texts)) // _TIMED_CHARACTERS + 1
        runtime.features(texts[:1])
        started = time.monotonic()
        timed = int(runtime.features(texts[::share]).n_tokens.sum())
        return tokens / len(texts), timed / max(time.monotonic() - started, 1e-9)
    finally:
        torch.set_num_threads(threads)


def tag_forecast_lines(forecast: TagForecast) -> list[str]:
    """The forecast as plain lines, estimates marked."""
    f = forecast
    if not f.sampled:
        return [f"run {f.run} of {f.corpus}", "no sampled row is a document: does --text-column name the right column?"]
    return [
        f"run {f.run} of {f.corpus}",
        f"{f.objects:,} objects, {f.shards:,} shards ({f.shards_done:,} done), {f.text_bytes / 2**20:,.1f} MB of text",
        f"about {f.documents:,} documents and {f.tokens:,} tokens (from {f.sampled:,} sampled documents)",
        f"{f.workers} worker(s) on {f.device}, {f.tokens_per_second:,.0f} tokens/s each (measured on the sample)",
        f"about {duration(f.seconds)} for what is left, start-up not counted",
    ]


def curation_forecast_lines(forecast: CurateForecast) -> list[str]:
    """The forecast as plain lines: a waterfall of rules and stages, then what each stratum gets."""
    f = forecast
    whole, written = f.kept + f.dropped, f.kept + f.repeated
    lines = [
        f"dataset {f.name} -> {f.path}: {f.output_shards:,} shards",
        f"rows in {f.rows_in:,} = kept {f.kept.documents:,} + dropped {f.dropped.documents:,} "
        f"+ quarantined {f.rows_quarantined:,}",
        f"{'':24}{'documents':>13}{'tokens':>18}{'alone':>13}{'unknown':>11}",
        f"{'tagged':24}{whole.documents:>13,}{whole.tokens:>18,}",
    ]
    if f.taken_down.documents:
        lines.append(f"- {'takedown':22}{-f.taken_down.documents:>13,}{-f.taken_down.tokens:>18,}")
    lines += [
        f"- {r.name:22}{-r.dropped.documents:>13,}{-r.dropped.tokens:>18,}{-r.alone:>13,}{r.undecided:>11,}"
        for r in f.rules
    ]
    lines += [f"- {s.name:22}{-s.dropped.documents:>13,}{-s.dropped.tokens:>18,}" for s in f.stages]
    lines.append(f"{'= kept':24}{f.kept.documents:>13,}{f.kept.tokens:>18,}")
    if f.repeated.documents:
        lines.append(f"{'+ repeats':24}{f.repeated.documents:>13,}{f.repeated.tokens:>18,}")
        lines.append(f"{'= written':24}{written.documents:>13,}{written.tokens:>18,}")
    if f.thresholds:
        lines.append("thresholds: " + ", ".join(f"{name} {value:g}" for name, value in f.thresholds.items()))
    if f.undecided:
        lines.append(f"{f.undecided:,} kept documents have a rule that could not be decided")
    lines += [line for stage in f.stages for line in _stage_lines(stage, f.mixture)]
    if f.seconds is None:
        return [*lines, "no estimate of the time: no text of the sources could be read"]
    rate = f"{(f.bytes_per_second or 0) / 2**20:,.1f} MB/s each (measured)"
    cost = f", {f.cost:,.2f} at {f.price:g} an hour" if f.cost is not None else ""
    size = f"{written.bytes / 2**20:,.1f} MB of text"
    return [*lines, f"about {duration(f.seconds)} to write {size} with {f.workers} worker(s) at {rate}{cost}"]


def _stage_lines(stage: StageTally, mixture: Mixture | None) -> list[str]:
    """What each stratum of a stage has, wants and gets."""
    shown = [s for s in stage.strata if s.available.documents or s.wanted]
    if stage.name != "mixture" or mixture is None:
        return [
            f"  {stage.name} {s.stratum or '(all)'}: {s.kept.documents:,} of {s.available.documents:,} documents, "
            f"{s.kept.tokens:,} of {s.available.tokens:,} tokens"
            for s in shown
        ]
    unit = mixture.unit
    total = sum(getattr(s.written, unit) for s in stage.strata if s.stratum) or 1
    lines = [f"mixture by {mixture.by}, {unit}:"]
    for s in shown:
        there, got = getattr(s.available, unit), getattr(s.written, unit)
        if not s.stratum:
            lines.append(f"  {'(the rest)':20}{there:>15,} there{got:>15,} written")
            continue
        times = got / there if there else 0.0
        capped = "  CAPPED by max_repeat" if s.capped else ""
        share = f"{100 * got / total:.2f} % of {100 * mixture.shares[s.stratum]:g} %"
        lines.append(f"  {s.stratum:20}{there:>15,} there{got:>15,} written  x{times:.2f}  {share}{capped}")
    return lines

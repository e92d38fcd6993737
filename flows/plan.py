"""What a command would do, before it does it: shards, documents, tokens and time; or each rule's effect."""

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
from assay.schemas.curation import RuleTally, Tally
from assay.schemas.parameters import CurateParameters, TagParameters
from assay.schemas.store import tags_prefix
from assay.workers.corpora.reading import Document, read_documents
from assay.workers.corpora.records import BadShard
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
    """What `assay curate` would do: exact, read from the tags."""

    name: str
    rows_in: int
    rows_quarantined: int
    kept: Tally
    dropped: Tally
    rules: tuple[RuleTally, ...]
    output_shards: int
    path: str


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


def forecast_curation(parameters: CurateParameters) -> CurateForecast:
    """Applies the rules to the tags; writes nothing."""
    preview = survey.fn(parameters)
    return CurateForecast(
        name=parameters.recipe.name,
        rows_in=preview.rows_in,
        rows_quarantined=preview.rows_quarantined,
        kept=preview.kept,
        dropped=preview.dropped,
        rules=preview.rules,
        output_shards=len(preview.shards),
        path=parameters.recipe.output.path,
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
    """The forecast as plain lines: a waterfall of the rules."""
    f = forecast
    whole = f.kept + f.dropped
    lines = [
        f"dataset {f.name} -> {f.path}: {f.output_shards:,} shards",
        f"rows in {f.rows_in:,} = kept {f.kept.documents:,} + dropped {f.dropped.documents:,} "
        f"+ quarantined {f.rows_quarantined:,}",
        f"{'':24}{'documents':>12}{'tokens':>16}{'alone':>12}",
        f"{'tagged':24}{whole.documents:>12,}{whole.tokens:>16,}",
    ]
    lines += [
        f"- {rule.name:22}{-rule.dropped.documents:>12,}{-rule.dropped.tokens:>16,}{-rule.alone:>12,}"
        for rule in f.rules
    ]
    return [*lines, f"{'= kept':24}{f.kept.documents:>12,}{f.kept.tokens:>16,}"]

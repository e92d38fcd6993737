"""Copies planted among pages, by kind, and a store that lists the pages without a model having seen them."""

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from assay.schemas.base import canonical_json, record_json
from assay.schemas.corpus import ReadOptions, Shard
from assay.schemas.statistics import TagColumn
from assay.schemas.store import (
    ShardEntry,
    StoredObject,
    TagManifest,
    features_prefix,
    run_prefix,
    tags_prefix,
)
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.reading import Document, read_documents
from assay.workers.feature_table import parquet_bytes
from assay.workers.storage.objects import ObjectStore

OPTIONS = ReadOptions(id_column="id")
HEADER = (
    "Skip to main content Menu Home About us Contact Sign in Register Newsletter Follow us on social media "
    "This site uses cookies to improve your experience Accept all Manage settings Advertisement Continue reading below"
)

Plant = Callable[[str, random.Random], str]


class Page(NamedTuple):
    """A document of the benchmark: `of` names the page that it is a copy of, `kind` how it was made."""

    id: str
    text: str
    of: str = ""
    kind: str = ""


def edited(share: float) -> Plant:
    """A plant that replaces, drops or doubles this share of the words, each at a random place."""

    def plant(text: str, draw: random.Random) -> str:
        words = text.split(" ")
        for at in draw.sample(range(len(words)), round(share * len(words))):
            words[at] = draw.choice(["", f"{words[at]} {words[at]}", draw.choice(words)])
        return " ".join(word for word in words if word)

    return plant


def recased(text: str, draw: random.Random) -> str:
    """The same text in other case and spacing: an exact copy."""
    return re.sub(r"\s+", lambda _: draw.choice([" ", "  ", "\n"]), text.upper() if draw.random() < 0.5 else text)


def truncated(text: str, draw: random.Random) -> str:
    """The first 85 to 95 % of the words."""
    words = text.split(" ")
    return " ".join(words[: round(draw.uniform(0.85, 0.95) * len(words))])


def headed(text: str, draw: random.Random) -> str:
    """The text below a site's header of 33 words."""
    return f"{HEADER} {text}"


def shuffled(text: str, draw: random.Random) -> str:
    """The sentences in another order."""
    sentences = re.split(r"(?<=[.!?]) +|\n+", text)
    draw.shuffle(sentences)
    return " ".join(sentences)


PLANTS: dict[str, Plant] = {
    "exact": recased,
    "2 % of words edited": edited(0.02),
    "5 % of words edited": edited(0.05),
    "10 % of words edited": edited(0.10),
    "20 % of words edited": edited(0.20),
    "cut after 85-95 %": truncated,
    "header put before": headed,
    "sentences shuffled": shuffled,
}


def pages(sources: Sequence[str], count: int, seed: int) -> Iterator[Page]:
    """`count` pages of 100 to 700 words, each put together from paragraphs of 12 to 60 words of random sources.

    No two pages of one paragraph each: what goes and was not planted is a mistake.
    """
    draw = random.Random(seed)
    paragraphs = [p for text in sources for p in re.split(r"\n+", text) if 12 <= len(p.split()) <= 60]
    for number in range(count):
        wanted, parts = draw.randint(100, 700), list[str]()
        while sum(part.count(" ") + 1 for part in parts) < wanted:
            parts.append(draw.choice(paragraphs))
        yield Page(f"page-{number}", "\n".join(parts))


def planted(originals: Iterable[Page], each: int, seed: int, plants: dict[str, Plant] = PLANTS) -> list[Page]:
    """All pages in random order, with `each` copies of every kind, no two of the same page."""
    draw = random.Random(seed)
    everything = list(originals)
    chosen = iter(draw.sample(everything, each * len(plants)))
    copies = [
        Page(f"{kind.replace(' ', '-')}-{n}", plant(page.text, draw), page.id, kind)
        for kind, plant in plants.items()
        for n, page in enumerate([next(chosen) for _ in range(each)])
    ]
    everything += copies
    draw.shuffle(everything)
    return everything


def write_store(
    folder: Path,
    documents: Iterable[tuple[str, str]],
    *,
    files: int = 4,
    scores: dict[str, float | None] | None = None,
    features: Callable[[Sequence[str]], pa.Table] | None = None,
    name: str = "corpus",
) -> tuple[str, TagManifest]:
    """Writes (id, text) as JSONL files and a store that holds a finished run over them, one shard a file.

    Tags tables hold rows, ids, words in place of tokens, and the scores of a tagger "quality" if `scores` are given;
    `features` makes the rest of a features table from ids. Nothing ran a model.
    """
    rows = list(documents)
    (folder / name).mkdir(parents=True)
    size = -(-len(rows) // files)
    for n in range(files):
        lines = (json.dumps({"id": i, "text": t}, ensure_ascii=False) for i, t in rows[n * size : (n + 1) * size])
        (folder / name / f"{n:05d}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    store = ObjectStore(str(folder / f"{name}-store"))
    plan = plan_corpus(str(folder / name), OPTIONS, 2**40)
    entries = tuple(_entry(store, shard, scores, features) for shard in plan.shards)
    documents_in = sum(entry.rows_kept for entry in entries)
    manifest = TagManifest(
        run=name,
        corpus=str(folder / name),
        options=OPTIONS,
        plan=plan.id,
        encoder="none",
        features="none",
        tagset="none",
        taggers=(TagColumn(name="quality", axis="quality", kind="score"),) if scores is not None else (),
        columns={"id": "string", "text": "string"},
        rows_in=documents_in,
        rows_kept=documents_in,
        rows_quarantined=0,
        tokens=sum(entry.tokens for entry in entries),
        quarantine_reasons={},
        undecided={},
        unreadable_shards=0,
        statistics=StoredObject(key="none", size=0, sha256="", rows=0),
        shards=entries,
    )
    store.create("assay-store.json", b'{"format":"assay.store/1"}', attempt="planted")
    identity = {"encoder": {"layers": [], "d_sae": 0}, "features": {"watched": []}}
    store.create(f"{features_prefix('none')}/identity.json", canonical_json(identity).encode(), attempt="planted")
    store.create(f"{tags_prefix('none')}/taggers.json", b"[]", attempt="planted")
    store.create(f"{run_prefix(name)}/manifest.json", record_json(manifest), attempt="planted")
    return store.root, manifest


def _entry(
    store: ObjectStore,
    shard: Shard,
    scores: dict[str, float | None] | None,
    features: Callable[[Sequence[str]], pa.Table] | None,
) -> ShardEntry:
    found = [record for record in read_documents(shard, OPTIONS) if isinstance(record, Document)]
    ids = [document.id for document in found]
    tags = pa.table(
        {
            "row": pa.array([document.row for document in found], pa.int64()),
            "doc_id": pa.array(ids, pa.string()),
            "n_bytes": pa.array([len(document.text.encode()) for document in found], pa.int64()),
            "n_tokens": pa.array([document.text.count(" ") + 1 for document in found], pa.int32()),
        }
    )
    if scores is not None:
        tags = tags.append_column("quality", pa.array([scores[i] for i in ids], pa.float32()))
    tables = {"tags": tags}
    if features is not None:
        tables["features"] = features(ids)
    objects = {
        role: store.create_named(role, shard.id, ".parquet", parquet_bytes(table), table.num_rows, attempt="planted")
        for role, table in tables.items()
    }
    return ShardEntry(
        shard=shard.id,
        source=shard.source,
        first_row=shard.first_row,
        source_rows=shard.rows,
        first_byte=shard.first_byte,
        rows_in=len(found),
        rows_kept=len(found),
        tokens=sum(tags["n_tokens"].to_pylist()),
        objects=objects,
    )

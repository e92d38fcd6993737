"""The dataset card: README.md with the Hub's YAML header, so that the folder loads and explains itself."""

import io
from typing import Any

import pyarrow as pa
from ruamel.yaml import YAML

from assay.schemas.curation import CurationManifest
from assay.schemas.errors import inert
from assay.schemas.statistics import TOKENS

_SIZES = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
_LARGER = [(10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B")]
_DATA = {"parquet": ("parquet", "data/*.parquet"), "jsonl.zst": ("json", "data/*.jsonl.zst")}


def dataset_card(manifest: CurationManifest, statistics: pa.Table) -> str:
    """The card of a finished dataset; the same manifest gives the same text."""
    recipe, kept = manifest.recipe, manifest.kept
    written = kept + manifest.repeated
    builder, pattern = _DATA[recipe.output.format]
    total = kept.tokens + manifest.dropped.tokens
    lines = [
        f"# {recipe.name}",
        "",
        *([_cell(recipe.description), ""] if recipe.description else []),
        f"{written.documents:,} documents, {written.tokens:,} tokens, {written.bytes:,} bytes of text, "
        f"in {len(manifest.shards):,} shards. Curated by Assay {manifest.assay_version} from SAE-feature tags.",
        "",
        "## Loading",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'dataset = load_dataset("{builder}", data_files="{pattern}", split="train")',
        "```",
        "",
        *(["This needs `pip install zstandard`.", ""] if recipe.output.format == "jsonl.zst" else []),
        "Run it in this folder, or put its path before `data/`. `manifest.json` lists every shard with its size, "
        "rows and SHA-256.",
        "",
        *_version(manifest),
        "## Where it comes from",
        "",
        *_table(
            ["corpus", "tagging run", "encoder", "tag set", "input shards", "unreadable"],
            [
                [s.corpus, s.run, s.encoder, s.tagset, f"{s.shards:,}", f"{s.unreadable_shards:,}"]
                for s in manifest.sources
            ],
        ),
        "",
        "## What was kept and dropped",
        "",
        f"Rows in {manifest.rows_in:,} = kept {kept.documents:,} + dropped {manifest.dropped.documents:,} "
        f"+ quarantined {manifest.rows_quarantined:,}. Kept {_share(kept.tokens, total)} of the tokens.",
        "",
        *_table(
            ["rule", "why", "documents dropped", "tokens dropped", "would drop alone", "undecided"],
            [
                [
                    r.name,
                    r.reason,
                    f"{r.dropped.documents:,}",
                    f"{r.dropped.tokens:,}",
                    f"{r.alone:,}",
                    f"{r.undecided:,}",
                ]
                for r in manifest.rules
            ],
        ),
        "",
        "A document is counted under the first rule that drops it; the stages below come after all rules. Quarantined "
        "rows (broken records, empty texts) are listed with their reasons in the tagging run's store.",
        "",
        *_stages(manifest),
        "## Composition of what was kept",
        "",
        *_composition(statistics, "domain", written.tokens),
        *_composition(statistics, "language", written.tokens),
        "## Columns",
        "",
        *_table(["column", "type"], [[name, kind] for name, kind in manifest.columns.items()]),
        "",
        "Columns that begin with `assay_` were added: the document's id, its tokens (as the backbone counts them) and "
        "its tags. The others are the source's own.",
        "",
    ]
    return f"---\n{_header(manifest)}---\n\n" + "\n".join(lines)


def _version(manifest: CurationManifest) -> list[str]:
    """Where the dataset stands in its chain of versions, and what was taken down."""
    lines = []
    if version := manifest.version:
        lines += [
            "## Version",
            "",
            f"This is version {version.number}. Its folder holds what was new in it; the whole dataset, "
            f"{version.rows:,} rows and {version.tokens:,} tokens, is the {len(version.parts):,} parts that "
            "`version.parts` of `manifest.json` lists, with keys relative to the folder above this one.",
            "",
        ]
    if down := manifest.takedown:
        lines += [
            f"A takedown list of {down.entries:,} entries (SHA-256 {down.sha256}) kept out {down.new_documents:,} new "
            f"documents and took {down.removed_rows:,} rows out of {down.rewritten_parts:,} parts of earlier versions.",
            "",
        ]
    return lines


def _stages(manifest: CurationManifest) -> list[str]:
    """What sample and mixture did, for each stratum."""
    lines = []
    for stage in manifest.stages:
        by = manifest.recipe.mixture.by if stage.name == "mixture" and manifest.recipe.mixture else "stratum"
        rows = [
            [
                s.stratum or ("all others" if len(stage.strata) > 1 else "all"),
                f"{s.available.documents:,}",
                f"{s.kept.documents:,}",
                f"{s.written.documents:,}",
                f"{s.written.tokens:,}",
                "capped by max_repeat" if s.capped else "",
            ]
            for s in stage.strata
            if s.available.documents or s.wanted
        ]
        head = [by, "documents there", "kept", "written", "tokens written", ""]
        lines += [f"### {stage.name}", "", *_table(head, rows), ""]
    if manifest.repeated.documents:
        lines += [
            f"Written {manifest.kept.documents + manifest.repeated.documents:,} = kept {manifest.kept.documents:,} + "
            f"repeats {manifest.repeated.documents:,}; `assay_copy` numbers the copies of a document from 0.",
            "",
        ]
    return lines


def _header(manifest: CurationManifest) -> str:
    recipe, n = manifest.recipe, (manifest.kept + manifest.repeated).documents
    size = next((name for limit, name in [*_SIZES, *_LARGER] if n < limit), "100B<n<1T")
    header: dict[str, Any] = {
        "pretty_name": recipe.name,
        "license": recipe.license,
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["assay", "sae-features"],
        "configs": [{"config_name": "default", "data_files": _DATA[recipe.output.format][1]}],
    }
    out = io.StringIO()
    YAML(typ="safe", pure=True).dump(header, out)
    return out.getvalue()


def _composition(statistics: pa.Table, dimension: str, total: int) -> list[str]:
    rows = [r for r in statistics.to_pylist() if r["metric"] == TOKENS and r[dimension]]
    if not rows:
        return []
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        docs, tokens = counts.get(row[dimension], (0, 0))
        counts[row[dimension]] = (docs + row["docs"], tokens + row["tokens"])
    ranked = sorted(counts.items(), key=lambda item: (-item[1][1], item[0]))
    table = _table(
        [dimension, "documents", "tokens", "share of tokens"],
        [[name, f"{docs:,}", f"{tokens:,}", _share(tokens, total)] for name, (docs, tokens) in ranked],
    )
    return [*table, ""]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows),
    ]


def _cell(text: str) -> str:
    """Text made inert in Markdown: no line break, cell border, tag, link or emphasis survives."""
    return "".join(f"\\{c}" if c in "\\`*[]<>|" else c for c in inert(text))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"

"""What others would run to find near copies: `python -m benchmarks.dedup_rivals NAME CORPUS OUT` in their own venv.

Each reads a folder of JSONL files (id, text) in order of name and writes the ids that it would drop, one a line, and
its seconds last. All use 5-word shingles. Nothing of Assay is imported.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

THRESHOLD, PERMUTATIONS, WORDS = 0.8, 128, 5


def documents(folder: Path) -> Iterator[tuple[str, str]]:
    """Id and text of every document, in order."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                row = json.loads(line)
                yield row["id"], row["text"]


def datasketch(corpus: Path, work: Path) -> list[str]:
    """The script of its documentation: look each document up, drop it if one of the found is as similar as asked."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    kept: dict[str, MinHash] = {}
    dropped = []
    for identity, text in documents(corpus):
        words = text.lower().split()
        shingles = {" ".join(words[n : n + WORDS]).encode() for n in range(max(1, len(words) - WORDS + 1))}
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch(list(shingles))
        if any(sketch.jaccard(kept[found]) >= THRESHOLD for found in index.query(sketch)):
            dropped.append(identity)
            continue
        kept[identity] = sketch
        index.insert(identity, sketch)
    return dropped


def datatrove(corpus: Path, work: Path) -> list[str]:
    """Its four MinHash stages with its own settings (14 buckets of 8 hashes), two processes."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    config = MinhashConfig(n_grams=WORDS)
    files = len(list(corpus.glob("*.jsonl")))
    reader = JsonlReader(str(corpus))
    removed = JsonlWriter(str(work / "removed"), compression=None)
    stages = [
        ([reader, MinhashDedupSignature(str(work / "signatures"), config)], files),
        ([MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=config)], config.num_buckets),
        ([MinhashDedupCluster(str(work / "buckets"), str(work / "remove"), config=config)], 1),
        ([reader, MinhashDedupFilter(str(work / "remove"), exclusion_writer=removed)], files),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=2, logging_dir=str(work / f"log-{number}")).run()
    return [row for row, _ in documents(work / "removed")]


RIVALS: dict[str, Callable[[Path, Path], list[str]]] = {"datasketch": datasketch, "datatrove": datatrove}


def main() -> None:
    """Runs one rival."""
    name, corpus, out = sys.argv[1:]
    started = time.monotonic()
    work = Path(out).with_suffix(".work")
    work.mkdir()
    dropped = RIVALS[name](Path(corpus), work)
    Path(out).write_text("".join(f"{i}\n" for i in dropped) + f"{time.monotonic() - started:.1f}\n", "utf-8")


if __name__ == "__main__":
    main()

"""`python -m benchmarks.embedded --data FOLDER [--limit N]`: measures the embedded model and writes its page.

Needs the labelled sets and the extra `fit`; some 15 minutes on two cores, less with a limit.
`--page` only writes the page again from the figures that are kept.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from assay.flows.scopes import load_scope
from assay.sae_runtime.runtime import Runtime
from assay.taggers.examples import Example
from benchmarks.embedded.features import LabelledFeatures, choose, describe
from benchmarks.embedded.page import PAGE, RESULTS, write_page
from benchmarks.embedded.probes import compare
from benchmarks.embedded.representations import LENGTH, Pooled, Sae, pool, random_control, shortened
from benchmarks.embedded.tasks import labelled, sample, tasks

log = logging.getLogger("benchmarks.embedded")


def measure(data: Path, work: Path, limit: int) -> dict[str, Any]:
    """All figures of the page that the build and the taggers don't hold."""
    runtime = Runtime(load_scope("embedded"))
    layers = runtime.scope.layers
    folder = Path(str(files("assay.sae_runtime") / "embedded"))
    saes = {}
    for layer in layers:
        weights = torch.load(folder / "saes" / f"layer{layer}.sae.pt", weights_only=True)
        saes[layer] = Sae(weights["W_enc"].float(), weights["b_enc"].float())
    control, control_saes = random_control(work / "random", layers, runtime.backbone.vocab_size)

    def run(rows: Sequence[Example], *, with_control: bool) -> tuple[list[str], Pooled, Pooled | None]:
        texts = shortened(runtime.tokenizer, [row.text for row in rows])
        trained = pool(runtime.backbone, runtime.tokenizer, texts, saes)
        return texts, trained, pool(control, runtime.tokenizer, texts, control_saes) if with_control else None

    figures: dict[str, Any] = {}
    kinds: list[LabelledFeatures] = []
    for task in tasks(data, limit):
        log.info("%s: %d texts through the model and its control", task.title, len(task.rows))
        texts, trained, random = run(task.rows, with_control=True)
        kinds.append(LabelledFeatures(task.name, task.rows, texts, trained.max))
        assert random is not None
        counts = {split: sum(r.split == split for r in task.rows) for split in ("discovery", "validation", "test")}
        figures[task.name] = {"title": task.title, "texts": counts, "ways": compare(task, texts, trained, random)}
        for way, row in figures[task.name]["ways"].items():
            log.info("%s, %s: %s", task.name, way, row)
    rows = sample(labelled("language", data), limit)
    texts, trained, _ = run(rows, with_control=False)
    kinds.append(LabelledFeatures("language", rows, texts, trained.max))
    lines = (files("assay.flows") / "demo_documents.jsonl").read_text("utf-8").splitlines()
    shown = [d["text"] for d in map(json.loads, lines) if d["kind"] != "insult"]
    described = [
        describe(kind, found, runtime, shown, abusive=found.kind in {"tweets", "sentences"} or found.label == "Adult")
        for kind, found in choose(kinds)
    ]
    return {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.embedded --data DATA --limit {limit}",
        "encoder": runtime.encoder_fingerprint,
        "layers": list(layers),
        "tokens_read": LENGTH,
        "tasks": figures,
        "features": described,
    }


def main() -> None:
    """Measures, keeps the figures and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the labelled sets (*.jsonl.gz)")
    parser.add_argument("--limit", type=int, default=10_000, help="most texts of a task, by hash of their ids")
    parser.add_argument("--page", action="store_true", help="only write the page again from the kept figures")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    if not options.page:
        if options.data is None:
            parser.error("--data is needed: the folder with the labelled sets")
        with tempfile.TemporaryDirectory() as work:
            results = measure(options.data, Path(work), options.limit)
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        log.info("figures: %s", RESULTS)
    write_page()
    log.info("page: %s", PAGE)


if __name__ == "__main__":
    main()

"""Measures the runtime beside its rivals, in one command: python -m benchmarks.runtime --help"""

import contextlib
import gc
import json
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from assay.schemas.errors import AssayError
from benchmarks import machine
from benchmarks.checkpoint import write_backbone, write_saes
from benchmarks.documents import Writer
from benchmarks.floor import Rates, measure_rates
from benchmarks.loading import measure_loading
from benchmarks.measure import Contest
from benchmarks.options import Options, Place, parse
from benchmarks.record import Record, cell_record, floor_record
from benchmarks.report import page
from benchmarks.rivals import OURS, REFERENCE, RIVALS, VARIANTS
from benchmarks.rivals.base import Rival, Task, Weights
from benchmarks.shapes import PUBLISHED, Shape

_RESULTS = Path(__file__).parent / "results"
_DISTINCT_SAES = 4
"""files drawn for a published shape: all of a suite would fill a disk"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the grid, prints the page, and writes the record and the page."""
    options = parse(arguments)
    command = shlex.join(["python", "-m", "benchmarks.runtime", *(sys.argv[1:] if arguments is None else arguments)])
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    with contextlib.ExitStack() as stack:
        folder = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        # What the runtime caches of these random weights goes with them.
        os.environ["ASSAY_CACHE"] = str((folder / "cache").absolute())
        benchmark = Benchmark(options, folder, command)
        try:
            benchmark.measure()
        except AssayError as e:
            sys.exit(str(e))
    sys.stdout.write(page(benchmark.record) + "\n")


class _Files(NamedTuple):
    """One backbone with its SAEs of one width, on disk."""

    backbone: Path
    saes: Path


class Benchmark:
    """A run of the grid; what has been measured is on disk after each cell."""

    def __init__(self, options: Options, folder: Path, command: str) -> None:
        self._options = options
        self._folder = folder
        self._start = time.monotonic()
        self._files: dict[tuple[Shape, int], _Files] = {}
        self.record: Record = {
            "format": "assay.benchmark/1",
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "command": command,
            "device": options.device.partition(":")[0],
            "machine": machine.describe(options.device, options.threads),
            "versions": machine.versions(),
            "load_before": os.getloadavg()[0],
            "load_after": None,
            "minutes": None,
            "rates": [],
            "cells": [],
            "skipped": [],
            "loading": None,
        }

    def measure(self) -> None:
        """Cell after cell; weights are written and loaded once for the cells that share them."""
        for (shape, d_sae), places in groupby(self._options.places, lambda place: (place.shape, place.d_sae)):
            same_weights = list(places)
            self._tell(f"weights of {shape.name}, d_sae {d_sae:,}")
            self._files[shape, d_sae] = files = self._write(same_weights)
            rates = self._measure_rates(shape, d_sae)
            writer = Writer(files.backbone, self._options.window, self._options.seed)
            weights = Weights(self._task(same_weights[0]))
            for _, hooked in groupby(same_weights, lambda place: place.hooked):
                cells = list(hooked)
                try:
                    self._measure_cells(cells, weights, writer, rates)
                except torch.OutOfMemoryError as e:
                    done = len(self.record["cells"]) + len(self.record["skipped"])
                    self._skip([place for place in self._options.places[done:] if place in cells], str(e))
                gc.unfreeze()
                gc.collect()
                torch.cuda.empty_cache()
        if self._options.loading:
            self._measure_loading()
        self._save()

    def _measure_cells(self, places: Sequence[Place], weights: Weights, writer: Writer, rates: Rates) -> None:
        """The cells of one set of loaded rivals."""
        task = self._task(places[0])
        rivals, absent = self._load(task, weights)
        contest = Contest(rivals, writer, dtype=task.dtype, device=task.device)
        for place in places:
            number = len(self.record["cells"]) + len(self.record["skipped"])
            self._tell(f"cell {number + 1} of {len(self._options.places)}: {place}")
            cell = contest.measure(
                place.documents, repeats=self._options.repeats, seconds=self._allowance(number), tell=self._tell
            )
            at = {
                "shape": place.shape.name,
                "hooked": place.hooked,
                "d_sae": place.d_sae,
                "documents": place.documents,
            }
            record = cell_record(cell, task, at, absent) | {"floor": floor_record(cell, task, place.shape, rates)}
            if "ours-auto" in rivals:
                auto: Any = rivals["ours-auto"]
                record["results"]["ours-auto"]["chosen_dtype"] = auto.runtime.encoder_identity.dtype
            self.record["cells"].append(record)
            self._save()

    def _skip(self, places: Sequence[Place], reason: str) -> None:
        """Notes cells that don't fit in memory."""
        for place in places:
            self._tell(f"out of memory: {place}")
            self.record["skipped"].append({"place": str(place), "reason": reason.splitlines()[0]})
        self._save()

    def _load(self, task: Task, weights: Weights) -> tuple[dict[str, Rival], dict[str, str]]:
        """Everyone who can run here, and why the others can't."""
        options = self._options
        narrowest = min(place.d_sae for place in options.places)
        fewest = min(len(place.shape.layers(place.hooked)) for place in options.places)
        cheapest = task.d_sae == narrowest and len(task.layers) == fewest
        variants: dict[str, dict[str, Any]] = {OURS: options.scope, "ours-top256": {**options.scope, "top_m": 256}}
        if options.auto_dtype:
            variants["ours-auto"] = {**options.scope, "dtype": "auto"}
        wanted = {name: entry for name, entry in RIVALS.items() if name in {REFERENCE, *options.rivals}}
        absent: dict[str, str] = {}
        rivals: dict[str, Rival] = {}
        for name, entry in (wanted | {name: VARIANTS[name] for name in variants}).items():
            reason = entry.missing(task.device)
            if reason is None and entry.cheapest_only and not options.rivals_named and not cheapest:
                reason = "measured in the cheapest cells only"
            if reason is not None:
                absent[name] = reason
                continue
            self._tell(f"loading {name}")
            try:
                rivals[name] = entry.load(task, weights, **variants.get(name, {}))
            except Exception as e:
                if name in (OURS, REFERENCE):
                    raise
                absent[name] = f"failed to load: {type(e).__name__}: {e}".splitlines()[0]
            torch.set_num_threads(options.threads)  # whatever it has set: all run with the same number
        return rivals, absent

    def _measure_loading(self) -> None:
        """Start-up and memory of workers, at the middle width with the fewest hooked layers that were measured."""
        shape = self._options.places[0].shape
        places = [place for place in self._options.places if place.shape == shape]
        fewest = min(len(shape.layers(place.hooked)) for place in places)
        places = [place for place in places if len(shape.layers(place.hooked)) == fewest]
        widths = sorted({place.d_sae for place in places})
        place = next(place for place in places if place.d_sae == widths[len(widths) // 2])
        self._tell(f"start-up and memory of workers: {place}")
        writer = Writer(self._files[place.shape, place.d_sae].backbone, self._options.window, self._options.seed)
        text = writer.sample("tweets", 1)[0].text
        self.record["loading"] = {
            "shape": shape.name,
            "hooked": place.hooked,
            "d_sae": place.d_sae,
            "loaders": measure_loading(self._task(place), text, self._options.threads, self._options.scope),
        }

    def _write(self, places: Sequence[Place]) -> _Files:
        """Checkpoint and SAE files for some cells of the same weights."""
        shape, d_sae = places[0].shape, places[0].d_sae
        device = self._options.device
        layers = tuple(sorted({layer for place in places for layer in shape.layers(place.hooked)}))
        distinct = _DISTINCT_SAES if shape.name in PUBLISHED else None
        files = _Files(
            write_backbone(self._folder, shape, dtype=self._options.dtype, device=device),
            write_saes(self._folder, shape, d_sae, layers, device=device, distinct=distinct),
        )
        os.sync()  # or the disk would still be busy with them while runs are timed
        return files

    def _measure_rates(self, shape: Shape, d_sae: int) -> Rates:
        """The machine's rates in the dtype used, and for the record in fp32."""
        for dtype in dict.fromkeys(("float32", self._options.dtype)):
            rates = measure_rates(shape, d_sae, device=self._options.device, dtype=dtype)
            self.record["rates"].append({"shape": shape.name, "d_sae": d_sae, "dtype": dtype, **rates._asdict()})
        return rates

    def _task(self, place: Place) -> Task:
        options, files = self._options, self._files[place.shape, place.d_sae]
        return Task(
            backbone=files.backbone,
            saes=files.saes,
            layers=place.shape.layers(place.hooked),
            d_sae=place.d_sae,
            k=place.shape.k,
            window=options.window,
            overlap=options.overlap,
            batch_tokens=options.batch_tokens,
            device=options.device,
            dtype=options.dtype,
        )

    def _allowance(self, number: int) -> float:
        """Seconds for a cell: what earlier ones took more or less than their share is carried over, within limits."""
        each = self._options.seconds
        return min(max(each * (number + 1) - (time.monotonic() - self._start), each / 2), each * 2)

    def _save(self) -> None:
        """Writes the record and the page as they now are."""
        self.record["minutes"] = round((time.monotonic() - self._start) / 60, 1)
        self.record["load_after"] = os.getloadavg()[0]
        out = self._options.out or _RESULTS / f"runtime-{self.record['device']}-{self.record['date']}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(self.record, indent=1) + "\n", "utf-8")
        out.with_suffix(".md").write_text(page(self.record) + "\n", "utf-8")

    def _tell(self, message: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - self._start:6.0f} s] {message}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    main()

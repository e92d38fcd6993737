"""Time from the start of a process to its first features, and the memory of one, two and three workers of one scope.

Each worker is a process of its own, so that nothing is shared but what the operating system shares: mapped files.
This module imports nothing heavy at the top, since a worker's imports are part of what is timed.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import machine

if TYPE_CHECKING:
    from benchmarks.rivals.base import Task

LOADERS = {"ours": "this runtime", "saelens": "transformers' whole model and SAELens' loader"}
_WORKERS = 3


def measure_loading(task: "Task", text: str, threads: int, scope: dict[str, str]) -> dict[str, Any]:
    """For each loader: seconds of the first start and of later ones, and each worker's memory beside 0, 1 and 2 others.

    The first start reads files that may not be in memory yet, and converts what the loader converts once.
    """
    results: dict[str, Any] = {}
    order = {"task": dataclasses.asdict(task), "text": text, "threads": threads, "scope": scope}
    for loader in LOADERS:
        if loader == "saelens" and not _installed("sae_lens"):
            results[loader] = {"problem": "sae_lens is not installed"}
            continue
        with _Worker(loader, order) as alone:
            first = alone.ready()
        workers: list[_Worker] = []
        starts, memory = [], []
        try:
            for _ in range(_WORKERS):
                workers.append(_Worker(loader, order))
                starts.append(workers[-1].ready())
                memory.append([machine.usage(worker.pid)._asdict() for worker in workers])
        finally:
            for worker in workers:
                worker.stop()
        results[loader] = {"first_start": first, "later_starts": starts, "memory": memory}
    return results


class _Worker:
    """A process that loads, computes the features of one text, and then holds what it loaded until it is stopped."""

    def __init__(self, loader: str, order: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.loading", "--worker", loader],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order, default=str) + "\n")
        self._process.stdin.flush()

    def ready(self) -> dict[str, float]:
        """Waits for the first features; the worker's report."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a loading worker ended with code {self._process.wait()}; its error stands above")
        report: dict[str, float] = json.loads(line)
        return report

    def stop(self) -> None:
        """Ends the worker."""
        self._process.communicate()

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _work(loader: str) -> None:
    """The worker's side: one line in, one line out, then wait for the end of the input."""
    order = json.loads(sys.stdin.readline())
    import torch
    import transformers

    from benchmarks.rivals import RIVALS, VARIANTS
    from benchmarks.rivals.base import Task, Weights

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(order["threads"])
    fields = order["task"]
    paths = {name: Path(fields[name]) for name in ("backbone", "saes")}
    task = Task(**{**fields, **paths, "layers": tuple(fields["layers"])})
    entry = (VARIANTS | RIVALS)[loader]
    entry.imported()
    imported = _since_start()
    rival = entry.load(task, Weights(task), **(order["scope"] if loader == "ours" else {}))
    loaded = _since_start()
    rival.features([order["text"]])
    report = {"imported": imported, "loaded": loaded, "first_features": _since_start(), "peak_rss": machine.peak_rss()}
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


def _since_start() -> float:
    """Seconds since this process was started, its interpreter's start included."""
    started_ticks = int(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A worker of the loading measurement; benchmarks.runtime starts it.")
    parser.add_argument("--worker", choices=LOADERS, required=True)
    _work(parser.parse_args().worker)

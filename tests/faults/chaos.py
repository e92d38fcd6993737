"""Plays killers against `assay tag` on S3 and Ray: python -m tests.faults.chaos --seed 1 --duration 600

In each round a corpus is tagged with the embedded model while, in an order that the seed decides, a worker, the driver,
Ray's raylet or head is killed (-9), the S3 server is killed and started again, or one request in five is answered
badly for a while. A driver that ends is started again until the run is finished. Then every object must have the
bytes of an undisturbed run, each shard one commit, and fsck nothing to say.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.corpus_files import json_lines
from tests.faults.proxy import BadServer, bad_server
from tests.faults.weed import Weed
from tests.flows.corpora import ASSAY, assay_environment, document

FILES, ROWS = 10, 12
KILLERS = ("worker", "worker", "driver", "raylet", "head", "server", "bad answers")
_COMMAND_LINES = {"worker": "ray::_Actor", "raylet": "raylet/raylet", "head": "gcs/gcs_server"}


def main() -> int:
    """Plays rounds until the time is up; 1 if one of them ended otherwise than an undisturbed run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--duration", type=float, default=600, help="seconds; the round that is played then ends")
    given = parser.parse_args()
    until = time.monotonic() + given.duration
    with tempfile.TemporaryDirectory(prefix="assay-chaos-") as name:
        arena = Arena(Path(name))
        try:
            for seed in range(given.seed, given.seed + 10**6):
                line = arena.play(seed)
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
                if line["wrong"]:
                    return 1
                if time.monotonic() > until:
                    return 0
        finally:
            arena.close()
    return 0


class Arena:
    """A corpus, a server, and what an undisturbed run of the corpus leaves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._corpus = folder / "corpus"
        self._corpus.mkdir()
        for file in range(FILES):
            rows = [{"id": f"{file}/{row}", "text": document(100 * file + row)} for row in range(ROWS)]
            bad = [{"id": "none", "text": None}]
            (self._corpus / f"{file:02d}.jsonl").write_bytes(json_lines([*rows, *bad]))
        (folder / "weed").mkdir()
        self._weed = Weed(folder / "weed")
        started = time.monotonic()
        command, env = self._command(str(folder / "quiet")), self._environment()
        runs = (subprocess.run(command, env=env, check=False).returncode for _ in range(3))
        assert 0 in runs, "the undisturbed run failed"  # on a machine that is overloaded Ray may not start at once
        self._quiet_s = time.monotonic() - started
        self._wanted = {
            str(path.relative_to(folder / "quiet")): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (folder / "quiet").rglob("*")
            if path.is_file()
        }

    def close(self) -> None:
        self._weed.kill()

    def play(self, seed: int, faults: int = 4) -> dict[str, object]:
        """One round; tells what was done, how long it took, and what is wrong at the end."""
        draw = random.Random(seed)
        root = f"s3://{self._weed.server.bucket}/round-{seed}-{time.time_ns()}"
        plan = [draw.choice(KILLERS) for _ in range(faults)]
        played: list[str] = []
        drivers, started = 0, time.monotonic()
        with bad_server(self._weed.server.endpoint, seed, percent=0) as server:
            environment = {**self._environment(), **self._weed.environment, "AWS_ENDPOINT_URL": server.endpoint}
            while True:
                drivers += 1
                driver = self._drive(root, environment, plan, played, draw, server)
                if driver == 0:
                    break
                if drivers > 4 * faults + 10:
                    return {"seed": seed, "played": played, "wrong": [f"not finished by {drivers} drivers"]}
        return {
            "seed": seed,
            "played": played,
            "drivers": drivers,
            "seconds": round(time.monotonic() - started, 1),
            "undisturbed_seconds": round(self._quiet_s, 1),
            "wrong": list(self._wrong(root)),
        }

    def _drive(
        self, root: str, env: dict[str, str], plan: list[str], played: list[str], draw: random.Random, server: BadServer
    ) -> int:
        """Runs the driver, playing what is left of the plan beside it; its exit code."""
        with (self._folder / "driver.log").open("ab") as log:
            driver = subprocess.Popen(self._command(root), env=env, stdout=log, stderr=log, start_new_session=True)
        while driver.poll() is None:
            pause = time.monotonic() + draw.uniform(2, 20)
            while driver.poll() is None and time.monotonic() < pause:
                time.sleep(0.05)
            server.percent = 0
            if plan and driver.poll() is None and self._harm(plan[0], driver.pid, draw, server):
                played.append(plan.pop(0))
        server.percent = 0
        if driver.returncode < 0:
            for pid in descendants(driver.pid):
                kill(pid)
        return driver.returncode

    def _harm(self, killer: str, driver: int, draw: random.Random, server: BadServer) -> bool:
        """Does it; False where there is no such process yet."""
        if killer == "bad answers":
            server.percent = 20
        elif killer == "server":
            self._weed.kill()
            time.sleep(draw.uniform(0, 2))
            self._weed.start()
        elif killer == "driver":
            os.killpg(driver, signal.SIGKILL)
        else:
            found = [pid for pid in descendants(driver) if _COMMAND_LINES[killer] in command_line(pid)]
            if not found:
                return False
            kill(draw.choice(found))
        return True

    def _wrong(self, root: str) -> Iterator[str]:
        os.environ.update(self._weed.environment)
        from assay.flows.fsck import fsck
        from assay.workers.storage.objects import ObjectStore

        store = ObjectStore(root)
        found = {key: hashlib.sha256(store.read(key)).hexdigest() for key in store.list() if "/failures/" not in key}
        yield from (f"{key} is missing" for key in self._wanted.keys() - found.keys())
        yield from (f"{key} is too much" for key in found.keys() - self._wanted.keys())
        for key, digest in found.items():
            if "/commits/" not in key and self._wanted.get(key, digest) != digest:
                yield f"{key} has other bytes"
        yield from (f"fsck: {problem.key}: {problem.what}" for problem in fsck(root).problems)

    def _command(self, store: str) -> list[str]:
        return [str(ASSAY), "tag", str(self._corpus), "--store", store, "--id-column", "id", "--shard-mb", "1",
                "--workers", "2", "--device", "cpu"]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return assay_environment(self._folder / "home", OMP_NUM_THREADS="1")


def descendants(pid: int) -> list[int]:
    """The processes that `pid` started, and those that they did."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def command_line(pid: int) -> str:
    """How the process was started; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def kill(pid: int) -> None:
    """Kills a process that may be gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main())

"""fsck: checks every byte that a store or dataset names, and with `fix` takes away what keeps it from being redone.

A repair deletes records before what they name, so that no reader ever sees a record whose object is gone. It is for a
store at rest; the check alone is safe at any time.
"""

import time
from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field

from assay.flows.dataset_check import CLAIM, DatasetCheck
from assay.flows.progress import size
from assay.flows.store_check import StoreCheck
from assay.schemas.base import Model
from assay.schemas.errors import AssayError
from assay.workers.storage.log_check import Counts, Finding
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import STORE_MARKER, load_run, require_store, seal, write_marker

_LINE_EVERY_S = 20.0
_STRAYS = 20


class Problem(Model):
    """A finding as it is shown."""

    kind: Literal["damaged", "missing", "disagrees", "unsealed"]
    key: str
    what: str
    repair: str = Field(description="what --fix does about it; empty: nothing")


class CheckReport(Model):
    """What a check found. Without problems, every byte and row that a record names is there."""

    store: str
    dataset: bool
    commits: int
    objects: int
    bytes: int = Field(description="read and hashed")
    problems: tuple[Problem, ...]
    unfinished: tuple[str, ...] = Field(description="runs (or the dataset) with work to do: no damage")
    orphans: int = Field(description="objects that nothing names: no damage, `assay gc` removes old ones")
    strays: tuple[str, ...] = Field(description="some of the keys that aren't Assay's; they are left alone")
    repaired: tuple[str, ...] = Field((), description="what --fix did, in order")


def fsck(uri: str, *, fix: bool = False, progress: Callable[[str], None] | None = None) -> CheckReport:
    """Checks the store or dataset at `uri`; AssayError if it is neither, or in a format of another version."""
    store = ObjectStore(uri)
    dataset = not store.exists(STORE_MARKER) and store.exists(CLAIM)
    findings: list[Finding] = []
    if not dataset:
        findings += _marker(store)
    counts = Counts(_Reporter(progress) if progress else None)
    check = DatasetCheck(store, counts) if dataset else StoreCheck(store, counts)
    findings += check.run()
    repaired = _repair(store, findings) if fix else []
    return CheckReport(
        store=uri,
        dataset=dataset,
        commits=counts.commits,
        objects=counts.objects,
        bytes=counts.bytes,
        problems=tuple(Problem(kind=f.kind, key=f.key, what=f.what, repair=_words(f)) for f in findings),
        unfinished=tuple(check.unfinished),
        orphans=len(check.orphans),
        strays=tuple(check.strays[:_STRAYS]),
        repaired=tuple(repaired),
    )


def check_lines(report: CheckReport) -> list[str]:
    """The report in lines, and what to do next."""
    lines = [
        f"{report.store}: {report.commits:,} commits, {report.objects:,} objects, {size(report.bytes)} read and hashed"
    ]
    for problem in report.problems:
        lines.append(f"{problem.kind}: {problem.key}: {problem.what}")
        if problem.repair and not report.repaired:
            lines.append(f"  --fix {problem.repair}")
    lines += report.repaired
    if report.orphans:
        lines.append(f"{report.orphans:,} objects that nothing names: no damage; assay gc {report.store} lists them")
    lines += [f"not Assay's, left alone: {key}" for key in report.strays]
    for name in report.unfinished:
        again = "assay curate RECIPE" if report.dataset else f"assay retry {report.store} --run {name}"
        lines.append(f"unfinished: {name}; next: {again}")
    if not report.problems:
        lines.append("every byte and every row that a record names is there")
    return lines


class _Reporter:
    """A line every 20 s."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = time.monotonic()

    def __call__(self, counts: Counts) -> None:
        if time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            self._say(f"{counts.commits:,} commits, {counts.objects:,} objects, {size(counts.bytes)} checked")


def _marker(store: ObjectStore) -> Iterable[Finding]:
    if store.exists(STORE_MARKER):
        require_store(store)
    elif next(iter(store.list("runs")), None) is None:
        raise AssayError(
            "neither an Assay store nor a curated dataset", where=store.root, hint="name the folder that holds runs/"
        )
    else:
        yield Finding("missing", STORE_MARKER, "nothing marks the folder as a store")


def _repair(store: ObjectStore, findings: list[Finding]) -> list[str]:
    done = []
    keys = {key for finding in findings for key in finding.deletes}
    for key in sorted(keys, key=lambda key: (_rank(key), key)):
        store.delete(key)
        done.append(f"deleted {key}")
    for run in sorted({finding.seals for finding in findings} - {""}):
        stored = load_run(store, run)
        seal(store, stored.record, stored.corpus, stored.columns, stored.recomputed_from)
        done.append(f"sealed run {run}")
    if any(finding.key == STORE_MARKER for finding in findings):
        write_marker(store)
        done.append(f"wrote {STORE_MARKER}")
    return done


def _rank(key: str) -> int:
    """Manifests go first, then commits of tags, then those of features, then objects."""
    if key.endswith("manifest.json"):
        return 0
    if "/commits/" in key:
        return 1 if key.startswith("tags/") else 2
    return 3


def _words(finding: Finding) -> str:
    acts = [f"deletes {', '.join(finding.deletes)}"] if finding.deletes else []
    acts += [f"seals run {finding.seals}"] if finding.seals else []
    acts += ["writes it"] if finding.key == STORE_MARKER else []
    return " and ".join(acts)

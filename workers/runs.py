"""The tagging runs of a store: which there are, and what a finished one says of itself."""

from collections.abc import Iterator, Sequence

from pydantic import TypeAdapter

from assay.schemas.errors import AssayError
from assay.schemas.store import TagManifest, run_prefix, tags_prefix
from assay.schemas.tagger import Tagger
from assay.workers.storage.objects import ObjectStore

STORE_MARKER = "assay-store.json"
_TAGGERS = TypeAdapter(tuple[Tagger, ...])


def require_store(store: ObjectStore) -> None:
    """AssayError unless this is a store that tagging has made."""
    if not store.exists(STORE_MARKER):
        raise AssayError("no Assay store here", where=store.root, hint="`assay tag CORPUS --store STORE` makes one")


def load_manifest(store: ObjectStore, run: str | None = None) -> TagManifest:
    """A finished run's manifest; without `run`, the store's only one. AssayError lists the runs otherwise."""
    require_store(store)
    runs = list(list_runs(store))
    finished = [name for name, sealed in runs if sealed]
    if run is None and len(finished) == 1:
        run = finished[0]
    if run is None or run not in finished:
        what = f"no finished run {run!r}" if run else "no finished run" if not finished else "several finished runs"
        listed = ", ".join(f"{name}{'' if sealed else ' (unfinished)'}" for name, sealed in runs) or "none"
        raise AssayError(
            f"{what} in this store", where=store.root, hint=f"runs: {listed}; name one (--run, or run: in a recipe)"
        )
    return TagManifest.model_validate_json(store.read(f"{run_prefix(run)}/manifest.json"))


def list_runs(store: ObjectStore) -> Iterator[tuple[str, bool]]:
    """Every run of a store, and whether it has a manifest."""
    keys: Sequence[str] = sorted(store.list("runs"))
    sealed = {key.split("/")[1] for key in keys if key.endswith("/manifest.json")}
    for run in sorted({key.split("/")[1] for key in keys}):
        yield run, run in sealed


def read_taggers(store: ObjectStore, tagset: str) -> Sequence[Tagger]:
    """The taggers that a store's tag set was made with."""
    key = f"{tags_prefix(tagset)}/taggers.json"
    if not store.exists(key):
        raise AssayError(f"no record of tag set {tagset}", where=store.root)
    return _TAGGERS.validate_json(store.read(key))

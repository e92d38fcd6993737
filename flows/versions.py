"""Seals a dataset's next version: what is new in it, and the parts of earlier ones without what was taken down."""

import uuid
from concurrent.futures import ThreadPoolExecutor

from assay.flows.preparation import Prepared
from assay.schemas.curation import TakedownRecord, Tally, VersionRecord
from assay.schemas.errors import AssayError
from assay.schemas.store import StoredObject
from assay.workers.curating import CONTROL
from assay.workers.storage.objects import ObjectStore
from assay.workers.takedown import Rewritten, rewrite_part
from assay.workers.versions import Chain, version_folder

_THREADS = 4


def seal_version(
    prepared: Prepared, new: tuple[StoredObject, ...], kept_out: Tally, written: Tally, attempt: str
) -> tuple[TakedownRecord | None, VersionRecord | None]:
    """Rewrites earlier parts that hold taken-down documents, and records the takedown and the version.

    `new` are the parts written now, with keys relative to their folder. Both records are None where the recipe asks
    for neither.
    """
    listed, chain = prepared.listed, prepared.chain
    rewritten = _rewrite(prepared, chain) if chain is not None and listed is not None else {}
    takedown = None
    if listed is not None:
        takedown = TakedownRecord(
            sha256=listed.sha256,
            entries=len(listed.entries),
            new_documents=kept_out.documents,
            removed_rows=sum(r.rows for r in rewritten.values()),
            removed_tokens=sum(r.tokens for r in rewritten.values()),
            rewritten_parts=len(rewritten),
        )
    return takedown, None if chain is None else _record(prepared, chain, rewritten, new, written, attempt)


def _record(
    prepared: Prepared,
    chain: Chain,
    rewritten: dict[str, Rewritten],
    new: tuple[StoredObject, ...],
    written: Tally,
    attempt: str,
) -> VersionRecord:
    folder, names = version_folder(chain.next), prepared.job.recipe.source_names
    before = chain.versions[-1].manifest.version if chain.versions else None
    old = [rewritten[part.key].stored if part.key in rewritten else part for part in chain.parts]
    fresh = [part.model_copy(update={"key": f"{folder}/{part.key}"}) for part in new]
    parts = tuple(part for part in (*old, *fresh) if part.rows)
    rows, gone = sum(part.rows for part in parts), sum(r.rows for r in rewritten.values())
    if rows != (before.rows if before else 0) - gone + written.documents:
        raise AssayError(
            f"version {chain.next} holds {rows} rows, but {before.rows if before else 0} - {gone} + "
            f"{written.documents} are due",
            where=prepared.job.recipe.output.path,
            hint="this is a defect; the version has no manifest and should not be used",
        )
    lines = "".join(f"{names[unit.source]} {unit.entry.shard}\n" for unit in prepared.shards).encode()
    inputs = _root(prepared).create_named(
        f"{folder}/{CONTROL}", "inputs", ".txt", lines, len(prepared.shards), attempt=attempt
    )
    tokens = (before.tokens if before else 0) - sum(r.tokens for r in rewritten.values()) + written.tokens
    return VersionRecord(
        number=chain.next,
        base=chain.base,
        recipe=prepared.recipe_fingerprint,
        inputs=inputs,
        parts=parts,
        rows=rows,
        tokens=tokens,
    )


def _rewrite(prepared: Prepared, chain: Chain) -> dict[str, Rewritten]:
    """The key of each earlier part that holds a listed document -> the part without it, in this version's folder."""
    listed, root, recipe = prepared.listed, _root(prepared), prepared.job.recipe
    before = chain.versions[-1].manifest.takedown if chain.versions else None
    if listed is None or (before is not None and before.sha256 == listed.sha256):
        return {}
    folder, text = version_folder(chain.next), prepared.job.options[0].text_column

    def rewrite(part: StoredObject) -> Rewritten | None:
        key = f"{folder}/data/{part.key.replace('/data/', '-')}"
        return rewrite_part(root, part, key, listed, text, recipe.output, uuid.uuid4().hex[:12])

    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip((part.key for part in chain.parts), pool.map(rewrite, chain.parts), strict=True))
    return {key: made for key, made in found.items() if made is not None}


def _root(prepared: Prepared) -> ObjectStore:
    """The folder that holds all versions."""
    return ObjectStore(prepared.job.recipe.output.path.rpartition("/")[0])

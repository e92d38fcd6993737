"""The versions of a dataset: a chain of manifests under one path, each with the whole and what is new in it."""

import hashlib
from typing import NamedTuple

from assay.schemas.curation import CurationManifest
from assay.schemas.errors import AssayError
from assay.schemas.store import StoredObject
from assay.workers.curate_job import TaggedShard
from assay.workers.storage.objects import ObjectStore


class Version(NamedTuple):
    """A finished version."""

    manifest: CurationManifest
    sha256: str
    """of its manifest"""


class Chain(NamedTuple):
    """The finished versions of a dataset, in order."""

    versions: tuple[Version, ...]
    covered: frozenset[tuple[str, str]]
    """(source's name, shard id) that one of them took"""

    @property
    def next(self) -> int:
        """The number of the version after the last one."""
        return len(self.versions) + 1

    @property
    def base(self) -> str | None:
        """The hash of the last version's manifest."""
        return self.versions[-1].sha256 if self.versions else None

    @property
    def parts(self) -> tuple[StoredObject, ...]:
        """The last version's parts: the whole dataset as it is now."""
        last = self.versions[-1].manifest.version if self.versions else None
        return last.parts if last else ()


def version_folder(number: int) -> str:
    """Where a version lies below the dataset's path."""
    return f"v{number:05d}"


def read_chain(root: ObjectStore) -> Chain:
    """The finished versions under a dataset's path. AssayError if the chain is broken: a manifest was changed."""
    versions: list[Version] = []
    covered: set[tuple[str, str]] = set()
    while root.exists(key := f"{version_folder(len(versions) + 1)}/manifest.json"):
        data = root.read(key)
        manifest = CurationManifest.model_validate_json(data)
        record = manifest.version
        if record is None or record.base != (versions[-1].sha256 if versions else None):
            raise AssayError(
                "this version doesn't follow from the one before it",
                where=root.uri(key),
                hint="a manifest was changed or a version was deleted: restore it from a copy",
            )
        for line in root.read_verified(record.inputs).decode().splitlines():
            source, _, shard = line.partition(" ")
            covered.add((source, shard))
        versions.append(Version(manifest, hashlib.sha256(data).hexdigest()))
    return Chain(tuple(versions), frozenset(covered))


def is_new(chain: Chain, source_name: str, unit: TaggedShard) -> bool:
    """Whether no version took this shard yet."""
    return (source_name, unit.entry.shard) not in chain.covered

"""What a recipe's stores say: its sources' manifests, taggers and features, against which its words are checked."""

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from assay.schemas.calibration import load_calibration
from assay.schemas.errors import AssayError, StorageError
from assay.schemas.expression_types import NUMBERS, TEXTS, Vocabulary, did_you_mean
from assay.schemas.recipe import TaggedSource
from assay.schemas.store import ShardEntry, TagManifest, features_prefix
from assay.schemas.tagger import Tagger
from assay.schemas.yaml_file import Location
from assay.workers.corpora.columns import unify_columns
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import load_manifest, read_taggers


class Problem(NamedTuple):
    """A mistake at a place of a recipe; `at` is an offset in the expression that stands there."""

    location: Location
    message: str
    at: int | None = None


class Facts(NamedTuple):
    """What is known of a recipe's sources; a source whose store can't be read has no manifest."""

    manifests: tuple[TagManifest | None, ...]
    taggers: tuple[Tagger, ...] = ()
    watched: frozenset[tuple[int, int]] = frozenset()
    features: dict[int, int] = {}  # noqa: RUF012 - a NamedTuple's default is shared
    """hooked layer -> number of its SAE features"""
    unreachable: tuple[str, ...] = ()
    """stores that can't be reached now, and why"""

    @property
    def complete(self) -> bool:
        """Whether the taggers are known."""
        return bool(self.taggers)

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Label tagger -> its labels."""
        return {t.name: t.labels for t in self.taggers if t.kind == "label"}

    @property
    def columns(self) -> dict[str, str] | None:
        """The sources' columns, unified; None while a source isn't known."""
        known = [m.columns for m in self.manifests if m is not None]
        return unify_columns(known) if known and len(known) == len(self.manifests) else None

    def vocabulary(self, source_names: Sequence[str]) -> Vocabulary:
        """What the names of expressions stand for."""
        numbers = {t.name if t.kind == "score" else f"{t.name}_p" for t in self.taggers}
        texts = {name: tuple(source_names) if name == "source" else () for name in TEXTS}
        return Vocabulary(
            numbers=frozenset({*NUMBERS, *numbers}),
            texts={**texts, **self.labels},
            thresholds=frozenset(t.name for t in self.taggers if t.kind == "score"),
            layers=self.features,
            complete=self.complete,
        )


def load_facts(sources: Sequence[tuple[Location, TaggedSource]]) -> tuple[Facts, list[Problem]]:
    """What the sources' stores say, and what is wrong with the sources; a store out of reach is no mistake."""
    problems: list[Problem] = []
    unreachable: list[str] = []
    manifests: list[TagManifest | None] = []
    first: tuple[ObjectStore, TagManifest] | None = None
    for location, source in sources:
        manifest = None
        try:
            store = ObjectStore(source.store)
            manifest = load_manifest(store, source.run)
        except StorageError as e:
            unreachable.append(f"{source.store}: {e.what}")
        except AssayError as e:
            hint = f" ({e.hint})" if e.hint else ""
            problems.append(Problem((*location, "run" if source.run else "store"), f"{source.store}: {e.what}{hint}"))
        manifests.append(manifest)
        if manifest is None:
            continue
        first = first or (store, manifest)
        if manifest.tagset != first[1].tagset:
            message = (
                f"sources are tagged differently: {first[1].tagset} and {manifest.tagset}; tags of different models "
                "or taggers can't be mixed: tag both corpora with one scope"
            )
            problems.append(Problem((*location, "store"), message))
        for index, glob in enumerate(source.include):
            if not any(matches(glob, entry) for entry in manifest.shards):
                objects = len({entry.source.uri for entry in manifest.shards if entry.source})
                message = f"{glob!r} matches none of the {objects} input objects of {manifest.corpus}"
                problems.append(Problem((*location, "include", index), message))
    if first is None:
        return Facts(tuple(manifests), unreachable=tuple(unreachable)), problems
    store, manifest = first
    identity = json.loads(store.read(f"{features_prefix(manifest.features)}/identity.json"))
    return Facts(
        tuple(manifests),
        tuple(read_taggers(store, manifest.tagset)),
        frozenset((layer, feature) for layer, feature in identity["features"]["watched"]),
        dict.fromkeys(identity["encoder"]["layers"], identity["encoder"]["d_sae"]),
        tuple(unreachable),
    ), problems


def matches(glob: str, entry: ShardEntry) -> bool:
    """Whether a glob matches the URI of a shard's input object; * matches / as well."""
    return entry.source is not None and fnmatchcase(entry.source.uri, glob)


def included(source: TaggedSource, entry: ShardEntry) -> bool:
    """Whether a source uses this shard."""
    return not source.include or any(matches(glob, entry) for glob in source.include)


def thresholds(
    calibrations: Sequence[tuple[Location, str]], taggers: Sequence[Tagger]
) -> tuple[dict[str, float], list[Problem]]:
    """Score tagger -> its threshold, or that of a calibration file, and what is wrong with these files."""
    found = {t.name: t.threshold for t in taggers if t.kind == "score"}
    by_name, problems = {t.name: t for t in taggers}, []
    for location, path in calibrations:
        try:
            overlay = load_calibration(Path(path))
        except AssayError as e:
            problems.append(Problem(location, str(e)))
            continue
        if not taggers:
            continue
        tagger = by_name.get(overlay.tagger)
        if tagger is None or tagger.kind != "score":
            problems.append(Problem(location, f"no score {overlay.tagger!r}: {did_you_mean(overlay.tagger, found)}"))
        elif tagger.fingerprint != overlay.fingerprint:
            message = (
                f"it was set on tagger {overlay.tagger} {overlay.fingerprint}, the store has {tagger.fingerprint}: "
                "calibrate again"
            )
            problems.append(Problem(location, message))
        else:
            found[overlay.tagger] = overlay.threshold
    return found, problems

"""A curation's decisions, made once more: from a dataset's manifest and the tags that it was made from."""

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.flows.preparation import repeat_job
from assay.schemas.curation import CurationManifest
from assay.schemas.errors import AssayError
from assay.schemas.store import TagManifest
from assay.schemas.tagger import Tagger
from assay.workers.curate_job import CurateJob, TaggedShard
from assay.workers.rules import Decider
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import load_manifest, read_taggers


class Decided(NamedTuple):
    """What happened to the documents of a tagged shard."""

    tags: pa.Table
    verdict: NDArray[np.int32]
    """the index in Recipe.verdicts of what drops a document, or rules.KEPT"""
    copies: NDArray[np.int32]
    """how often it is in the dataset"""


class Curation:
    """A finished dataset, or a version of one, over the stores that still hold the tags it was made from."""

    def __init__(self, uri: str) -> None:
        """AssayError if there is no finished dataset at `uri`, or one of its sources can't be read."""
        self.store = ObjectStore(uri)
        if not self.store.exists("manifest.json"):
            raise AssayError(
                "no curated dataset here",
                where=uri,
                hint="`assay curate RECIPE` makes one; where there are versions, name the folder of one",
            )
        self.uri = uri
        self.manifest = CurationManifest.model_validate_json(self.store.read("manifest.json"))
        self.stores = tuple(ObjectStore(source.store) for source in self.manifest.recipe.sources)
        self.runs: tuple[TagManifest, ...] = tuple(
            load_manifest(store, lineage.run) for store, lineage in zip(self.stores, self.manifest.sources, strict=True)
        )

    @cached_property
    def taggers(self) -> tuple[Tagger, ...]:
        """The taggers behind the tags."""
        return tuple(read_taggers(self.stores[0], self.runs[0].tagset))

    @property
    def units(self) -> list[TaggedShard]:
        """The tagged shards that were taken, in corpus order; unreadable ones are left out."""
        return self._job[1]

    def decide(self, unit: TaggedShard, columns: Iterable[str] = ()) -> Decided:
        """The decisions on a shard, with `columns` of its tags beside those that the recipe reads."""
        documents = self._decider.documents(unit, sorted({*self._decider.columns, *columns}))
        verdicts = self._decider.decide(documents)
        return Decided(documents.tags, verdicts.by, verdicts.copies)

    @cached_property
    def _job(self) -> tuple[CurateJob, list[TaggedShard]]:
        return repeat_job(self.manifest)

    @cached_property
    def _decider(self) -> Decider:
        return Decider(self._job[0])

"""Applies taggers to a shard's stored features: no model, no corpus, and the objects that tagging would write."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from assay.schemas.corpus import Shard
from assay.schemas.errors import AssayError
from assay.schemas.store import ShardCommit, features_prefix
from assay.schemas.tagger import Tagger
from assay.workers.shard_tags import TagWriter
from assay.workers.storage.commits import CommitLog
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagger_set import TaggerSet


class ApplyJob(NamedTuple):
    """Everything that an applying worker needs; small and picklable."""

    store: str
    taggers: tuple[Tagger, ...]
    encoder: str
    features: str
    """fingerprint of the stored features"""
    watched: tuple[tuple[int, int], ...]
    """(layer, feature) pairs that those features hold for every document"""

    def tagger_set(self) -> TaggerSet:
        """The taggers, checked against the encoder."""
        return TaggerSet(self.taggers, self.encoder, self.watched)


class ShardApplier:
    """Tags shard after shard from features, a row group in memory at a time."""

    def __init__(self, job: ApplyJob) -> None:
        store, taggers = ObjectStore(job.store), job.tagger_set()
        self._features = CommitLog(store, features_prefix(job.features))
        self._writer = TagWriter(store, taggers, taggers.fingerprint(job.features))

    def process(self, shard: Shard, attempt: str) -> ShardCommit:
        """Tags `shard` unless its commit exists; returns the commit that counts. AssayError if it has no features."""
        started = time.monotonic()
        done = self._writer.log.find(shard.id)
        if done is not None:
            return done
        features = self._features.find(shard.id)
        if features is None:
            raise missing_features([shard.id], self._features.store.root)
        return self._writer.from_features(features, attempt, started)


def missing_features(shards: Iterable[str], where: str) -> AssayError:
    """The error for shards that can't be tagged from the store alone."""
    listed = sorted(shards)
    return AssayError(
        f"{len(listed):,} shards have no stored features, among them {listed[0]}",
        where=where,
        hint="`assay tag` with this corpus and scope makes them, and tags in the same go",
    )

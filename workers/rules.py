"""A recipe applied to a shard's tags: each document is dropped by one rule or stage, or kept in so many copies."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.curation import StageTally
from assay.schemas.expression import Feature, Name, Node, parse_expression, walk
from assay.schemas.recipe import Recipe
from assay.workers.curate_job import CurateJob, TaggedShard, load_columns
from assay.workers.expressions import Interval, Mask, Texts, known, numbers, truth
from assay.workers.ranking import HashCache, Keys, hash_keys, score_keys
from assay.workers.storage.objects import ObjectStore

KEPT = -1
REST = ""
"""the stratum of documents whose value a mixture doesn't list, or of all where there are no strata"""
_GIVEN = ("source", "object")


class ShardDocuments:
    """A shard's documents as expressions see them; features are read only when an expression asks for one."""

    def __init__(
        self, job: CurateJob, unit: TaggedShard, store: ObjectStore, tags: pa.Table, hashes: HashCache | None = None
    ) -> None:
        """`tags` are the whole shard's, with the columns that the recipe reads."""
        self._job, self._unit, self._store, self._hashes = job, unit, store, hashes
        self.tags = tags

    @property
    def rows(self) -> int:
        return self.tags.num_rows

    def is_number(self, name: str) -> bool:
        return name not in (*_GIVEN, "id", *self._job.labels)

    def number(self, name: str) -> Interval:
        return known(self.tags[name])

    def text(self, name: str) -> Texts:
        if name == "source":
            return pa.repeat(pa.scalar(self._job.recipe.source_names[self._unit.source]), self.rows)
        if name == "object":
            return pa.repeat(pa.scalar(self._unit.uri), self.rows)
        return self.tags["doc_id" if name == "id" else name]

    def threshold(self, tagger: str) -> float:
        return self._job.thresholds[tagger]

    def feature(self, feature: Feature) -> Interval:
        """The pooled value: exact where it is stored, else between 0 and what the document's floor allows."""
        names = [f"l{feature.layer}_{part}" for part in ("ids", feature.part, "floor")]
        table = load_columns(self._store, self._unit.entry, "features", [*names, "tokens_seen"])
        ids = table[names[0]].combine_chunks()
        documents = np.repeat(np.arange(self.rows), ids.value_lengths().to_numpy(zero_copy_only=False))
        found = np.flatnonzero(ids.flatten().to_numpy(zero_copy_only=False) == feature.feature)
        values = table[names[1]].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        low, high = np.zeros(self.rows), np.zeros(self.rows)
        if (feature.layer, feature.feature) not in self._job.watched:
            floor = table[names[2]].to_numpy().astype(np.float64)
            most = table["tokens_seen"].to_numpy().astype(np.float64) if feature.part == "count" else floor
            high = np.where(floor > 0, most, 0.0)
        low[documents[found]] = high[documents[found]] = values[found]
        return Interval(low, high)

    @cached_property
    def hashes(self) -> Keys:
        """A key each by hash of the id."""
        found = self._hashes.find(self._unit.id) if self._hashes else None
        if found is None:
            found = hash_keys(self.tags["doc_id"], self._job.recipe.seed)
            if self._hashes:
                self._hashes.keep(self._unit.id, found)
        return found


class StageView(NamedTuple):
    """How a stage sees the documents that reached it."""

    rows: NDArray[np.int64]
    """their places in the shard"""
    stratum: NDArray[np.int32]
    """index into the stage's strata"""
    key: Keys
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]


class Verdicts(NamedTuple):
    """What happens to the documents of a shard."""

    by: NDArray[np.int32]
    """KEPT, or the index in Recipe.verdicts of what drops it"""
    copies: NDArray[np.int32]
    """how often it is written; 0: dropped"""
    matches: tuple[Mask, ...]
    """for each rule: whether it would drop the document alone"""
    unknown: tuple[Mask, ...]
    """for each rule: whether it couldn't be decided"""
    views: tuple[StageView, ...]
    """one for each stage of the job"""
    after: tuple[NDArray[np.int32], ...]
    """for each stage the copies of the documents of its view"""


class Decider:
    """Decides over documents, shard by shard; the same job gives the same verdicts anywhere."""

    def __init__(self, job: CurateJob, hashes: HashCache | None = None) -> None:
        self._job, self._hashes = job, hashes
        self._stores = [ObjectStore(source.store) for source in job.recipe.sources]
        self._rules = [(parse_expression(rule.drop_if), rule.undecided == "drop") for rule in job.recipe.rules]
        sample = job.recipe.sample
        self._top = parse_expression(sample.top) if sample and sample.top is not None else None

    @property
    def columns(self) -> list[str]:
        """The columns of the tags table that the recipe reads."""
        recipe = self._job.recipe
        names = {*names_read([tree for tree, _ in self._rules]), *names_read([self._top] if self._top else [])}
        strata = {stage.within for stage in [recipe.sample] if stage} | {m.by for m in [recipe.mixture] if m}
        names |= {name for name in strata if name}
        by_id = recipe.sample or recipe.mixture or "id" in names or self._job.taken_down
        hashed = {"doc_id"} if by_id else set()
        return sorted({"n_tokens", "n_bytes", *hashed, *(names - {"id", *_GIVEN})})

    def documents(self, unit: TaggedShard, columns: Sequence[str] | None = None) -> ShardDocuments:
        """The shard's documents, read with `columns` (by default those that the recipe reads)."""
        store = self._stores[unit.source]
        tags = load_columns(store, unit.entry, "tags", self.columns if columns is None else columns)
        return ShardDocuments(self._job, unit, store, tags, self._hashes)

    def decide(self, documents: ShardDocuments) -> Verdicts:
        """The verdict on each document, by the rules and by those stages whose cuts the job knows."""
        n, recipe = documents.rows, self._job.recipe
        by = np.full(n, KEPT, np.int32)
        if self._job.taken_down:
            listed = pa.compute.is_in(documents.tags["doc_id"], value_set=pa.array(sorted(self._job.taken_down)))
            by[listed.to_numpy()] = recipe.verdicts.index("takedown")
        matches, unknown = [], []
        for index, (tree, drop_undecided) in enumerate(self._rules):
            holds = truth(tree, documents)
            open_ = ~(holds.yes | holds.no)
            match = holds.yes | open_ if drop_undecided else holds.yes
            by[match & (by == KEPT)] = index
            matches.append(match)
            unknown.append(open_)
        copies = (by == KEPT).astype(np.int32)
        views, after = [], []
        for stage in self._job.stages:
            view = self.view(stage.name, documents, copies)
            after.append(_copies(stage, view))
            copies[view.rows] = after[-1]
            by[view.rows[after[-1] == 0]] = recipe.verdicts.index(stage.name)
            views.append(view)
        return Verdicts(by, copies, tuple(matches), tuple(unknown), tuple(views), tuple(after))

    def view(self, stage: str, documents: ShardDocuments, copies: NDArray[np.int32]) -> StageView:
        """What a stage sees: the documents with copies, each with its stratum and key."""
        rows = np.flatnonzero(copies)
        names = strata_of(self._job.recipe, stage, self._job.labels)
        by = stratified_by(self._job.recipe, stage)
        if by is None:
            stratum = np.zeros(len(rows), np.int32)
        else:
            places = pa.compute.index_in(documents.text(by), value_set=pa.array(names, pa.string()))
            rest = names.index(REST)
            stratum = pa.chunked_array([places] if isinstance(places, pa.Array) else places.chunks, pa.int32())
            stratum = stratum.fill_null(rest).to_numpy()[rows].astype(np.int32)
        key = documents.hashes
        if stage == "sample" and self._top is not None:
            key = score_keys(numbers(self._top, documents), key)
        tokens, sizes = (documents.tags[name].to_numpy().astype(np.int64)[rows] for name in ("n_tokens", "n_bytes"))
        return StageView(rows, stratum, key[rows], tokens, sizes)


def names_read(trees: Sequence[Node]) -> set[str]:
    """The names that expressions read."""
    return {node.name for tree in trees for node in walk(tree) if isinstance(node, Name)}


def stratified_by(recipe: Recipe, stage: str) -> str | None:
    """The label tag by which a stage tells documents apart, or "source"."""
    if stage == "mixture":
        return recipe.mixture.by if recipe.mixture else None
    return recipe.sample.within if recipe.sample else None


def strata_of(recipe: Recipe, stage: str, labels: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The strata of a stage; the last one is for all other documents."""
    if stage == "mixture" and recipe.mixture:
        return (*recipe.mixture.shares, REST)
    by = stratified_by(recipe, stage)
    return (*(recipe.source_names if by == "source" else labels[by] if by else ()), REST)


def _copies(stage: StageTally, view: StageView) -> NDArray[np.int32]:
    """How often each document is written: a whole number for all of a stratum, one more up to the cut."""
    whole = np.array([s.whole for s in stage.strata], np.int32)
    cut = np.array([int(s.cut, 16) if s.cut else 0 for s in stage.strata], np.uint64)
    some = np.array([s.cut is not None for s in stage.strata])
    return whole[view.stratum] + (some[view.stratum] & (view.key <= cut[view.stratum]))

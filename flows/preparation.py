"""What a curation starts from: the checked recipe, the shards that it takes, and the versions that there are."""

from pathlib import Path
from typing import NamedTuple

from assay.flows.recipe_facts import included
from assay.flows.recipes import check
from assay.schemas.curation import CurationManifest, SourceLineage, curation_fingerprint, recipe_fingerprint
from assay.schemas.errors import AssayError
from assay.schemas.parameters import CurateParameters
from assay.schemas.recipe import Recipe
from assay.schemas.store import TagManifest
from assay.workers.corpora.columns import unify_columns
from assay.workers.curate_job import CurateJob, TaggedShard
from assay.workers.curating import output_schema
from assay.workers.storage.objects import ObjectStore
from assay.workers.takedown import TakedownList, read_takedown
from assay.workers.versions import Chain, is_new, read_chain, version_folder


class Prepared(NamedTuple):
    """All that is known before a tag is read."""

    job: CurateJob
    """its output path is the version's, where there are versions"""
    manifests: tuple[TagManifest, ...]
    lineage: tuple[SourceLineage, ...]
    shards: tuple[TaggedShard, ...]
    """those that the recipe takes now, in corpus order; such as could not be read are among them"""
    recipe_fingerprint: str
    listed: TakedownList | None
    chain: Chain | None
    """the finished versions, where the output has versions"""

    @property
    def nothing_new(self) -> bool:
        """Whether the last version is what a next one would be."""
        if self.chain is None or not self.chain.versions or self.shards:
            return False
        before = self.chain.versions[-1].manifest.takedown
        return (before.sha256 if before else None) == (self.listed.sha256 if self.listed else None)


def prepare(parameters: CurateParameters) -> Prepared:
    """Reads the sources' manifests and checks the recipe against them; AssayError before anything is written."""
    recipe = parameters.recipe
    checked = check(recipe, parameters.where)
    manifests = tuple(m for m in checked.facts.manifests if m is not None)
    listed = read_takedown(Path(recipe.takedown)) if recipe.takedown else None
    chain = read_chain(ObjectStore(recipe.output.path)) if recipe.output.versions else None
    shards = tuple(
        unit
        for unit in included_shards(recipe, manifests)
        if chain is None or is_new(chain, recipe.source_names[unit.source], unit)
    )
    lineage = tuple(_lineage(index, recipe, manifest, shards) for index, manifest in enumerate(manifests))
    name = recipe_fingerprint(recipe, lineage, checked.thresholds)
    if chain is not None:
        _require_same_recipe(chain, name, recipe)
        path = f"{recipe.output.path.rstrip('/')}/{version_folder(chain.next)}"
        recipe = recipe.model_copy(update={"output": recipe.output.model_copy(update={"path": path})})
    job = CurateJob(
        recipe=recipe,
        fingerprint=curation_fingerprint(
            name, lineage, listed.sha256 if listed else None, chain.base if chain else None
        ),
        options=tuple(m.options for m in manifests),
        tag_columns=manifests[0].taggers,
        columns=unify_columns(m.columns for m in manifests),
        labels=checked.facts.labels,
        thresholds=checked.thresholds,
        watched=checked.facts.watched,
    )
    output_schema(job)
    return Prepared(job, manifests, lineage, shards, name, listed, chain)


def included_shards(recipe: Recipe, manifests: tuple[TagManifest, ...]) -> list[TaggedShard]:
    """The shards of the recipe's sources, in corpus order; such as could not be read are among them."""
    return [
        TaggedShard(s, i, entry)
        for s, (source, manifest) in enumerate(zip(recipe.sources, manifests, strict=True))
        for i, entry in enumerate(manifest.shards)
        if included(source, entry)
    ]


def repeat_job(manifest: CurationManifest) -> tuple[CurateJob, list[TaggedShard]]:
    """The job as it was when a dataset was written, and the shards that it took: its verdicts are the same again.

    The stores must still be there. Documents on a takedown list by the hash of their text are not known.
    """
    sources = tuple(
        source.model_copy(update={"run": lineage.run})
        for source, lineage in zip(manifest.recipe.sources, manifest.sources, strict=True)
    )
    recipe = manifest.recipe.model_copy(update={"sources": sources, "calibrations": ()})
    facts = check(recipe, manifest.recipe.name).facts
    manifests = tuple(m for m in facts.manifests if m is not None)
    listed = read_takedown(Path(recipe.takedown)).ids if recipe.takedown and Path(recipe.takedown).exists() else ()
    job = CurateJob(
        recipe=recipe,
        fingerprint=manifest.fingerprint,
        options=tuple(m.options for m in manifests),
        tag_columns=manifests[0].taggers,
        columns=unify_columns(m.columns for m in manifests),
        labels=facts.labels,
        thresholds=manifest.thresholds,
        watched=facts.watched,
        stages=manifest.stages,
        taken_down=frozenset(listed),
    )
    units = [unit for unit in included_shards(recipe, manifests) if not unit.entry.unreadable]
    if manifest.version is not None:
        root = ObjectStore(recipe.output.path.rpartition("/")[0])
        taken = set(root.read_verified(manifest.version.inputs).decode().splitlines())
        units = [u for u in units if f"{recipe.source_names[u.source]} {u.entry.shard}" in taken]
    return job, units


def _lineage(index: int, recipe: Recipe, manifest: TagManifest, shards: tuple[TaggedShard, ...]) -> SourceLineage:
    taken = [unit for unit in shards if unit.source == index]
    return SourceLineage(
        store=recipe.sources[index].store,
        run=manifest.run,
        corpus=manifest.corpus,
        encoder=manifest.encoder,
        tagset=manifest.tagset,
        shards=len(taken),
        unreadable_shards=sum(bool(unit.entry.unreadable) for unit in taken),
    )


def _require_same_recipe(chain: Chain, name: str, recipe: Recipe) -> None:
    first = chain.versions[0].manifest.version if chain.versions else None
    if first is not None and first.recipe != name:
        raise AssayError(
            f"the versions there are of another recipe ({first.recipe}, this one is {name})",
            where=recipe.output.path,
            hint="what a recipe decided is never taken back: set output.path to a new folder for a changed recipe",
        )

"""Answers why a document is, or isn't, in a curated dataset: from its manifest, and the tags that it names."""

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from assay.flows.preparation import repeat_job
from assay.schemas.base import Model
from assay.schemas.curation import CurationManifest
from assay.schemas.errors import AssayError, printable
from assay.schemas.expression import Feature, Name, Node, Threshold, parse_expression, walk
from assay.workers.curate_job import CurateJob, TaggedShard, load_columns
from assay.workers.curating import tag_names
from assay.workers.expressions import truth
from assay.workers.in_order import in_order
from assay.workers.rules import KEPT, Decider, ShardDocuments, strata_of
from assay.workers.storage.objects import ObjectStore
from assay.workers.versions import read_chain


class RuleAnswer(Model):
    """What one rule says of the document."""

    name: str
    reason: str
    drop_if: str
    holds: Literal["true", "false", "unknown"]
    values: dict[str, str]
    """what its expression reads, as it stands there -> its value"""


class StageAnswer(Model):
    """What one stage does with the document, once the rules left it."""

    name: str
    stratum: str
    key: str
    cut: str | None
    """the largest key that gets one copy more than `whole`"""
    whole: int
    copies: int


class Answer(Model):
    """Why one document is in a dataset or not."""

    doc_id: str
    dataset: str
    verdict: str
    """kept, or the rule or stage that drops it"""
    copy_of: str | None
    """of a copy the id of the document that stays, of a contaminated document the benchmark's item"""
    copies: int
    object: str
    row: int
    rules: tuple[RuleAnswer, ...]
    stages: tuple[StageAnswer, ...]


def why(dataset: str, doc_id: str) -> list[Answer]:
    """An answer for each document with that id; `dataset` is its folder, or that of all its versions.

    AssayError if no shard that the dataset was made from has the id.
    """
    answers = [answer for root, manifest in _manifests(dataset) for answer in _answers(root, manifest, doc_id)]
    if not answers:
        raise AssayError(
            f"no document {printable(doc_id)!r} in what this dataset was made from",
            where=dataset,
            hint="it was not there when the corpus was tagged, or its record is in the store's quarantine",
        )
    return answers


def _manifests(dataset: str) -> Iterator[tuple[str, CurationManifest]]:
    store = ObjectStore(dataset)
    if store.exists("manifest.json"):
        yield dataset, CurationManifest.model_validate_json(store.read("manifest.json"))
        return
    versions = read_chain(store).versions
    if not versions:
        raise AssayError("no curated dataset here", where=dataset, hint="it is finished when it has a manifest.json")
    for version in versions:
        yield version.manifest.recipe.output.path, version.manifest


def _answers(root: str, manifest: CurationManifest, doc_id: str) -> Iterator[Answer]:
    job, units = repeat_job(manifest, root)
    stores = [ObjectStore(source.store) for source in job.recipe.sources]

    def find(unit: TaggedShard) -> list[int]:
        ids = load_columns(stores[unit.source], unit.entry, "tags", ["doc_id"])["doc_id"]
        return [int(i) for i in pc.indices_nonzero(pc.equal(ids, doc_id)).to_pylist()]

    decider = Decider(job)
    for unit, places in zip(units, in_order(find, units), strict=True):
        if places:
            columns = {*decider.columns, "doc_id", "row", *tag_names(job.tag_columns)}
            documents = decider.documents(unit, sorted(columns))
            yield from (_answer(root, job, decider, documents, unit, place) for place in places)


def _answer(
    root: str, job: CurateJob, decider: Decider, documents: ShardDocuments, unit: TaggedShard, place: int
) -> Answer:
    verdicts, recipe = decider.decide(documents), job.recipe
    by = int(verdicts.by[place])
    rules = []
    for rule in recipe.rules:
        tree = parse_expression(rule.drop_if)
        holds = truth(tree, documents)
        said: Literal["true", "false", "unknown"] = (
            "true" if holds.yes[place] else "false" if holds.no[place] else "unknown"
        )
        values = dict(_value(node, documents, job, place) for node in walk(tree) if isinstance(node, _READ))
        rules.append(RuleAnswer(name=rule.name, reason=rule.reason, drop_if=rule.drop_if, holds=said, values=values))
    stages = []
    for stage, view, after in zip(job.stages, verdicts.views, verdicts.after, strict=True):
        for index in (view.rows == place).nonzero()[0]:
            cut = stage.strata[view.stratum[index]]
            stages.append(
                StageAnswer(
                    name=stage.name,
                    stratum=strata_of(recipe, stage.name, job.labels)[view.stratum[index]],
                    key=f"{int(view.key[index]):016x}",
                    cut=cut.cut,
                    whole=cut.whole,
                    copies=int(after[index]),
                )
            )
    return Answer(
        doc_id=documents.tags["doc_id"][place].as_py(),
        dataset=root,
        verdict="kept" if by == KEPT else recipe.verdicts[by],
        copy_of=job.copies.stays(unit.id).get(documents.tags["row"][place].as_py()) if job.copies else None,
        copies=int(verdicts.copies[place]),
        object=unit.uri,
        row=documents.tags["row"][place].as_py(),
        rules=tuple(rules),
        stages=tuple(stages),
    )


_READ = (Name, Feature, Threshold)


def _value(node: Node, documents: ShardDocuments, job: CurateJob, place: int) -> tuple[str, str]:
    """What a name, feature or threshold is for the document, as text."""
    if isinstance(node, Threshold):
        return f'threshold("{node.tagger}")', f"{job.thresholds[node.tagger]:g}"
    if isinstance(node, Feature):
        between = documents.feature(node)
        low, high = float(between.low[place]), float(between.high[place])
        name = f"feature({node.layer}, {node.feature})" + (f".{node.part}" if node.part != "max" else "")
        return name, f"{low:g}" if low == high else f"unknown, {low:g} to {high:g}"
    assert isinstance(node, Name)  # noqa: S101 - one of _READ
    if documents.is_number(node.name):
        value: Any = documents.tags[node.name][place].as_py()
        return node.name, "unknown" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    texts: pa.Array | pa.ChunkedArray = documents.text(node.name)
    value = texts[place].as_py()
    return node.name, "unknown" if value is None else value


def answer_lines(answer: Answer) -> list[str]:
    """The answer for a reader: the verdict first, then what each rule and stage saw."""
    a = answer
    verdict = (
        f"kept, {a.copies} copies" if a.copies > 1 else "kept" if a.verdict == "kept" else f"dropped by {a.verdict}"
    )
    reason = next((f": {rule.reason}" for rule in a.rules if rule.name == a.verdict), "")
    if a.copy_of is not None:
        reason = f": holds text of {a.copy_of}" if a.verdict == "decontaminate" else f": {a.copy_of} stays in its place"
    lines = [f"{a.doc_id}: {verdict}{reason}", f"  row {a.row} of {a.object}", f"  dataset {a.dataset}"]
    for rule in a.rules:
        values = ", ".join(f"{name} = {value}" for name, value in rule.values.items())
        lines.append(f"  rule {rule.name} is {rule.holds}: {rule.drop_if}")
        lines.append(f"    {values}")
    for stage in a.stages:
        side = (
            "no cut" if stage.cut is None else f"cut {stage.cut}, {'taken' if stage.key <= stage.cut else 'beyond it'}"
        )
        of = f" of {stage.stratum}" if stage.stratum else ""
        lines.append(f"  {stage.name}{of}: {stage.copies} copies ({stage.whole} for all; key {stage.key}, {side})")
    return lines

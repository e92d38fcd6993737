"""fit_tagger: labelled documents in, one tagger with its evidence out; features are made or read from a store."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefect import flow

from assay.flows.engine import run_flow
from assay.flows.progress import stderr
from assay.flows.scopes import load_scope, resolve_scope
from assay.flows.tag import tag_corpus
from assay.sae_runtime.runtime import Runtime
from assay.schemas.base import fingerprint
from assay.schemas.errors import AssayError
from assay.schemas.parameters import FitParameters, TagParameters
from assay.schemas.store import TagManifest, run_prefix
from assay.schemas.tagger import FeatureWeight, Tagger
from assay.taggers.examples import Example, LabelledSet
from assay.taggers.fitting import fit, pose, read_target
from assay.taggers.sources import read_definition
from assay.taggers.stored import Stored
from assay.taggers.target import describe
from assay.taggers.tokens import with_tokens
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import list_runs, load_manifest

_ALL_FEATURES = 1_000_000
Say = Callable[[str], None]


class FitReport(NamedTuple):
    """A fitted tagger, and what became of the documents."""

    tagger: Tagger
    lines: list[str]


@flow(name="fit-tagger", flow_run_name="fit {parameters.definition.name}", persist_result=False)
def fit_tagger(parameters: FitParameters) -> FitReport:
    """Reads the labels, finds or makes the features, and fits; interrupted, the features that are made are kept."""
    say: Say = stderr().print
    definition = parameters.definition
    labelled = read_definition(definition, Path(parameters.data) if parameters.data else None)
    target = read_target(labelled.examples, definition)  # wrong labels are an error before the model runs
    say(f"{len(labelled.examples):,} examples; {describe(target, inferred=definition.kind is None)}")
    if parameters.store:
        stored, examples = _stored_features(labelled.examples, parameters)
    else:
        stored, examples = _made_features(labelled.examples, parameters)
    lost = len(labelled.examples) - len(examples)
    problem = pose(examples, stored, definition)
    cut = int(stored.documents.cut_N.sum())
    lines = [
        *labelled.lines(),
        f"examples {len(labelled.examples):,} = with features {len(examples):,} + not found {lost:,}",
        describe(problem.target, inferred=definition.kind is None),
    ]
    if cut:
        lines.append(
            f"{cut:,} of {len(examples):,} documents ({cut / len(examples):.0%}) lack features below their floor, "
            "which were taken for absent; texts alone (without --store) keep every feature"
        )
    tagger = fit(
        problem, definition, _record(labelled, lost, parameters), say=say, explain=_explainer(stored, parameters)
    )
    return FitReport(tagger, lines)


def _made_features(examples: Sequence[Example], parameters: FitParameters) -> tuple[Stored, tuple[Example, ...]]:
    """Features by the tagging flow, every one kept; a text that the work folder knows is not run again."""
    work = Path(parameters.work)
    work.mkdir(parents=True, exist_ok=True)
    scope = load_scope(parameters.scope)
    changes: dict[str, Any] = {
        "name": f"{scope.name}-whole", "top_m": _ALL_FEATURES, "taggers": None, "residuals": parameters.residuals,
    }  # fmt: skip
    if not set(parameters.layers) <= set(scope.layers):
        # Another encoder, so that the tagger needs a scope with these layers; fewer layers need none.
        changes["layers"] = tuple(sorted({*scope.layers, *parameters.layers}))
    whole = work / f"scope-{fingerprint([scope.model_dump(mode='json'), changes])}.yaml"
    whole.write_text(json.dumps(scope.model_copy(update=changes).model_dump(mode="json")), "utf-8")
    features = fingerprint(resolve_scope(str(whole), device=parameters.device).features)
    store = ObjectStore(str(work / "store"))
    texts = {_text_id(example.text): example.text for example in examples}
    known = _known(store, features, texts)
    missing = sorted(set(texts) - known)
    if missing:
        corpus = work / f"texts-{fingerprint(missing)}.jsonl"
        if not corpus.exists():
            lines = "".join(json.dumps({"id": id, "text": texts[id]}, ensure_ascii=False) + "\n" for id in missing)
            unfinished = corpus.with_suffix(".part")
            unfinished.write_text(lines, "utf-8")
            unfinished.replace(corpus)
        run_flow(
            tag_corpus,
            TagParameters(
                corpus=str(corpus),
                store=str(work / "store"),
                scope=str(whole),
                id_column="id",
                device=parameters.device,
                workers=parameters.workers,
                ray_address=parameters.ray_address,
                threads=parameters.threads,
            ),
        )
    manifests = _manifests(store, features)
    named = [(_text_id(example.text), example) for example in examples]
    return _with_features(store, manifests, named, parameters.layers)


def _stored_features(examples: Sequence[Example], parameters: FitParameters) -> tuple[Stored, tuple[Example, ...]]:
    """Features of a tagged store, found by document id."""
    assert parameters.store is not None  # noqa: S101 - the caller asks
    store = ObjectStore(parameters.store)
    manifest = load_manifest(store, parameters.run)
    named = [(example.id, example) for example in examples]
    stored, found = _with_features(store, [manifest], named, parameters.layers)
    if not found:
        raise AssayError(
            f"none of the {len(examples):,} labelled documents is in this run",
            where=parameters.store,
            hint="documents are found by id: name the column that both have with --id-column",
        )
    return stored, found


def _with_features(
    store: ObjectStore,
    manifests: Sequence[TagManifest],
    named: Sequence[tuple[str, Example]],
    layers: Sequence[int],
) -> tuple[Stored, tuple[Example, ...]]:
    stored = Stored(store, manifests, {id: place for place, (id, _) in enumerate(named)}, layers)
    if stored.documents.found_N.all():
        return stored, tuple(example for _, example in named)
    kept = [pair for pair, found in zip(named, stored.documents.found_N, strict=True) if found]
    stored = Stored(store, manifests, {id: place for place, (id, _) in enumerate(kept)}, layers)
    return stored, tuple(example for _, example in kept)


def _known(store: ObjectStore, features: str, texts: dict[str, str]) -> set[str]:
    manifests = _manifests(store, features)
    if not manifests:
        return set()
    ids = sorted(texts)
    found = Stored(store, manifests, {id: place for place, id in enumerate(ids)}).documents.found_N
    return {id for id, here in zip(ids, found, strict=True) if here}


def _manifests(store: ObjectStore, features: str) -> list[TagManifest]:
    sealed = [run for run, finished in list_runs(store) if finished]
    read = [TagManifest.model_validate_json(store.read(f"{run_prefix(run)}/manifest.json")) for run in sealed]
    return [manifest for manifest in read if manifest.features == features]


def _explainer(stored: Stored, parameters: FitParameters) -> Callable[..., tuple[FeatureWeight, ...]] | None:
    if not parameters.tokens:
        return None

    def explain(features: Sequence[FeatureWeight], texts: Sequence[str]) -> tuple[FeatureWeight, ...]:
        return with_tokens(features, texts, Runtime(stored.scope, device=parameters.device))

    return explain


def _record(labelled: LabelledSet, lost: int, parameters: FitParameters) -> dict[str, Any]:
    return {
        "definition": fingerprint(parameters.definition),
        "license": parameters.definition.license,
        "rows": {"in": labelled.rows_in, "taken": labelled.rows_taken, **labelled.rows_left_out},
        "texts": {"made": labelled.texts_made, "examples": len(labelled.examples), **labelled.texts_left_out},
        "not_found": lost,
        "seed": parameters.definition.seed,
    }


def _text_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]

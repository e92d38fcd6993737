"""One tagger from labelled documents with stored features: what is tried, what is kept, and what it is worth."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from assay.schemas.definition import Definition, WeightBy
from assay.schemas.errors import AssayError
from assay.schemas.tagger import FeatureWeight, Tagger
from assay.taggers import any_of, baselines, dense, linear
from assay.taggers.evidence import gather
from assay.taggers.examples import Example
from assay.taggers.learning_curve import learning_curve
from assay.taggers.matrix import POOLINGS, Matrix
from assay.taggers.problem import Fitted, Problem
from assay.taggers.screening import Screen, screen
from assay.taggers.splits import complete_splits, shared_groups
from assay.taggers.stored import Stored
from assay.taggers.target import Target, make_target

Say = Callable[[str], None]
Explain = Callable[[Sequence[FeatureWeight], Sequence[str]], tuple[FeatureWeight, ...]]
# Not F1 for a yes or no: where most documents are positive, a rule that always says yes has the best one.
_HEADLINES = {"binary": "auroc", "multiclass": "macro_f1", "regression": "spearman"}
_THRESHOLD_RULES = {
    "any_of": "none: any firing is a yes",
    "binary": "largest F1 on validation documents",
    "regression": "the middle of the labels' scale",
    "multiclass": "",
}


def pose(examples: Sequence[Example], stored: Stored, definition: Definition) -> Problem:
    """The problem that a definition poses: labels as numbers, splits, and weights.

    AssayError where a split lacks a label, or the method doesn't fit the labels.
    """
    target = read_target(examples, definition)
    groups = [example.group for example in examples]
    splits = complete_splits(
        [example.split for example in examples], groups, [str(s) for s in target.stratum_N], definition.seed
    )
    split_N = np.array(splits)
    target = read_target(examples, definition, split_N != "test")
    _check_splits(target, split_N)
    return Problem(
        target=target,
        split_N=split_N,
        weight_N=_weights(examples, target, definition.weight_by),
        group_N=np.unique(groups, return_inverse=True)[1].astype(np.int64),
        source_N=np.array([example.source for example in examples]),
        language_N=np.array([example.language for example in examples]),
        texts=tuple(example.text for example in examples),
        stored=stored,
        headline=_HEADLINES[target.kind],
    )


def read_target(examples: Sequence[Example], definition: Definition, known: NDArray[np.bool_] | None = None) -> Target:
    """The examples' labels as numbers; a regression's scale is that of the `known` ones, by default all.

    AssayError where they can't be told apart, or not by the definition's method.
    """
    target = make_target(
        [example.label for example in examples],
        definition.kind,
        positive=definition.positive,
        order=definition.order,
        unit=definition.unit,
        name=definition.name,
        known=known,
    )
    if definition.method == "any_of":
        any_of.require_binary(target)
    return target


def fit(
    problem: Problem,
    definition: Definition,
    fitted_on: dict[str, Any],
    *,
    say: Say = lambda line: None,
    explain: Explain | None = None,
) -> Tagger:
    """The tagger, its settings chosen on validation documents, with its evidence on test documents.

    `explain` gives the features their example tokens.
    """
    tried, chosen, rivals = _choose(problem, definition, say)
    threshold = chosen.threshold if chosen.threshold is not None else problem.threshold(chosen.output_NL)
    for name, baseline in baselines.plain(problem).items():
        if not (chosen.rule == "dense" and name == "dense_probe"):
            say(f"baseline: {name}")
            rivals[name] = baseline(problem)
    say("learning curve")
    curve = learning_curve(problem, chosen)
    evidence = gather(problem, chosen, threshold, tried, rivals, curve)
    features = chosen.features
    if explain is not None and features:
        texts = [text for text, use in zip(problem.texts, problem.rows("discovery"), strict=True) if use]
        features = explain(features, texts)
    target = problem.target
    return Tagger(
        name=definition.name,
        version=definition.version,
        axis=definition.axis,
        kind="label" if target.kind == "multiclass" else "score",
        description=definition.description,
        labels=target.classes,
        encoder=problem.stored.encoder,
        pooling=chosen.pooling,
        sqrt=chosen.sqrt,
        bias=chosen.bias,
        rule=chosen.rule,
        link="identity" if target.kind == "regression" else "logistic",
        unit=target.unit,
        features=features,
        dense=chosen.dense,
        threshold=threshold,
        threshold_rule=_THRESHOLD_RULES["any_of" if chosen.rule == "any_of" else target.kind],
        method=_method(chosen),
        fitted_on=_record(problem, fitted_on),
        evidence=evidence,
    )


def _choose(
    problem: Problem, definition: Definition, say: Say
) -> tuple[list[Fitted], Fitted, dict[str, NDArray[np.float64]]]:
    """(all that was tried, what is kept, the baseline of random features)."""
    stored, discovery = problem.stored, problem.rows("discovery").astype(float)
    if definition.method == "dense":
        dense.require_residuals(problem)
        tried = dense.candidates(problem)
        return tried, dense.best(tried), {}
    with_rule = definition.method == "any_of" or (definition.method == "auto" and problem.target.kind == "binary")
    say(f"screening {stored.columns:,} features")
    weighed = Screen(stored.columns, problem.target.stratum_N, problem.weight_N * discovery, POOLINGS)
    counted = Screen(stored.columns, problem.target.stratum_N, discovery, ("any",))
    screen(stored, [weighed, counted], POOLINGS)
    if not len(counted.seen()):
        raise AssayError("no feature fires in three discovery documents", hint="are the texts long enough?")
    drawn = np.random.default_rng(definition.seed).permutation(counted.seen())[: definition.features]
    wanted = [drawn]
    if with_rule:
        wanted.append(any_of.columns_wanted(problem, counted))
    if definition.method != "any_of":
        wanted.append(linear.columns_wanted(weighed))
    matrix = Matrix.load(stored, np.concatenate(wanted))
    finalists, tried = [], []
    if with_rule:
        say("fitting any_of")
        tried += (found := any_of.candidates(problem, counted, matrix))
        finalists.append(any_of.best(found))
    if definition.method != "any_of":
        say("fitting linear")
        tried += (found := linear.candidates(problem, weighed, matrix, definition.features))
        finalists.append(linear.best(found))
    chosen = max(finalists, key=lambda fitted: fitted.candidate.validation)
    random = baselines.random_features(problem, chosen, matrix, drawn[: len(chosen.features)])
    return tried, chosen, {"random_features": random}


def _check_splits(target: Target, split_N: NDArray[np.str_]) -> None:
    for split in ("discovery", "validation", "test"):
        here = target.stratum_N[split_N == split]
        if len(set(here)) < 2:
            what = "no document" if not len(here) else "documents of one label only"
            raise AssayError(
                f"the {split} split has {what}",
                hint="more documents, or more groups, are needed: a group is in one split only",
            )


def _weights(examples: Sequence[Example], target: Target, by: Sequence[WeightBy]) -> NDArray[np.float64]:
    """Each cell counts the same in sum: neither a large source nor a lopsided one sets the tag.

    Without it a source's style or language would be as good a sign as what its texts say.
    """
    parts = {
        "source": [example.source for example in examples],
        "language": [example.language for example in examples],
        "label": target.stratum_N.tolist(),
    }
    cells = list(zip(*(parts[name] for name in by), strict=True)) if by else [()] * len(examples)
    sizes = Counter(cells)
    return np.array([len(cells) / len(sizes) / sizes[cell] for cell in cells])


def _method(chosen: Fitted) -> str:
    said = chosen.candidate
    if chosen.rule == "dense":
        return f"{said.detail}, on mean residuals of layer {said.layers[0]}"
    if chosen.rule == "any_of":
        return f"any of {said.features} features fires ({said.detail})"
    return f"regression on {said.features} features, {said.pooling} ({said.detail})"


def _record(problem: Problem, fitted_on: dict[str, Any]) -> dict[str, Any]:
    splits = ("discovery", "validation", "test")
    rows = "".join(
        f"{hashlib.sha256(text.encode()).hexdigest()}\0{label!r}\0{split}\n"
        for text, label, split in zip(problem.texts, problem.target.y_N.tolist(), problem.split_N, strict=True)
    )
    return {
        "documents": {split: int(problem.rows(split).sum()) for split in splits},
        "groups": int(problem.group_N.max()) + 1,
        "groups_in_two_splits": shared_groups([str(g) for g in problem.group_N], [str(s) for s in problem.split_N]),
        "sources": sorted(set(problem.source_N) - {""}),
        "documents_with_cut_features": int(problem.stored.documents.cut_N.sum()),
        **fitted_on,
        "sha256": hashlib.sha256(rows.encode()).hexdigest(),
        "sklearn": sklearn.__version__,
    }

"""Taggers fitted to a planted theme: each rule and kind finds it, and test labels decide nothing but the evidence."""

import numpy as np
import pytest

from assay.schemas.errors import AssayError
from assay.schemas.tagger import Tagger, dump_tagger
from assay.taggers import any_of
from assay.taggers.figures import auroc
from assay.taggers.fitting import fit
from assay.taggers.problem import Problem
from assay.workers.feature_table import iter_parquet
from assay.workers.tagger_set import TaggerSet
from tests.taggers.conftest import DOCUMENTS, Planted, a_definition, planted_examples


def theme(example) -> str:  # type: ignore[no-untyped-def]
    return example.label.split()[0]


def is_food(example) -> str:  # type: ignore[no-untyped-def]
    return str(int(example.label.startswith("food")))


def amount(example) -> str:  # type: ignore[no-untyped-def]
    return example.label.split()[1]


def a_fit(planted: Planted, label, **changes) -> tuple[Problem, Tagger]:  # type: ignore[no-untyped-def]
    problem = planted.problem(label, **changes)
    return problem, fit(problem, a_definition(**changes), {})


def applied(planted: Planted, tagger: Tagger) -> dict[str, object]:
    """Document id -> the tag that the tagging workers give it."""
    found = {}
    for entry in planted.manifest.shards:
        with planted.store.open_input(entry.objects["features"]) as handle:
            for table in iter_parquet(handle):
                tags = TaggerSet([tagger], tagger.encoder).apply(table)
                found.update(zip(tags["doc_id"].to_pylist(), tags[tagger.name].to_pylist(), strict=True))
    return found


@pytest.mark.parametrize("method", ["any_of", "linear", "dense", "auto"])
def test_each_method_finds_a_planted_theme_and_its_file_gives_the_figures_of_its_evidence(
    planted: Planted, method: str
) -> None:
    problem, tagger = a_fit(planted, is_food, method=method, features=16)
    assert tagger.rule == (method if method != "auto" else tagger.rule)
    assert tagger.evidence is not None
    assert tagger.evidence.test["f1"].value > 0.9
    tags = applied(planted, tagger)
    score = np.array([tags[f"d{n}"] for n in range(DOCUMENTS)], float)
    test = problem.rows("test")
    value = auroc(problem.target.y_N[test] > 0, score[test], np.ones((1, int(test.sum())), np.float32))[0]
    assert tagger.evidence.test.get("auroc") is None or value == pytest.approx(
        tagger.evidence.test["auroc"].value, abs=2e-3
    )
    said = score[test] > tagger.threshold
    assert (said & (problem.target.y_N[test] > 0)).sum() == pytest.approx(
        tagger.evidence.test["recall"].value * (problem.target.y_N[test] > 0).sum(), abs=0.01
    )


def test_themes_are_told_apart_by_a_label_tagger(planted: Planted) -> None:
    problem, tagger = a_fit(planted, theme, features=32)
    assert (tagger.kind, tagger.labels) == ("label", ("food", "religion", "software"))
    assert tagger.evidence is not None
    assert tagger.evidence.test["macro_f1"].value > 0.9
    assert set(tagger.evidence.labels) == set(tagger.labels)
    tags = applied(planted, tagger)
    test = np.flatnonzero(problem.rows("test"))
    right = np.mean([tags[f"d{n}"] == theme(planted.examples[n]) for n in test])
    assert right == pytest.approx(tagger.evidence.test["accuracy"].value, abs=1e-3)


def test_an_amount_is_a_regression_whose_score_is_on_the_scale_of_its_labels(planted: Planted) -> None:
    problem, tagger = a_fit(planted, amount, features=32)
    assert (tagger.link, tagger.unit, tagger.kind) == ("identity", (1, 3), "score")
    assert tagger.evidence is not None
    assert tagger.evidence.headline == "spearman"
    assert tagger.evidence.test["spearman"].value > 0.5
    assert 0 < tagger.evidence.test["mae"].value < 0.8
    tags = applied(planted, tagger)
    test = problem.rows("test")
    error = np.abs(np.array([tags[f"d{n}"] for n in range(DOCUMENTS)], float) - problem.target.y_N)[test].mean()
    assert 2 * error == pytest.approx(tagger.evidence.test["mae"].value, abs=2e-3)


@pytest.mark.parametrize("method", ["any_of", "linear", "dense"])
def test_test_labels_can_not_move_the_tagger(planted: Planted, method: str) -> None:
    splits = {
        e.id: ["discovery", "discovery", "validation", "test"][n // 3 % 4] for n, e in enumerate(planted.examples)
    }
    draw = np.random.default_rng(1)
    shuffled = {e.id: draw.choice(["0", "1"]) for e in planted.examples if splits[e.id] == "test"}
    given = Planted(planted.store, planted.manifest, tuple(e._replace(split=splits[e.id]) for e in planted.examples))
    _, honest = a_fit(given, is_food, method=method, features=16)
    _, permuted = a_fit(given, lambda e: shuffled.get(e.id, is_food(e)), method=method, features=16)
    blank = {"evidence": None, "fitted_on": {}}
    assert honest.model_copy(update=blank) == permuted.model_copy(update=blank)
    assert honest.evidence is not None
    assert permuted.evidence is not None
    assert honest.evidence.candidates == permuted.evidence.candidates
    assert permuted.evidence.test["f1"].value < honest.evidence.test["f1"].value - 0.2


def test_groups_are_in_one_split_and_labels_in_all(planted: Planted) -> None:
    problem = planted.problem(theme)
    by_group = [set(problem.split_N[problem.group_N == g]) for g in set(problem.group_N.tolist())]
    assert all(len(splits) == 1 for splits in by_group)
    for split in ("discovery", "validation", "test"):
        assert len(set(problem.target.stratum_N[problem.rows(split)])) == 3


def test_any_of_is_the_papers_rule(planted: Planted) -> None:
    problem, tagger = a_fit(planted, is_food, method="any_of")
    assert tagger.evidence is not None
    assert (tagger.pooling, tagger.bias, tagger.threshold) == ("any", (0.0,), 0.5)
    settings = [(c.layers, c.features) for c in tagger.evidence.candidates]
    assert {(len(layers), k) for layers, k in settings} >= {(1, k) for k in any_of.RANKS}
    chosen = [c for c in tagger.evidence.candidates if c.chosen]
    assert len(chosen) == 1
    assert chosen[0].validation >= max(c.validation for c in tagger.evidence.candidates if c.layers == chosen[0].layers)
    # Equation 14 by hand, from the stored tables, for the first feature chosen.
    fires = dict.fromkeys((e.id for e in planted.examples), 0)
    feature = tagger.features[0]
    for entry in planted.manifest.shards:
        with planted.store.open_input(entry.objects["features"]) as handle:
            for table in iter_parquet(handle):
                for id, ids in zip(
                    table["doc_id"].to_pylist(), table[f"l{feature.layer}_ids"].to_pylist(), strict=True
                ):
                    fires[id] = int(feature.feature in ids)
    discovery = problem.rows("discovery")
    fired = np.array([fires[f"d{n}"] for n in range(DOCUMENTS)])
    delta = fired[discovery & (problem.target.y_N > 0)].mean() - fired[discovery & (problem.target.y_N == 0)].mean()
    assert delta > 0.8


def test_evidence_holds_baselines_slices_prevalence_and_a_learning_curve(planted: Planted) -> None:
    _, tagger = a_fit(planted, is_food, method="linear", features=16)
    evidence = tagger.evidence
    assert evidence is not None
    assert set(evidence.baselines) == {
        "tfidf_logistic", "length_only", "majority", "keyword", "dense_probe", "random_features",
    }  # fmt: skip
    assert {s.dimension for s in evidence.slices} == {"language", "source", "length"}
    for dimension in ("language", "source", "length"):
        documents = sum(s.documents for s in evidence.slices if s.dimension == dimension)
        assert documents == tagger.fitted_on["documents"]["test"]
    assert [p.prevalence for p in evidence.prevalence] == [0.01, 0.001]
    assert sum(b.documents for b in evidence.calibration) == tagger.fitted_on["documents"]["test"]
    shares = [p.share for p in evidence.learning_curve]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert evidence.learning_curve[-1].figure == evidence.test["auroc"]


def test_the_summary_names_a_baseline_that_wins(planted: Planted) -> None:
    # The label is how long the text is, which a count of tokens tells best of all.
    edge = float(np.median([len(e.text) for e in planted.examples]))
    _, tagger = a_fit(planted, lambda e: str(int(len(e.text) > edge)), method="any_of")
    assert tagger.evidence is not None
    assert tagger.evidence.winner is not None
    assert tagger.evidence.summary.startswith("LOSES TO ")


def test_the_same_documents_give_the_same_file(planted: Planted) -> None:
    first, second = (a_fit(planted, is_food, method="linear", features=16)[1] for _ in range(2))
    assert dump_tagger(first) == dump_tagger(second)


def test_any_of_refuses_what_is_no_yes_or_no(planted: Planted) -> None:
    with pytest.raises(AssayError, match="any_of says yes or no, these labels are multiclass"):
        a_fit(planted, theme, method="any_of")


def test_a_split_without_a_label_is_an_error(planted: Planted) -> None:
    one_sided = tuple(
        e._replace(split="test" if is_food(e) == "1" and n % 2 else "discovery" if n % 5 else "validation")
        for n, e in enumerate(planted.examples)
    )
    with pytest.raises(AssayError, match="the test split has documents of one label only"):
        Planted(planted.store, planted.manifest, one_sided).problem(is_food)


def test_a_tagger_is_refused_by_features_of_another_encoder(planted: Planted) -> None:
    _, tagger = a_fit(planted, is_food, method="any_of")
    with pytest.raises(AssayError, match="was fitted on encoder"):
        TaggerSet([tagger], "0" * 16)


def test_a_tagger_reads_the_layers_that_it_may(planted: Planted) -> None:
    problem = planted.problem(is_food, layers=(3,), method="linear")
    tagger = fit(problem, a_definition(method="linear", features=8), {})
    assert {f.layer for f in tagger.features} == {3}
    assert tagger.encoder == planted.manifest.encoder
    tags = applied(planted, tagger)
    assert sum((tags[e.id] > tagger.threshold) == (is_food(e) == "1") for e in planted.examples) > 0.9 * DOCUMENTS
    with pytest.raises(AssayError, match=r"layers \[2\] aren't stored\n.*stored: 1, 3, 4"):
        planted.problem(is_food, layers=(2, 3))


def test_documents_that_are_cut_are_counted(planted: Planted) -> None:
    assert not planted.problem(is_food).stored.documents.cut_N.any()
    assert len(planted_examples()) == DOCUMENTS

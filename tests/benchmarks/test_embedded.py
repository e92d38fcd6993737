"""The embedded model's page against the figures that it is written from, and how those are found."""

import json

import numpy as np
import pytest
from scipy import sparse

from assay.taggers.examples import Example, Split
from benchmarks.embedded.features import LabelledFeatures, choose
from benchmarks.embedded.page import PAGE, PLOT, RESULTS, default_taggers, render, training_record

RESULTS_KEPT = json.loads(RESULTS.read_text("utf-8"))


def test_the_page_says_what_the_figures_say() -> None:
    assert PAGE.read_text("utf-8") == render(RESULTS_KEPT, training_record(), default_taggers())
    assert PLOT.read_text("utf-8").startswith("<?xml")


def test_the_figures_are_of_the_model_and_the_taggers_that_ship() -> None:
    assert {tagger["encoder"] for tagger in default_taggers()} == {RESULTS_KEPT["encoder"]}
    assert RESULTS_KEPT["layers"] == training_record()["saes"]["layers"]


def test_the_trained_model_is_clearly_better_than_random_weights_at_every_task() -> None:
    for task in RESULTS_KEPT["tasks"].values():
        ways = {name: way.get("auroc", way.get("macro_f1")) for name, way in task["ways"].items()}
        assert ways["dense probe"] > ways["random weights: dense probe"] + 0.02


@pytest.mark.parametrize("hostile", ["a`|b", "line\nbreak", "\u202eright to left", "<img src=x>", "\x1b[31mred"])
def test_a_token_of_a_corpus_is_inert_on_the_page(hostile: str) -> None:
    results = RESULTS_KEPT | {"features": [RESULTS_KEPT["features"][0] | {"tokens": [hostile], "contexts": [hostile]}]}
    page = render(results, training_record(), default_taggers())
    (row,) = [line for line in page.splitlines() if "| topic: " in line]
    assert row.count("|") == 6
    assert row.count("`") == 4
    assert all(c.isprintable() for c in row)


def kind(name: str, fired: dict[tuple[str, Split], list[list[int]]]) -> LabelledFeatures:
    rows, values = [], []
    for (label, split), texts in fired.items():
        for features in texts:
            rows.append(Example(str(len(rows)), "", label, "", split=split))
            values.append([1.0 if feature in features else 0.0 for feature in range(4)])
    return LabelledFeatures(name, rows, [""] * len(rows), sparse.csr_matrix(np.array(values)))


def test_a_label_gets_the_feature_of_largest_delta_on_discovery_texts_with_its_shares_on_test_texts() -> None:
    topic = kind(
        "topic",
        {
            ("a", "discovery"): [[0, 3], [0, 3]],
            ("b", "discovery"): [[1, 3], [3]],
            ("a", "test"): [[0], [2]],
            ("b", "test"): [[1, 2], [1, 2]],
        },
    )
    found = {f.label: (f.column, f.fires_on_label, f.fires_on_others) for _, f in choose([topic])}
    assert found == {"a": (0, 0.5, 0.0), "b": (1, 1.0, 0.0)}


def test_a_feature_is_shown_once() -> None:
    fired = {(label, split): [[0]] if label == "a" else [[]] for label in "ab" for split in ("discovery", "test")}
    first, second = kind("tweets", fired), kind("sentences", fired)  # type: ignore[arg-type]
    columns = [f.column for _, f in choose([first, second])]
    assert len(columns) == len(set(columns))

"""The evidence page and text: all numbers, a winning baseline first, and nothing that runs, loads or acts unseen."""

import html
import re

import pytest
from rich.console import Console

from assay.dashboard.evidence_page import evidence_page
from assay.dashboard.evidence_text import evidence_text
from assay.dashboard.evidence_words import evidence_of, saturation_words, verdict
from assay.dashboard.plots import linear_axis, log_axis
from assay.schemas.errors import AssayError
from assay.schemas.evidence import Evidence, Figure
from assay.schemas.tagger import DenseLayer, Tagger
from tests.dashboard.evidence import figure, labelled, scored
from tests.dashboard.test_report import HOSTILE, UNSEEN, Page

FORBIDDEN = {"script", "a", "img", "iframe", "link", "object", "form", "base", "image", "use", "foreignobject"}


def as_text(tagger: Tagger, width: int = 120) -> str:
    console = Console(width=width, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(evidence_text(tagger))
    return captured.get()


def test_every_number_of_the_evidence_stands_on_the_page() -> None:
    tagger = scored()
    evidence = evidence_of(tagger)
    text = " ".join(Page(evidence_page(tagger)).text)
    figures = [f for group in (evidence.test, *evidence.baselines.values()) for f in group.values()]
    figures += [p.precision for p in evidence.prevalence] + [p.figure for p in evidence.learning_curve]
    figures += [f for s in evidence.slices for f in s.figures.values()]
    wanted = [f"{n:.3f}" for f in figures for n in (f.value, f.low, f.high)]
    wanted += [f"{n:.3f}" for b in evidence.calibration for n in (b.predicted, b.observed)]
    wanted += [f"{c.validation:.3f}" for c in evidence.candidates]
    wanted += [f"{s.documents:,}" for s in evidence.slices] + [f"{b.documents:,}" for b in evidence.calibration]
    wanted += [f"{f.layer}:{f.feature}" for f in tagger.features] + [f"{f.weights[0]:+.3f}" for f in tagger.features]
    wanted += [tagger.encoder, tagger.fingerprint, tagger.threshold_rule, "1e6c2094" * 8]
    assert [one for one in wanted if one not in text] == []


def test_a_baseline_that_wins_is_said_first_in_the_terminal_and_above_all_figures_on_the_page() -> None:
    tagger = scored(rival=0.99)
    said = "A baseline wins: TF-IDF + logistic regression has AUROC 0.990 (0.970 to 1.000), "
    said += "this tagger 0.905 (0.885 to 0.925)."
    assert verdict(evidence_of(tagger)) == said
    assert re.sub(r"\s+", " ", as_text(tagger)).startswith(said)
    page = html.unescape(evidence_page(tagger))
    assert page.index(said) < page.index("<section")


def test_a_lead_within_the_intervals_is_called_chance() -> None:
    assert "may be chance" in verdict(evidence_of(scored(rival=0.92)))
    assert "may be chance" in verdict(evidence_of(scored(rival=0.904)))
    assert "may be chance" not in verdict(evidence_of(labelled()))
    assert not verdict(evidence_of(labelled())).startswith("A baseline")


def test_a_lower_mean_error_wins() -> None:
    mine, other = ({"mae": Figure(value=v, low=v - 0.01, high=v + 0.01)} for v in (0.4, 0.3))
    evidence = Evidence(summary="", headline="mae", test=mine, baselines={"length": other})
    assert verdict(evidence).startswith("A baseline wins: length has mean error 0.300")


def test_an_or_that_saturates_is_said_and_only_then() -> None:
    assert saturation_words(evidence_of(scored())) == "An OR of features (any of) is best with 2, 0.760; 32 give 0.560."
    assert saturation_words(evidence_of(labelled())) == ""


def test_hostile_tokens_and_names_stay_inert_on_the_page() -> None:
    tagger = scored(tokens=HOSTILE, names=(HOSTILE[0], HOSTILE[3]))
    evidence = evidence_of(tagger)
    hostile = tagger.model_copy(
        update={"description": HOSTILE[1], "method": HOSTILE[2], "fitted_on": {HOSTILE[4]: "x"}}
    )
    slices = tuple(s.model_copy(update={"value": HOSTILE[i]}) for i, s in enumerate(evidence.slices))
    named = evidence.model_copy(update={"slices": slices, "summary": HOSTILE[0]})
    source = evidence_page(hostile.model_copy(update={"evidence": named}))
    page = Page(source)
    assert not page.open
    assert not {name for name, _ in page.elements} & FORBIDDEN
    attributes = [(key, value) for _, attrs in page.elements for key, value in attrs.items()]
    assert not [key for key, _ in attributes if key.startswith("on") or key in {"href", "src", "xlink:href", "action"}]
    assert all(re.fullmatch(r"[-a-z]+:[\d.]+%?", value or "") for key, value in attributes if key == "style")
    assert not UNSEEN.search(source)
    assert "abc⟨U+202E⟩gnp.exe" in page.text


def test_hostile_tokens_stay_inert_in_the_terminal() -> None:
    tagger = scored(tokens=HOSTILE, names=(HOSTILE[4], HOSTILE[6]))
    text = as_text(tagger)
    assert not UNSEEN.search(text)
    assert "⟨U+202E⟩" in text


def test_nothing_is_fetched_and_the_policy_comes_first() -> None:
    source = evidence_page(scored())
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in source.replace("&#x27;", "'")
    assert source.index("Content-Security-Policy") < source.index("<style>") < source.index("<body>")
    assert not re.search(r"url\(|@import|https?:", source)


def test_every_drawing_has_a_name_and_a_description_or_its_numbers_in_the_same_row() -> None:
    source = evidence_page(scored())
    for drawing in re.findall(r"<svg.*?</svg>", source, flags=re.S):
        named = 'role="img"' in drawing and "<title>" in drawing and "<desc>" in drawing
        assert named or 'aria-hidden="true"' in drawing
    assert source.count("The numbers</summary>") >= 4


def test_equal_taggers_give_equal_pages() -> None:
    assert evidence_page(scored()) == evidence_page(scored())


def test_a_label_tagger_shows_its_labels_the_worst_first() -> None:
    text = Page(evidence_page(labelled())).text
    assert text.index("shop") < text.index("news") < text.index("code")


def test_a_dense_probe_has_no_features_to_show_and_says_so() -> None:
    tagger = scored()
    dense = tagger.model_copy(
        update={"rule": "dense", "features": (), "dense": (DenseLayer(layer=3, weights=((0.5, 0.1),)),)}
    )
    text = " ".join(Page(evidence_page(dense)).text)
    assert "no features to read" in text
    assert "a dense probe on the mean residual of layer 3" in text
    assert "Layer:feature" not in text


def test_a_tagger_without_evidence_is_a_mistake_that_says_what_writes_it() -> None:
    with pytest.raises(AssayError, match="has no evidence"):
        evidence_page(scored().model_copy(update={"evidence": None}))


@pytest.mark.parametrize("width", [80, 120])
def test_the_text_keeps_within_its_width(width: int) -> None:
    assert max(map(len, as_text(scored(), width=width).splitlines())) <= width


def test_evidence_of_figures_alone_is_still_drawn() -> None:
    least = scored().model_copy(
        update={"evidence": Evidence(summary="", headline="auroc", test={"auroc": figure(0.7)}, baselines={})}
    )
    assert "no baseline stands beside it" in " ".join(Page(evidence_page(least)).text)
    assert "0.700" in as_text(least)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.5, 0.5), (0.901, 0.9013), (-0.2, 0.9), (0.0, 1234.0), (1e-7, 2e-7)])
def test_an_axis_holds_its_values_between_few_round_ticks(ends: tuple[float, float]) -> None:
    axis = linear_axis(ends)
    assert axis.low <= ends[0] <= ends[1] <= axis.high
    assert 2 <= len(axis.ticks) <= 7
    assert 0 <= axis.at(ends[0]) <= axis.at(ends[1]) <= 1


def test_a_measure_axis_ends_where_the_measure_does() -> None:
    axis = linear_axis((0.94, 1.0), 0.0, 1.0)
    assert axis.high == 1.0


def test_equal_ratios_are_equally_far_apart_on_a_log_axis() -> None:
    axis = log_axis((10, 1000))
    assert axis.at(100) - axis.at(10) == pytest.approx(axis.at(1000) - axis.at(100))
    assert [label for _, label in axis.ticks] == ["10", "20", "50", "100", "200", "500", "1K"]

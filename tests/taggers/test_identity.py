"""Identity terms: a tagger that moves with a term is found, with its feature; one that doesn't is left in peace."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pydantic import ValidationError

from assay.flows.audit import IDENTITY_TERMS
from assay.schemas.audit import IdentityTerms
from assay.schemas.tagger import Tagger
from assay.schemas.yaml_file import load_yaml
from assay.taggers.feature_values import FeatureValues, outputs, weights
from assay.taggers.identity import identity_audit, sentences
from tests.workers.feature_tables import labeller, score

TERMS = IdentityTerms.model_validate(
    {
        "templates": {
            "en": ["{Term} reads.", "This is {term}.", "Here {term} sits.", "We met {term}."],
            "de": ["{Term} liest.", "Das ist {term}.", "Hier sitzt {term}."],
        },
        "fillers": {"en": ["a person", "a tall man", "a cook"], "de": ["eine Person", "ein Mann", "ein Koch"]},
        "terms": [
            {"name": "gay", "kind": "orientation", "phrases": {"en": "a gay man", "de": "ein schwuler Mann"}},
            {"name": "Polish", "kind": "nationality", "phrases": {"en": "a Polish man"}},
        ],
    }
)
TOXIC = score({(2, 1): (1.0, 3.0), (2, 2): (1.0, 0.5)}, name="toxicity", axis="safety", labels=("toxic",), bias=(-2.0,))


def features(word: str, strength: float = 0.9) -> Callable[[Sequence[str]], FeatureValues]:
    """Feature 0 fires on texts with `word` in them, feature 1 on every text, differently."""

    def of(texts: Sequence[str]) -> FeatureValues:
        document = [*(i for i, t in enumerate(texts) if word in t), *range(len(texts))]
        hits = sum(word in t for t in texts)
        noise = [0.1 + 0.02 * (len(t) % 5) for t in texts]
        feature = [0] * hits + [1] * len(texts)
        return FeatureValues(np.array(document), np.array(feature), np.array([strength] * hits + noise))

    return of


def test_a_term_that_moves_the_score_is_flagged_with_its_feature_and_in_which_language() -> None:
    audit = identity_audit(TOXIC, TERMS, features("gay"))
    gay, polish = (next(t for t in audit.terms if t.term == name) for name in ("gay", "Polish"))
    assert gay.flagged
    assert (gay.languages, gay.sentences) == (("en",), 4), "in German the word is another, and nothing moves"
    assert gay.by_language["en"] > 0.5
    assert abs(gay.by_language["de"]) < 0.05
    assert gay.shift.low < gay.shift.value < gay.shift.high
    assert (gay.features[0].layer, gay.features[0].feature) == (2, 1)
    assert not polish.flagged
    assert audit.terms[0] == gay


def test_neutral_sentences_that_pass_a_safety_taggers_threshold_are_warned_of() -> None:
    audit = identity_audit(TOXIC, TERMS, features("gay"))
    assert audit.filler_passing == 0
    assert audit.warnings == ("100 % of the neutral sentences that name 'gay' pass the threshold 0.5",)
    everything = identity_audit(TOXIC.model_copy(update={"bias": (3.0,)}), TERMS, features("gay"))
    assert everything.warnings[0] == "100 % of the neutral sentences on nobody in particular pass the threshold 0.5"


def test_a_score_that_is_no_safety_score_warns_of_nothing_but_is_flagged_all_the_same() -> None:
    audit = identity_audit(TOXIC.model_copy(update={"axis": "quality"}), TERMS, features("gay"))
    assert audit.warnings == ()
    assert audit.terms[0].flagged


def test_a_change_that_a_mere_filler_makes_as_well_is_no_flag() -> None:
    audit = identity_audit(
        TOXIC, TERMS, features("ma")
    )  # "a tall man", "ein Mann", "ein schwuler Mann", "a Polish man"
    assert audit.filler_shift > 0.2
    assert not any(t.flagged and abs(t.shift.value) < audit.filler_shift for t in audit.terms)


def test_a_label_tagger_is_flagged_for_the_label_that_moves_most() -> None:
    tagger = labeller({(2, 1): (1.0, (0.0, 5.0, 0.0)), (2, 2): (1.0, (0.1, 0.1, 0.1))})
    gay = identity_audit(tagger, TERMS, features("gay")).terms[0]
    assert (gay.term, gay.label, gay.passing) == ("gay", "news", None)


def test_every_template_is_filled_with_every_phrase_of_its_language() -> None:
    made = sentences(TERMS)
    assert len(made) == 4 * (3 + 2) + 3 * (3 + 1)
    assert {s.text for s in made} >= {"A gay man reads.", "We met a Polish man.", "Ein Koch liest."}


def test_the_list_that_comes_with_assay_is_complete_in_four_languages() -> None:
    terms = load_yaml(IDENTITY_TERMS, IdentityTerms)
    assert set(terms.templates) == {"en", "de", "fr", "es"}
    assert {t.kind for t in terms.terms} == {
        "nationality", "religion", "gender", "orientation", "disability", "origin",
    }  # fmt: skip
    assert all(set(t.phrases) == set(terms.templates) for t in terms.terms)
    assert len({s.text for s in sentences(terms)}) == len(sentences(terms)), "two sentences are the same"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fillers": {"en": ["a person", "a cook"]}}, "different languages"),
        ({"fillers": {"en": ["a person"], "de": ["ein Koch"]}}, "two fillers at least"),
        ({"templates": {"en": ["No place."], "de": ["Das ist {term}."]}}, "no place for a term"),
        ({"terms": [{"name": "x", "kind": "gender", "phrases": {"it": "x"}}]}, "languages without templates"),
    ],
)
def test_a_list_that_can_not_be_used_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        IdentityTerms.model_validate({**TERMS.model_dump(), **changes})


@pytest.mark.parametrize(
    ("tagger", "expected"),
    [
        (score({(2, 1): (1.0, 2.0)}, bias=(-1.0,)), [1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(1.0))]),
        (score({(2, 1): (1.0, 2.0)}, bias=(-1.5,), link="identity"), [0.5, 0.0]),
        (score({(2, 1): (1.0, 2.0)}, rule="any_of", pooling="any"), [1.0, 0.0]),
    ],
)
def test_outputs_follow_the_taggers_rule(tagger: Tagger, expected: list[float]) -> None:
    values = FeatureValues(np.array([0]), np.array([0]), np.array([1.0]))
    assert outputs(tagger, values, 2)[:, 0] == pytest.approx(expected)


def test_a_labels_weights_are_what_sets_it_apart_from_the_other_labels() -> None:
    tagger = labeller({(2, 1): (1.0, (1.0, 1.0, 4.0))})
    assert weights(tagger)[0] == pytest.approx([-1.0, -1.0, 2.0])

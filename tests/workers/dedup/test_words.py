"""Texts that read alike are equal, words of any script count, and runs of words are numbers that don't collide."""

import numpy as np
import pytest

from assay.workers.dedup.exact import text_key
from assay.workers.dedup.words import WordHasher, normalise, runs


@pytest.mark.parametrize(
    "other",
    [
        "the  Quick\n\tFOX",
        " The quick fox ",
        "Ｔｈｅ ｑｕｉｃｋ ｆｏｘ",
        "the quick \u00a0fox",
        "\u2009THE QUICK ｆｏx",
    ],
)
def test_texts_that_differ_in_case_space_or_unicode_form_have_one_key(other: str) -> None:
    assert text_key(normalise(other)) == text_key(normalise("The quick fox"))


def test_letters_that_change_their_length_with_case_are_equal_in_both_cases() -> None:
    for text in ("Straße", "ΐ ΰ", "ŉ ǰ", "ﬁne"):
        assert text_key(normalise(text.upper())) == text_key(normalise(text)), text


@pytest.mark.parametrize("other", ["the quick fix", "quick the fox", "the quick fox.", "thequick fox"])
def test_texts_that_differ_in_a_letter_or_mark_have_two_keys(other: str) -> None:
    assert text_key(normalise(other)) != text_key(normalise("The quick fox"))


def test_punctuation_is_no_word_and_letters_of_scripts_without_spaces_are_words() -> None:
    hasher = WordHasher()
    assert hasher("fox, — dog!").tolist() == hasher("fox dog").tolist()
    assert len(hasher("北京市 ひらがな")) == 7
    assert len(hasher("Zürich naïve שלום 42")) == 4
    assert len(hasher("... !!! ∑")) == 0


def test_runs_tell_the_words_and_their_order_and_a_short_text_is_one_run() -> None:
    hasher = WordHasher()
    words = hasher("a b c d e a b c d e")
    found = runs(words, 5)
    assert len(found) == 6
    assert found[0] == found[5]
    assert len(set(found.tolist())) == 5
    assert len(runs(hasher("a b"), 5)) == 1
    assert runs(hasher("a b"), 5)[0] != runs(hasher("b a"), 5)[0]
    assert len(runs(hasher(""), 5)) == 0


def test_hashes_are_the_same_in_every_version_since_stored_results_depend_on_them() -> None:
    assert runs(WordHasher()("the quick brown fox jumps"), 5).tolist() == [18196691592233058282]
    assert text_key(normalise("The quick fox")).hex() == "30e80a4e31da64d29040686b7594fb54"


def test_a_hasher_that_forgot_gives_the_same_numbers() -> None:
    first, second = WordHasher(), WordHasher()
    second(" ".join(f"word{n}" for n in range(1000)))
    assert np.array_equal(first("fox word7"), second("fox word7"))

"""What an audit says in words: strong things first, in the words that their strength deserves."""

import pytest

from assay.schemas.audit import BlamedFeature, DimensionAudit, GroupAudit, IdentityAudit, LengthAudit, TermAudit
from assay.schemas.evidence import Figure
from assay.taggers.audit import Findings
from assay.taggers.audit_words import in_words
from tests.workers.feature_tables import score

TAGGER = score({(2, 1): (1.0, 1.0)}, name="quality", threshold=0.3)
FEATURE = BlamedFeature(layer=2, feature=1, tokens=("the", "of"), difference=0.8, share=0.9)


def dimension(name: str, explained: float, effect: float = 1.2, flagged: bool = True) -> DimensionAudit:
    group = GroupAudit(
        value="Law", documents=90, undecided=0, label="good", mean=0.8, rest=0.4, passing=0.9, effect=effect, q=1e-9,
        flagged=abs(effect) >= 0.8, features=(FEATURE,),
    )  # fmt: skip
    return DimensionAudit(dimension=name, values=4, explained=explained, q=1e-9, flagged=flagged, groups=(group,))


def term(name: str, shift: float, flagged: bool, passing: float) -> TermAudit:
    return TermAudit(
        term=name, kind="religion", example="x", sentences=24, languages=("en", "de"), label="good",
        shift=Figure(value=shift, low=shift - 0.01, high=shift + 0.01), q=1e-6, flagged=flagged, passing=passing,
        by_language={"en": shift, "de": shift}, features=(FEATURE,),
    )  # fmt: skip


def identity(*terms: TermAudit, fillers: float = 0.0, warnings: tuple[str, ...] = ()) -> IdentityAudit:
    return IdentityAudit(
        sentences=100, filler_mean=0.1, filler_passing=fillers, filler_shift=0.01, warnings=warnings, terms=terms
    )


def said(*dimensions: DimensionAudit, found: IdentityAudit | None = None) -> tuple[tuple[str, ...], bool]:
    length = LengthAudit(label="good", correlation=Figure(value=0.1, low=0.0, high=0.2), q=0.2, flagged=False)
    return in_words(TAGGER, Findings(400, 0, tuple(dimensions), (length,)), found)


@pytest.mark.parametrize(
    ("explained", "words"),
    [
        (0.61, "quality is largely a domain score: domain explains 61 % of its variance; "),
        (0.2, "quality leans on domain, which explains 20 % of its variance; "),
        (0.07, "quality goes with domain, which explains 7 % of its variance; "),
    ],
)
def test_a_dimension_is_called_what_its_strength_deserves(explained: float, words: str) -> None:
    (line,), flagged = said(dimension("domain", explained))
    assert flagged
    assert line == (
        words
        + "furthest off is “Law”, mean 0.800 against 0.400 elsewhere, most of all by feature 2:1 (fires on the of)"
    )


def test_the_strongest_finding_comes_first() -> None:
    lines, _ = said(dimension("language", 0.1), dimension("input", 0.6))
    assert [line.split(":")[0].split(",")[0] for line in lines] == [
        "quality is largely an input score",
        "quality goes with language",
    ]


def test_a_small_group_that_is_far_off_is_told_though_its_dimension_explains_little() -> None:
    (line,), flagged = said(dimension("domain", 0.01, flagged=False))
    assert flagged
    assert line.startswith("quality is far off on one domain: furthest off is “Law”")


def test_without_a_flag_the_one_line_says_what_was_looked_at() -> None:
    lines, flagged = said(
        dimension("domain", 0.013, 0.1, flagged=False), found=identity(term("Hindu", 0.0, False, 0.0))
    )
    assert not flagged
    assert lines == (
        "quality: nothing is flagged. What was looked at explains little of its variance, at most 1.3 %: "
        "domain, identity terms",
    )


def test_neutral_sentences_that_pass_come_first_with_those_on_nobody_beside() -> None:
    found = identity(term("Hindu", 0.3, True, 0.75), fillers=0.1, warnings=("x",))
    lines, _ = said(dimension("domain", 0.2), found=found)
    assert lines[0] == (
        "quality fires on neutral sentences: 75 % of those that name a group of people (Hindu) pass its threshold 0.3, "
        "and 10 % of those on nobody in particular"
    )
    assert lines[1].startswith("quality: naming Hindu in a neutral sentence moves it by +0.30 (+0.29 to +0.31)")
    assert lines[1].endswith("1 of 1 terms move it beyond what a filler does")

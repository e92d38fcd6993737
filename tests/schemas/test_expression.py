"""Expressions: what their text means, and that no text does anything but become a tree or a mistake with a place."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assay.schemas.expression import (
    MAX_DEPTH,
    MAX_LENGTH,
    Apply,
    ExpressionError,
    Feature,
    Literal,
    Name,
    Threshold,
    Within,
    parse_expression,
    walk,
)
from assay.schemas.expression_types import Vocabulary, check_expression

VOCABULARY = Vocabulary(
    numbers=frozenset({"n_tokens", "quality", "domain_p"}),
    texts={"id": (), "source": ("web", "books"), "domain": ("code", "news")},
    thresholds=frozenset({"quality"}),
    layers={3: 3072},
    complete=True,
)


def name(text: str) -> Name:
    return Name(text, 0)


def apply(operator: str, *operands: object) -> Apply:
    return Apply(operator, operands, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a < 1_000", apply("<", name("a"), Literal(1000.0, 0))),
        ("a < -.5e1", apply("<", name("a"), apply("negate", Literal(5.0, 0)))),
        (
            "a or b and not c or d",
            apply("or", name("a"), apply("and", name("b"), apply("not", name("c"))), name("d")),
        ),
        ("not a == b", apply("not", apply("==", name("a"), name("b")))),
        ("1 < a <= 2", apply("and", apply("<", Literal(1.0, 0), name("a")), apply("<=", name("a"), Literal(2.0, 0)))),
        ("a - b - c", apply("-", apply("-", name("a"), name("b")), name("c"))),
        ("a + b * c", apply("+", name("a"), apply("*", name("b"), name("c")))),
        ("(a + b) * c", apply("*", apply("+", name("a"), name("b")), name("c"))),
        ("a in ['x', \"it's\",]", Within(name("a"), (Literal("x", 0), Literal("it's", 0)), 0)),
        ("a not in [-1]", apply("not", Within(name("a"), (Literal(-1.0, 0),), 0))),
        ("feature(3, 262)", Feature(3, 262, "max", 0)),
        ("feature(3,262).count", Feature(3, 262, "count", 0)),
        ('threshold("toxicity")', Threshold("toxicity", 0)),
        (r'matches(a, "^\d+\.$")', apply("matches", name("a"), Literal(r"^\d+\.$", 0))),
        ("android and inside and nothing", apply("and", name("android"), name("inside"), name("nothing"))),
    ],
)
def test_an_expression_is_read_with_the_usual_precedence(text: str, tree: object) -> None:
    assert parse_expression(text) == tree


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("", 0, "the expression is empty"),
        ("quality <", 9, "the expression ends too early"),
        ("quality = 1", 8, "unexpected '=': write =="),
        ("a && b", 2, "unexpected '&': write and"),
        ("a < 1 b", 6, "unexpected 'b': an operator, a comma or ) should stand here"),
        ("a < and", 4, "unexpected 'and': a value should stand here"),
        ('domain == "code', 10, 'the text that begins with " has no end'),
        ("feature(3)", 0, "feature takes a layer and a feature id: feature(3, 262)"),
        ("feature(3, 1).sum", 14, "a feature has no sum: it has max, mean, count"),
        ("lower(id).max", 10, "only feature(...) has parts: max, mean, count"),
        ("threshold(quality)", 0, 'threshold takes the name of a tagger: threshold("toxicity")'),
        ("1e999", 0, "this number is too large"),
        ("a\n< $", 4, "unexpected '$'"),
        ("__import__('os').system('ls')", 23, "unexpected '(': an operator, a comma or ) should stand here"),
        ("a" * (MAX_LENGTH + 1), MAX_LENGTH, "an expression has at most 4,000 characters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_expression_is_told_with_its_place(text: str, at: int, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert caught.value.mistake == (at, message)


@pytest.mark.parametrize(
    "text", ["not " * 900 + "a", "-" * 3000 + "1", "(" * 1900 + "a" + ")" * 1900, "1+" * 1900 + "1"]
)
def test_depth_is_bounded_and_exhausts_no_stack(text: str) -> None:
    try:
        tree = parse_expression(text)
    except ExpressionError as error:
        assert f"nested more than {MAX_DEPTH} deep" in str(error)
    else:
        assert len(walk(tree)) == 1


ALPHABET = st.sampled_from(
    ["a", "quality", "domain", '"code"', "'", '"', "and", "or", "not", "in", "[", "]", "(", ")", ",", ".", "<", "==",
     "1", "1e400", "0.5", "-", "*", "/", "feature", "threshold", "matches", "lower", "is_unknown", "true", "\n", "\x00",
     "é", "\ud800", "#", "__class__", "lambda", ":", ";"]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(ALPHABET, max_size=25).map(" ".join)))
@example("\ud800")
@example("matches(id, '(')")
@example("lower()")
def test_any_text_is_a_tree_or_a_mistake_inside_it_and_any_tree_is_checked(text: str) -> None:
    try:
        tree = parse_expression(text)
    except ExpressionError as error:
        assert 0 <= error.mistake.at <= len(text)
        assert error.mistake.message
        return
    for mistake in check_expression(tree, VOCABULARY, "truth"):
        assert 0 <= mistake.at < len(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("quality < 0.3 and domain == 'code'", []),
        ("is_unknown(domain) or is_unknown(quality < 1)", []),
        ("quality > threshold('quality') + feature(3, 3071).mean", []),
        ("min(quality, domain_p, 1) > abs(0 - n_tokens)", []),
        ("source == 'web' and startswith(lower(id), 'x') and matches(id, '^a+$')", []),
        ("true", []),
        ("qualty < 1", [(0, "unknown name 'qualty': did you mean 'quality'? known: domain, domain_p, id")]),
        ("quality", [(0, "this is a number, not true or false; compare it: quality > 0.5")]),
        ("domain == 'kode' or domain in ['news', 'cod']", [
            (10, "domain is never 'kode': did you mean 'code'? known: code, news"),
            (39, "domain is never 'cod': did you mean 'code'? known: code, news"),
        ]),
        ("quality == 'good'", [(11, "this is a text, but what it's compared with is a number")]),
        ("domain < 'm'", [(0, "< compares numbers; this is a text"), (9, "< compares numbers; this is a text")]),
        ("quality in ['a']", [(12, "this is a text, but the value before `in` is a number")]),
        ("quality in []", [(0, "nothing is in an empty list")]),
        ("quality and domain == 'code'", [(0, "this is a number, not true or false")]),
        ("feature(4, 1) > feature(3, 3072)", [
            (0, "layer 4 isn't hooked: the features have layers 3"),
            (16, "layer 3 has features 0 to 3071, not 3072"),
        ]),
        ("quality > threshold('qualty')", [(10, "no threshold of 'qualty': did you mean 'quality'?")]),
        ("sqrt(quality) > 1", [(0, "unknown function 'sqrt': known: abs")]),
        ("abs(quality, 1) > 1", [(0, "abs takes 1 value(s), not 2")]),
        ("min(quality) > 1", [(0, "min takes 2 or more value(s), not 1")]),
        ("matches(id, '(')", [(12, "not a regular expression (RE2): ")]),
        ("contains(id, domain)", [(13, "contains looks for a text in quotes")]),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_mistakes_of_names_and_kinds_are_all_told_from_left_to_right(text: str, found: list[tuple[int, str]]) -> None:
    mistakes = check_expression(parse_expression(text), VOCABULARY, "truth")
    assert [m.at for m in mistakes] == [at for at, _ in found]
    for mistake, (_, message) in zip(mistakes, found, strict=True):
        assert mistake.message.startswith(message), mistake.message


def test_without_the_store_only_what_needs_none_is_checked() -> None:
    offline = Vocabulary()
    assert check_expression(parse_expression("anything > feature(99, 1) and other == 'x'"), offline, "truth") == []
    assert check_expression(parse_expression("n_tokens == 'x'"), offline, "truth") != []
    assert check_expression(parse_expression("foo(n_tokens)"), offline, "truth") != []

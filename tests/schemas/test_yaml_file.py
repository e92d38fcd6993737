"""YAML files with mistakes: all of them are told at once, each where it stands."""

from pathlib import Path

import pytest

from assay.schemas.errors import AssayError
from assay.schemas.recipe import Recipe
from assay.schemas.scope import Scope
from assay.schemas.yaml_file import load_yaml

GOOD = """\
name: web-2026
sources:
  - store: s3://bucket/store
rules:
  - name: short
    reason: too short
    drop_if: n_tokens < 40
output:
  path: out
"""


def load(tmp_path: Path, text: str | bytes) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_yaml(path, Recipe)


def mistakes(tmp_path: Path, text: str | bytes) -> list[str]:
    """The lines of the error, the path taken off."""
    with pytest.raises(AssayError) as caught:
        load(tmp_path, text)
    return [line.replace(f"{tmp_path / 'recipe.yaml'}:", "") for line in str(caught.value).splitlines()]


def test_a_recipe_without_mistakes_is_read(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert recipe.rules[0].drop_if == "n_tokens < 40"
    assert recipe.output.format == "parquet"


def test_every_mistake_is_told_at_once_with_line_column_and_nearest_key_in_the_order_of_lines(tmp_path: Path) -> None:
    text = """\
nme: web-2026
sources:
  - stoer: s3://bucket/store
rules:
  - name: short
    reason: too short
    drop_if: n_tokens << 40
  - {name: long, reason: too long, drop_if: n_tokens > 9, undecidd: drop}
mixture: {by: domain, shares: {code: 0.5, prose: 0.4}}
sample: {fraction: 0.5, tokens: 9}
output:
  path: out
  format: csv
  shard_mb: -1
"""
    assert mistakes(tmp_path, text) == [
        "10 mistake(s) in recipe.yaml",
        "1:1: name: required key is missing",
        "1:1: nme: unknown key; did you mean 'name'?",
        "3:5: sources.0.stoer: unknown key; did you mean 'store'?",
        "3:5: sources.0.store: required key is missing",
        "7:24: rules.0.drop_if: unexpected '<': a value should stand here",
        "8:59: rules.1.undecidd: unknown key; did you mean 'undecided'?",
        "9:1: mixture: the shares add up to 0.9, not to 1",
        "10:1: sample: give exactly one of: fraction, tokens, documents",
        "13:3: output.format: Input should be 'parquet' or 'jsonl.zst'",
        "14:3: output.shard_mb: Input should be greater than 0",
    ]


@pytest.mark.parametrize(
    ("scalar", "spot"),
    [
        ("n_tokens < 4 0", "7:27"),
        ("'n_tokens < 4 0'", "7:28"),
        ('"n_tokens < 4 0"', "7:28"),
        ("'domain == ''a'' 0'", "7:31"),
        ('"domain == \\"a\\" 0"', "7:31"),
        ("n_tokens\n      < 4 0", "8:11"),
        ("|\n      n_tokens < 1\n      or n_tokens > 4 0", "9:23"),
        (">-\n\n      n_tokens < 1\n        or n_tokens > 4 0", "10:25"),
        ("&few n_tokens < 4 0", "7:32"),
        ("n_tokens <", "7:24"),
    ],
    ids=str,
)
def test_a_mistake_inside_an_expression_is_told_at_its_own_column_in_every_style_of_yaml(
    tmp_path: Path, scalar: str, spot: str
) -> None:
    text = GOOD.replace("n_tokens < 40", scalar)
    (line,) = mistakes(tmp_path, text)[1:]
    assert line.startswith(f"{spot}: rules.0.drop_if: "), line


def test_two_rules_or_sources_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    rule = "  - {name: short, reason: again, drop_if: quality < 0.1}\n"
    text = GOOD.replace("output:", f"{rule}output:").replace(
        "  - store: s3://bucket/store", "  - {store: a, name: a}\n  - {store: b, name: a}"
    )
    assert mistakes(tmp_path, text)[1:] == [
        "2:1: sources: two sources share a name: ['a', 'a']",
        "5:1: rules: two rules share a name: ['short', 'short']",
    ]


def test_a_rule_may_not_take_the_name_of_a_later_stage(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, GOOD.replace("name: short", "name: mixture"))[1:]
    assert "a rule can't have the name of a later stage: ['mixture']" in line


def test_no_and_yes_stay_words_as_yaml_1_2_has_them(tmp_path: Path) -> None:
    text = GOOD.replace("output:", "mixture: {by: language, shares: {no: 0.5, yes: 0.5}}\noutput:")
    recipe = load(tmp_path, text.replace("reason: too short", "reason: no"))
    assert recipe.rules[0].reason == "no"
    assert recipe.mixture is not None
    assert set(recipe.mixture.shares) == {"no", "yes"}


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("name: a\n  sources: [\n", "2:10: not valid YAML: mapping values are not allowed here"),
        ("name: 'a\n", "not valid YAML: while scanning a quoted scalar"),
        ("name: a\nname: b\n", '2:1: not valid YAML: found duplicate key "name" with value "b" (original value: "a")'),
        ("a: 1\n---\nb: 2\n", "2:1: not valid YAML: but found another document"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place(tmp_path: Path, text: str, first: str) -> None:
    found = mistakes(tmp_path, text)[0]
    assert first in found or found.startswith("2:1: not valid YAML: found unexpected end of stream")


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "word\n"])
def test_a_file_that_is_no_mapping_is_one_mistake(tmp_path: Path, text: str) -> None:
    heading, line = mistakes(tmp_path, text)
    assert heading == "1 mistake(s) in recipe.yaml"
    assert line.startswith("1:1: Input should be a valid dictionary")


def test_a_mistake_in_a_merged_mapping_is_told_where_the_merge_stands(tmp_path: Path) -> None:
    text = GOOD.replace("  - name: short", "  - &base\n    beneath: 1\n    name: short").replace(
        "output:", "  - <<: *base\n    name: more\noutput:"
    )
    found = mistakes(tmp_path, text)
    assert "10:5: rules.1.beneath: unknown key" in found


def test_an_anchor_is_read_like_what_it_stands_for(tmp_path: Path) -> None:
    text = GOOD.replace("drop_if: n_tokens", "drop_if: &few n_tokens").replace(
        "output:", "  - {name: more, reason: more, drop_if: *few}\noutput:"
    )
    assert [rule.drop_if for rule in load(tmp_path, text).rules] == ["n_tokens < 40"] * 2
    wrong = mistakes(tmp_path, text.replace("< 40", "< 4 0"))
    assert wrong[1].startswith("7:32: rules.0.drop_if: ")
    assert wrong[2].startswith("7:32: rules.1.drop_if: ")


def test_a_mapping_that_holds_itself_is_a_mistake_and_no_crash(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="mistake"):
        load(tmp_path, GOOD.replace("output:", "output: &me\n  format: *me"))


def test_a_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()) == load(tmp_path, GOOD)


@pytest.mark.parametrize("data", [b"name: \xff\n", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "recipe.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(AssayError, match="can't read this file") as caught:
        load_yaml(path, Recipe)
    assert caught.value.where == str(path)


def test_a_scope_is_checked_across_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "scope.yaml"
    path.write_text("name: s\nbackbone: b\nsae: s\nlayers: [4, 2]\n")
    with pytest.raises(AssayError, match="layers must be distinct, ascending and 0-based"):
        load_yaml(path, Scope)

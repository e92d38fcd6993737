"""Checks a recipe against its stores: every mistake at once, even in one that has other mistakes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from assay.flows.recipe_facts import Facts, Problem, load_facts, thresholds
from assay.schemas.expression import ExpressionError, Node, Threshold, parse_expression, walk
from assay.schemas.expression_types import Vocabulary, check_expression, did_you_mean
from assay.schemas.recipe import TaggedSource
from assay.schemas.yaml_file import Location

M = TypeVar("M", bound=BaseModel)


class Checked(NamedTuple):
    """What checking found."""

    facts: Facts
    thresholds: dict[str, float]
    """of those taggers whose threshold the recipe's expressions use"""
    problems: list[Problem]
    not_done: list[str]
    """checks that need a store which can't be reached"""


def check_recipe(body: Any) -> Checked:
    """Checks a recipe's plain values (as YAML gives them); what is no valid part is left to the schema's check."""
    body = body if isinstance(body, Mapping) else {}
    sources = list(_valid_items(body, "sources", TaggedSource))
    facts, problems = load_facts(sources)
    names = [source.name or str(location[-1]) for location, source in sources]
    vocabulary = facts.vocabulary(names)
    trees = list(_expressions(body))
    for location, tree, wanted in trees:
        found = check_expression(tree, vocabulary, wanted)  # type: ignore[arg-type]
        problems += [Problem(location, mistake.message, mistake.at) for mistake in found]
    problems += _check_strata(body, vocabulary, facts)
    problems += _check_columns(body, facts)
    calibrations = [
        (("calibrations", i), path) for i, path in enumerate(_items(body.get("calibrations"))) if isinstance(path, str)
    ]
    cuts, more = thresholds(calibrations, facts.taggers)
    used = {node.tagger for _, tree, _ in trees for node in walk(tree) if isinstance(node, Threshold)}
    not_done = [f"{reason}: its run, tags and columns were not checked" for reason in facts.unreachable]
    if not facts.complete:
        not_done.append("names of tags, labels and features were not checked: no store could be read")
    return Checked(facts, {name: cuts[name] for name in sorted(used & set(cuts))}, problems + more, not_done)


def _expressions(body: Mapping[str, Any]) -> Iterator[tuple[Location, Node, str]]:
    """Every expression that can be parsed, with its place and what it must give."""
    for index, rule in enumerate(_items(body.get("rules"))):
        if isinstance(rule, Mapping):
            yield from _parsed(("rules", index, "drop_if"), rule.get("drop_if"), "truth")
    sample = body.get("sample")
    if isinstance(sample, Mapping):
        yield from _parsed(("sample", "top"), sample.get("top"), "number")


def _parsed(location: Location, text: Any, wanted: str) -> Iterator[tuple[Location, Node, str]]:
    if isinstance(text, str):
        try:
            yield location, parse_expression(text), wanted
        except ExpressionError:
            return


def _check_strata(body: Mapping[str, Any], vocabulary: Vocabulary, facts: Facts) -> Iterator[Problem]:
    """Mixture and sample name label tags that there are, and values that they have."""
    by: dict[str, Sequence[str]] = {"source": vocabulary.texts["source"], **facts.labels}
    for location in (("sample", "within"), ("mixture", "by")):
        name = _mapping(body.get(location[0])).get(location[1])
        if isinstance(name, str) and name not in by and facts.complete:
            yield Problem(location, f"no label tag {name!r}: {did_you_mean(name, by)}")
    mixture = _mapping(body.get("mixture"))
    name = mixture.get("by")
    if isinstance(name, str) and name in by:
        for value in _mapping(mixture.get("shares")):
            if value not in by[name]:
                message = f"{name} is never {value!r}: {did_you_mean(str(value), by[name])}"
                yield Problem(("mixture", "shares", value), message)


def _check_columns(body: Mapping[str, Any], facts: Facts) -> Iterator[Problem]:
    output, columns = body.get("output"), facts.columns
    if not isinstance(output, Mapping) or columns is None:
        return
    for index, name in enumerate(_items(output.get("columns"))):
        if isinstance(name, str) and name not in columns:
            yield Problem(("output", "columns", index), f"no column {name!r}: {did_you_mean(name, columns)}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _valid_items(body: Mapping[str, Any], key: str, model: type[M]) -> Iterator[tuple[Location, M]]:
    for index, item in enumerate(_items(body.get(key))):
        valid = _valid(model, item)
        if valid is not None:
            yield (key, index), valid


def _valid(model: type[M], value: Any) -> M | None:
    if value is None:
        return None
    try:
        return model.model_validate(value)
    except ValidationError:
        return None

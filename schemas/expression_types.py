"""Checks an expression against what its names stand for: every mistake with its place, before any document is read."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal as OneOf
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from assay.schemas.expression import (
    COMPARISONS,
    FUNCTIONS,
    Apply,
    Feature,
    Literal,
    Mistake,
    Name,
    Node,
    Threshold,
    Within,
)

Kind = OneOf["number", "text", "truth", "any"]

NUMBERS = ("n_tokens", "tokens_seen", "n_bytes")
TEXTS = ("id", "source", "object")
_SPOKEN = {"number": "a number", "text": "a text", "truth": "true or false"}


class Vocabulary(NamedTuple):
    """What names stand for in one recipe. An incomplete one doesn't know the taggers, and lets unknown names pass."""

    numbers: frozenset[str] = frozenset(NUMBERS)
    texts: Mapping[str, Sequence[str]] = dict.fromkeys(TEXTS, ())
    """name -> its possible values; none listed: any text"""
    thresholds: frozenset[str] = frozenset()
    layers: Mapping[int, int] = {}
    """hooked layer -> number of its SAE features"""
    complete: bool = False

    @property
    def names(self) -> set[str]:
        """Every name that may stand in an expression."""
        return {*self.numbers, *self.texts}


def check_expression(tree: Node, vocabulary: Vocabulary, wanted: Kind) -> list[Mistake]:
    """Every mistake in `tree`, left to right; none if it is of kind `wanted` and can be computed."""
    checker = _Checker(vocabulary)
    found = checker.kind(tree)
    if not _fits(found, wanted):
        hint = f"; compare it: {tree.name} > 0.5" if isinstance(tree, Name) and found == "number" else ""
        checker.mistakes.append(Mistake(tree.at, f"this is {_SPOKEN[found]}, not {_SPOKEN[wanted]}{hint}"))
    return sorted(checker.mistakes)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of `known` as a question, and what is known."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    listed = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {listed or 'none'}"


class _Checker:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.mistakes: list[Mistake] = []

    def kind(self, node: Node) -> Kind:
        """What `node` gives; mistakes in it are noted."""
        if isinstance(node, Literal):
            return "truth" if isinstance(node.value, bool) else "number" if isinstance(node.value, float) else "text"
        if isinstance(node, Name):
            return self._name(node)
        if isinstance(node, Feature):
            self._feature(node)
            return "number"
        if isinstance(node, Threshold):
            known = self._vocabulary.thresholds
            if self._vocabulary.complete and node.tagger not in known:
                self._note(node, f"no threshold of {node.tagger!r}: {did_you_mean(node.tagger, known)}")
            return "number"
        return self._within(node) if isinstance(node, Within) else self._apply(node)

    def _note(self, node: Node, message: str) -> None:
        self.mistakes.append(Mistake(node.at, message))

    def _name(self, node: Name) -> Kind:
        if node.name in self._vocabulary.numbers:
            return "number"
        if node.name in self._vocabulary.texts:
            return "text"
        if self._vocabulary.complete:
            self._note(node, f"unknown name {node.name!r}: {did_you_mean(node.name, self._vocabulary.names)}")
        return "any"

    def _feature(self, node: Feature) -> None:
        if not self._vocabulary.complete:
            return
        layers = self._vocabulary.layers
        if node.layer not in layers:
            self._note(node, f"layer {node.layer} isn't hooked: the features have {_listed(layers)}")
        elif node.feature >= layers[node.layer]:
            self._note(node, f"layer {node.layer} has features 0 to {layers[node.layer] - 1}, not {node.feature}")

    def _within(self, node: Within) -> Kind:
        item = self.kind(node.item)
        if not node.choices:
            self._note(node, "nothing is in an empty list")
        for choice in node.choices:
            kind = self.kind(choice)
            if kind == "truth" or not _fits(kind, item):
                self._note(choice, f"this is {_SPOKEN[kind]}, but the value before `in` is {_SPOKEN.get(item, item)}")
            else:
                self._label(node.item, choice)
        if item == "truth":
            self._note(node, "true and false are in no list")
        return "truth"

    def _apply(self, node: Apply) -> Kind:
        operator, operands = node.operator, node.operands
        if operator in ("and", "or", "not"):
            self._want(operands, "truth")
            return "truth"
        if operator in ("==", "!="):
            self._equality(node)
            return "truth"
        if operator in COMPARISONS:
            self._want(operands, "number", f"{operator} compares numbers; ")
            return "truth"
        if operator in ("+", "-", "*", "/", "negate"):
            self._want(operands, "number")
            return "number"
        return self._call(node)

    def _call(self, node: Apply) -> Kind:
        function, operands = node.operator, node.operands
        arity = FUNCTIONS.get(function)
        if arity is None:
            self._note(node, f"unknown function {function!r}: {did_you_mean(function, _FUNCTION_NAMES)}")
            return "any"
        many = function in ("min", "max")
        if len(operands) != arity and not (many and len(operands) > arity):
            wanted = f"{arity}{' or more' if many else ''}"
            self._note(node, f"{function} takes {wanted} value(s), not {len(operands)}")
            return "any"
        if function in ("abs", "min", "max"):
            self._want(operands, "number")
            return "number"
        if function == "is_unknown":
            self.kind(operands[0])
            return "truth"
        self._want(operands, "text")
        if function == "lower":
            return "text"
        if not isinstance(operands[1], Literal):
            self._note(operands[1], f"{function} looks for a text in quotes")
        elif function == "matches" and (problem := _pattern_problem(operands[1].value)):
            self._note(operands[1], problem)
        return "truth"

    def _want(self, operands: Sequence[Node], wanted: Kind, why: str = "") -> None:
        for operand in operands:
            kind = self.kind(operand)
            if not _fits(kind, wanted):
                self._note(operand, f"{why}this is {_SPOKEN[kind]}, not {_SPOKEN[wanted]}")

    def _equality(self, node: Apply) -> None:
        first, second = node.operands
        kinds = self.kind(first), self.kind(second)
        if not _fits(*kinds):
            self._note(second, f"this is {_SPOKEN[kinds[1]]}, but what it's compared with is {_SPOKEN[kinds[0]]}")
            return
        for item, label in ((first, second), (second, first)):
            if isinstance(label, Literal):
                self._label(item, label)

    def _label(self, item: Node, label: Literal) -> None:
        """Notes a text that the tagger behind `item` never gives."""
        known = self._vocabulary.texts.get(item.name, ()) if isinstance(item, Name) else ()
        if known and isinstance(item, Name) and label.value not in known:
            self._note(label, f"{item.name} is never {label.value!r}: {did_you_mean(str(label.value), known)}")


_FUNCTION_NAMES = (*FUNCTIONS, "feature", "threshold")


def _fits(kind: Kind, wanted: Kind) -> bool:
    return kind == wanted or "any" in (kind, wanted)


def _listed(numbers: Iterable[int]) -> str:
    return "layers " + ", ".join(map(str, sorted(numbers)))


def _pattern_problem(pattern: object) -> str:
    try:
        pc.match_substring_regex(pa.array([""]), pattern=str(pattern))
    except pa.ArrowInvalid as e:
        return f"not a regular expression (RE2): {str(e).removeprefix('Invalid regular expression: ')}"
    return ""

"""A recipe's expressions: a small closed language whose text becomes a tree, or an AssayError with its column.

Nothing in it can be executed, assigned or called but the functions of `FUNCTIONS`; length and depth are bounded. What
an expression means is told in docs/recipes.md; `expression_types` checks a tree and workers/expressions computes it.
"""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken, VisitError

from assay.schemas.errors import printable

MAX_LENGTH = 4_000
MAX_DEPTH = 60
PARTS = ("max", "mean", "count")
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
FUNCTIONS = {"abs": 1, "lower": 1, "is_unknown": 1, "startswith": 2, "contains": 2, "matches": 2, "min": 2, "max": 2}
"""name -> number of operands; min and max take more, too"""

_GRAMMAR = r"""
?start: either
?either: both (OR both)*                        -> joined
?both: inverse (AND inverse)*                   -> joined
?inverse: NOT inverse                           -> inverted
        | compared
?compared: sum (COMPARE sum)*                   -> compared
         | sum IN choices                       -> within
         | sum NOT IN choices                   -> not_within
choices: "[" (choice ("," choice)* ","?)? "]"
?choice: literal | MINUS NUMBER                 -> negative
?sum: product ((PLUS | MINUS) product)*         -> arithmetic
?product: signed ((TIMES | OVER) signed)*       -> arithmetic
?signed: MINUS signed                           -> negated
       | value
?value: literal | name | call | "(" either ")"
      | call "." NAME                           -> part
literal: NUMBER | STRING | TRUE | FALSE
name: NAME ("." NAME)*
call: NAME "(" (either ("," either)*)? ")"
OR: "or"
AND: "and"
NOT: "not"
IN: "in"
TRUE: "true"
FALSE: "false"
COMPARE: "==" | "!=" | "<=" | ">=" | "<" | ">"
PLUS: "+"
MINUS: "-"
TIMES: "*"
OVER: "/"
NUMBER: /[0-9][0-9_]*(\.[0-9]+)?([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?/
STRING: /"[^"\n]*"|'[^'\n]*'/
NAME: /[A-Za-z_][A-Za-z0-9_]*/
%ignore /[ \t\r\n]+/
"""
_KEYWORDS = ("or", "and", "not", "in", "true", "false")
_INSTEAD = {"=": "==", "&": "and", "|": "or", "!": "not, or !="}


class Mistake(NamedTuple):
    """What is wrong at a place of an expression's text."""

    at: int
    """0-based offset, in characters"""
    message: str


class ExpressionError(ValueError):
    """The text is no expression."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(mistake.message)
        self.mistake = mistake


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, a text in quotes, or true or false."""

    value: float | str | bool
    at: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A column of the tags, or something known of a document: n_tokens, source, ..."""

    name: str
    at: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Feature:
    """feature(layer, id): a pooled activation of an SAE feature."""

    layer: int
    feature: int
    part: str
    at: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Threshold:
    """threshold("tagger"): where the tagger's score is best cut."""

    tagger: str
    at: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Within:
    """item in [a, b]."""

    item: "Node"
    choices: tuple[Literal, ...]
    at: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Apply:
    """An operator or a function with its operands."""

    operator: str
    operands: tuple["Node", ...]
    at: int = field(compare=False)


Node = Literal | Name | Feature | Threshold | Within | Apply


def parse_expression(text: str) -> Node:
    """The tree of an expression. Raises ExpressionError, with the place, for whatever is no expression."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(Mistake(MAX_LENGTH, f"an expression has at most {MAX_LENGTH:,} characters"))
    try:
        tree: Node = _parser().parse(text)  # type: ignore[assignment]  # the transformer makes nodes of it
    except UnexpectedInput as e:
        raise ExpressionError(_unexpected(e, text)) from None
    except VisitError as e:
        if isinstance(e.orig_exc, ExpressionError):
            raise e.orig_exc from None
        raise
    return tree


def children(node: Node) -> tuple[Node, ...]:
    """The nodes right below `node`."""
    if isinstance(node, Apply):
        return node.operands
    return (node.item,) if isinstance(node, Within) else ()


def walk(node: Node) -> list[Node]:
    """`node` and all below it."""
    return [node, *(below for child in children(node) for below in walk(child))]


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", transformer=_Builder())


def _unexpected(error: UnexpectedInput, text: str) -> Mistake:
    if isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        return Mistake(len(text), "the expression ends too early" if text.strip() else "the expression is empty")
    if isinstance(error, UnexpectedCharacters):
        at = error.pos_in_stream or 0
        found = text[at]
        if found in "\"'":
            return Mistake(at, f"the text that begins with {found} has no end")
        instead = f": write {_INSTEAD[found]}" if found in _INSTEAD else ""
        return Mistake(at, f"unexpected {printable(found)!r}{instead}")
    assert isinstance(error, UnexpectedToken)  # noqa: S101 - the parser raises nothing else
    token = error.token
    return Mistake(token.start_pos or 0, f"unexpected {printable(token, 40)!r}{_wanted(error.expected)}")


def _wanted(expected: set[str]) -> str:
    if expected & {"NAME", "NUMBER"}:
        return ": a value should stand here" if "NUMBER" in expected else ": a name should stand here"
    if "RPAR" in expected:
        return ": an operator, a comma or ) should stand here"
    return ": an operator should stand here" if "AND" in expected or "COMPARE" in expected else ""


class _Builder(Transformer[Token, Node]):
    """Makes nodes while the text is parsed; nothing here recurses, so the text's depth can't exhaust the stack."""

    def literal(self, parts: list[Token]) -> Literal:
        (token,) = parts
        at = _at(token)
        if token.type == "STRING":
            return Literal(str(token)[1:-1], at)
        if token.type in ("TRUE", "FALSE"):
            return Literal(token.type == "TRUE", at)
        return _number(token, at)

    def negative(self, parts: list[Token]) -> Literal:
        value = _number(parts[1], _at(parts[0]))
        return Literal(-float(value.value), value.at)

    def name(self, parts: list[Token]) -> Name:
        if word := next((part for part in parts if part in _KEYWORDS), None):
            raise ExpressionError(Mistake(_at(word), f"unexpected '{word}': a value should stand here"))
        return Name(".".join(parts), _at(parts[0]))

    def joined(self, parts: list[Any]) -> Node:
        return parts[0] if len(parts) == 1 else _apply(str(parts[1]), tuple(parts[::2]))

    def inverted(self, parts: list[Any]) -> Node:
        return _apply("not", (parts[1],), _at(parts[0]))

    def negated(self, parts: list[Any]) -> Node:
        return _apply("negate", (parts[1],), _at(parts[0]))

    def compared(self, parts: list[Any]) -> Node:
        """a < b <= c means a < b and b <= c."""
        if len(parts) == 1:
            return parts[0]
        pairs = [_apply(str(op), (a, b)) for a, op, b in zip(parts[::2], parts[1::2], parts[2::2], strict=False)]
        return pairs[0] if len(pairs) == 1 else _apply("and", tuple(pairs))

    def arithmetic(self, parts: list[Any]) -> Node:
        total = parts[0]
        for operator, operand in zip(parts[1::2], parts[2::2], strict=True):
            total = _apply(str(operator), (total, operand))
        return total

    def choices(self, parts: list[Literal]) -> tuple[Literal, ...]:
        return tuple(parts)

    def within(self, parts: list[Any]) -> Node:
        return Within(parts[0], parts[-1], parts[0].at)

    def not_within(self, parts: list[Any]) -> Node:
        return _apply("not", (self.within(parts),))

    def call(self, parts: list[Any]) -> Node:
        name, *operands = parts
        at, function = _at(name), str(name)
        if function == "feature":
            return _feature(operands, at)
        if function == "threshold":
            if len(operands) != 1 or not isinstance(operands[0], Literal) or not isinstance(operands[0].value, str):
                raise ExpressionError(Mistake(at, 'threshold takes the name of a tagger: threshold("toxicity")'))
            return Threshold(operands[0].value, at)
        return _apply(function, tuple(operands), at)

    def part(self, parts: list[Any]) -> Node:
        call, part = parts
        if not isinstance(call, Feature):
            raise ExpressionError(Mistake(_at(part), f"only feature(...) has parts: {', '.join(PARTS)}"))
        if part not in PARTS:
            raise ExpressionError(Mistake(_at(part), f"a feature has no {part}: it has {', '.join(PARTS)}"))
        return Feature(call.layer, call.feature, str(part), call.at)


def _at(token: Token) -> int:
    return token.start_pos or 0


def _number(token: Token, at: int) -> Literal:
    value = float(token.replace("_", ""))
    if not math.isfinite(value):
        raise ExpressionError(Mistake(at, "this number is too large"))
    return Literal(value, at)


def _feature(operands: list[Node], at: int) -> Feature:
    values = [o.value for o in operands if isinstance(o, Literal) and isinstance(o.value, float)]
    if len(values) != len(operands) or len(values) != 2 or not all(v.is_integer() and v < 2**31 for v in values):
        raise ExpressionError(Mistake(at, "feature takes a layer and a feature id: feature(3, 262)"))
    return Feature(int(values[0]), int(values[1]), "max", at)


def _apply(operator: str, operands: tuple[Node, ...], at: int | None = None) -> Apply:
    node = Apply(operator, operands, operands[0].at if at is None else at)
    level, depth = [node], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ExpressionError(Mistake(node.at, f"nested more than {MAX_DEPTH} deep: make two rules of it"))
        level = [child for above in level for child in children(above)]  # type: ignore[misc]
    return node

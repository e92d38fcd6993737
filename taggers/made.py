"""Texts that no set holds: passages, broken text made of good text, and code that this machine has."""

import ast
import random
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from assay.schemas.definition import Passages
from assay.taggers.examples import Split

_LONGEST = 1200
_CODE_FILES = 400
_CODE_SHORTEST = 150


class Made(NamedTuple):
    """A text and what names it."""

    id: str
    text: str


class Passage(NamedTuple):
    """A passage, its number in its text, and the split that its place gives it."""

    number: int
    text: str
    split: Split


def passages(text: str, how: Passages) -> list[Passage]:
    """Whole lines joined to passages; the first 70 % are discovery, the next 10 % validation, the last 20 % test."""
    found, passage = [], ""
    for line in text.split("\n"):
        passage = f"{passage} {line.strip()}".strip()
        if len(passage) >= how.characters:
            found.append(passage[: 2 * how.characters])
            passage = ""
    if how.at_most is not None:
        found = found[:: max(1, len(found) // how.at_most)]
    places = [i / len(found) for i in range(len(found))]
    splits = ["discovery" if place < 0.7 else "validation" if place < 0.8 else "test" for place in places]
    return [Passage(i, p, split) for i, (p, split) in enumerate(zip(found, splits, strict=True))]


def broken_text(id: str, text: str) -> str:
    """The text as a bad extraction leaves it: words in random order, letters replaced, or one line repeated."""
    rng = random.Random(id)  # noqa: S311 - reproducible, not secret
    words = text[: rng.randint(200, _LONGEST)].split()
    kind = rng.randrange(3)
    if kind == 0:
        rng.shuffle(words)
        return " ".join(words)
    if kind == 1:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789#%&*"
        return " ".join("".join(rng.choice(letters) for _ in word) for word in words)
    return (" ".join(words[: rng.randint(4, 14)]) + "\n") * rng.randint(8, 40)


def python_code() -> Iterator[Made]:
    """Functions and classes of the standard library, up to three a module."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py")) + sorted(folder.glob("asyncio/*.py")) + sorted(folder.glob("email/*.py"))
    for path in files[:_CODE_FILES]:
        source = path.read_text("utf-8", "replace")
        try:
            body = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        except SyntaxError:
            continue
        for node in body[:3]:
            passage = "\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno])[:_LONGEST]
            if len(passage) > _CODE_SHORTEST:
                yield Made(f"{path.relative_to(folder)}:{node.name}", passage)


MADE: dict[str, Callable[[], Iterator[Made]]] = {"python_code": python_code}
DERIVED: dict[str, Callable[[str, str], str]] = {"broken_text": broken_text}

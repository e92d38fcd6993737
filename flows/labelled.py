"""The labelled texts that the default taggers are fitted on: what each label means, and which split a text is in.

Splits follow one rule everywhere: the first 32 bits of SHA-256 of a key, modulo 10; 0 to 6 is discovery, 7 is
validation, 8 and 9 are test. The key is the row's id, or what groups rows that belong together.
"""

import ast
import gzip
import hashlib
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from assay.sae_runtime.training.common import graded_article
from assay.schemas.errors import AssayError

Split = Literal["discovery", "validation", "test"]

GOOD_FORMATS = {
    "Academic Writing", "Creative Writing", "Docs.", "FAQ", "Knowledge Article", "Legal", "News Article",
    "Nonfiction Writing", "Q&A", "Tutorial",
}  # fmt: skip
BAD_FORMATS = {"Content Listing", "Product Page", "Spam / Ads", "Structured Data", "Truncated"}
LANGUAGES = {
    "arb": "ar", "ces": "cs", "cmn_hans": "zh", "cmn_hant": "zh", "deu": "de", "ell_monotonic": "el", "eng": "en",
    "fra": "fr", "heb": "he", "hin": "hi", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "nld": "nl",
    "pol": "pl", "por_BR": "pt", "por_PT": "pt", "ron": "ro", "rus": "ru", "spa": "es", "swe": "sv", "tur": "tr",
    "ukr": "uk", "vie": "vi",
}  # fmt: skip
_OTHERS = 40
_HATECHECK = {"german": "de", "spanish": "es", "french": "fr", "italian": "it", "portuguese": "pt"}
_SNIPPET = 220
_PAGE = 1200
_CODE_FILES = 400


class Labelled(NamedTuple):
    """One labelled text."""

    id: str
    text: str
    label: str
    split: Split
    source: str


def split_of(key: str) -> Split:
    """The split that `key` falls into."""
    bucket = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 10
    return "discovery" if bucket < 7 else "validation" if bucket == 7 else "test"


def read_rows(folder: Path, name: str) -> Iterator[dict[str, str]]:
    """The rows of one labelled set; AssayError says where it was looked for."""
    path = folder / f"{name}.jsonl.gz"
    if not path.is_file():
        raise AssayError("this labelled set is missing", where=str(path), hint="--data names the folder that has it")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def domain(folder: Path) -> Iterator[Labelled]:
    """Web pages by topic, in 24 classes."""
    for row in read_rows(folder, "weborganizer"):
        yield Labelled(row["id"], _page(row), row["topic"], split_of(row["id"]), "web")


def quality(folder: Path) -> Iterator[Labelled]:
    """Web pages of formats that a language model learns from (high) or that carry little (low), and broken text.

    Broken text is made from pages of the same split: words in random order, letters replaced, or one line repeated.
    """
    for row in read_rows(folder, "weborganizer"):
        split = split_of(row["id"])
        if row["format"] in GOOD_FORMATS | BAD_FORMATS:
            label = "high" if row["format"] in GOOD_FORMATS else "low"
            yield Labelled(row["id"], _page(row), label, split, "web")
        if row["format"] in GOOD_FORMATS and hashlib.sha256(row["id"].encode()).digest()[-1] < 40:
            yield Labelled(f"{row['id']}-broken", _broken(row["text"], row["id"]), "low", split, "broken")


def toxicity(folder: Path) -> Iterator[Labelled]:
    """Abusive tweets and sentences against civil ones, against the web, and against a civil text in many languages."""
    for row in read_rows(folder, "davidson"):
        label = "civil" if row["label"] == "neither" else "toxic"
        yield Labelled(row["id"], row["text"], label, split_of(row["id"]), "tweets")
    for row in read_rows(folder, "multilingual_hatecheck"):
        label = "toxic" if row["label"] == "hateful" else "civil"
        yield Labelled(row["id"], row["text"], label, split_of(row["id"]), f"sentences-{_HATECHECK[row['lang']]}")
    for passage in _declaration(folder):
        yield passage._replace(label="civil")
    for row in read_rows(folder, "weborganizer"):
        if row["topic"] == "Adult":
            continue
        split = split_of(row["id"])
        start = row["text"].find(" ", len(row["text"]) // 3) + 1
        snippet = row["text"][start : start + _SNIPPET].strip()
        if len(snippet) > _SNIPPET // 4:
            yield Labelled(f"{row['id']}-snippet", snippet, "civil", split, "web snippets")
        if hashlib.sha256(row["id"].encode()).digest()[-1] < 64:
            yield Labelled(row["id"], _page(row), "civil", split, "web")


def language(folder: Path) -> Iterator[Labelled]:
    """Passages by language; `code` is programming code, `other` any of forty further languages.

    One declaration is split by place (first 70 %, next 10 %, last 20 %), so its passages differ between the splits.
    """
    yield from _declaration(folder)
    for row in read_rows(folder, "multilingual_hatecheck"):
        if hashlib.sha256(row["id"].encode()).digest()[-1] < 10:
            yield Labelled(f"{row['id']}-l", row["text"], _HATECHECK[row["lang"]], split_of(row["id"]), "sentences")
    for row in read_rows(folder, "weborganizer"):
        if hashlib.sha256(row["id"].encode()).digest()[-1] < 24:
            start = row["text"].find(" ", len(row["text"]) // 3) + 1
            yield Labelled(f"{row['id']}-l", row["text"][start : start + 300], "en", split_of(row["id"]), "web")
    for name, passage in _code():
        yield Labelled(f"code-{name}", passage, "code", split_of(name), "standard library")


def reading_level(folder: Path) -> Iterator[Labelled]:
    """News articles rewritten at three reading levels; the levels of one article are in one split."""
    for row in read_rows(folder, "onestop"):
        split = split_of(graded_article(row["article"]))
        yield Labelled(row["id"], row["text"], row["level"], split, "graded news")


def _declaration(folder: Path) -> Iterator[Labelled]:
    """Passages of one declaration in many languages, labelled by language."""
    rows = {row["lang"]: row["text"] for row in read_rows(folder, "udhr2")}
    rest = sorted(set(rows) - set(LANGUAGES), key=lambda lang: hashlib.sha256(lang.encode()).hexdigest())[:_OTHERS]
    for lang in [*LANGUAGES, *rest]:
        passages = list(_passages(rows[lang]))
        kept = passages if lang in LANGUAGES else passages[:: max(1, len(passages) // 12)]
        for i, passage in enumerate(kept):
            place = i / len(kept)
            split: Split = "discovery" if place < 0.7 else "validation" if place < 0.8 else "test"
            yield Labelled(f"udhr-{lang}-{i}", passage, LANGUAGES.get(lang, "other"), split, "declaration")


AXES = {"quality": quality, "toxicity": toxicity, "domain": domain, "language": language}


def _page(row: dict[str, str]) -> str:
    """A page as far as it's read for fitting; test pages are read whole."""
    return row["text"] if split_of(row["id"]) == "test" else row["text"][:_PAGE]


def _passages(text: str, length: int = 250) -> Iterator[str]:
    passage = ""
    for line in text.split("\n"):
        passage = f"{passage} {line.strip()}".strip()
        if len(passage) >= length:
            yield passage[: 2 * length]
            passage = ""


def _broken(text: str, key: str) -> str:
    rng = random.Random(key)  # noqa: S311 - reproducible, not secret
    words = text[: rng.randint(200, _PAGE)].split()
    kind = rng.randrange(3)
    if kind == 0:
        rng.shuffle(words)
        return " ".join(words)
    if kind == 1:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789#%&*"
        return " ".join("".join(rng.choice(letters) for _ in word) for word in words)
    return (" ".join(words[: rng.randint(4, 14)]) + "\n") * rng.randint(8, 40)


def _code() -> Iterator[tuple[str, str]]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py")) + sorted(folder.glob("asyncio/*.py")) + sorted(folder.glob("email/*.py"))
    for path in files[:_CODE_FILES]:
        source = path.read_text("utf-8", "replace")
        try:
            body = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        except SyntaxError:
            continue
        for node in body[:3]:
            passage = "\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno])[:1200]
            if len(passage) > 150:
                yield f"{path.relative_to(folder)}:{node.name}", passage

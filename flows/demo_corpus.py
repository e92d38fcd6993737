"""A small corpus from text that any machine with Python has, and documents written for it: the same bytes each time.

Code, documentation and licence texts come from the standard library and the installed packages. What they lack
(news, recipes, spam, insults, gibberish, other languages) is in demo_documents.jsonl, which ships with the package.
One file of each format is written. written.jsonl also has three broken records, so that a first run shows what
becomes of them: a line that is not JSON, a null text and an empty text.
"""

import ast
import gzip
import hashlib
import html
import importlib.metadata
import importlib.resources
import io
import json
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from assay.schemas.base import Model
from assay.schemas.errors import AssayError

BROKEN = ('{"id": "broken-line", "text": "this record never', '{"id": "broken-null", "text": null, "source": "broken"}',
          '{"id": "broken-empty", "text": "", "source": "broken"}')  # fmt: skip
SHORTEST, LONGEST = 200, 4000
_DOCS_SHARE, _LICENCES_SHARE = 0.35, 0.15
_SKIPPED = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test", "_bundled", "pydoc_data"}
_CODE_EDGE = re.compile(r"^(?=(?:@|def |class |async def |if __name__))", re.MULTILINE)
_PROSE_EDGE = re.compile(r"\n[ \t]*\n")
_LICENCE_NAME = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)


class Document(Model):
    """A document of the corpus, in the columns that every file has."""

    id: str
    text: str
    source: str


class DemoCorpus(Model):
    """Where the corpus lies and how many good documents each source gave."""

    path: str
    counts: dict[str, int] = Field(description="source -> documents, without the broken records")
    broken: int = Field(len(BROKEN), description="records planted to be quarantined")


def write_demo_corpus(folder: Path, documents: int = 1200) -> DemoCorpus:
    """Writes `documents` documents to four files in `folder`: the same bytes on the same machine.

    All written documents are in it, whatever the number; the rest is drawn by hash, and is fewer where the machine
    has too little text. Raises AssayError if `documents` is fewer than the written ones.
    """
    written = list(written_documents())
    rest = documents - len(written)
    if rest < 0:
        raise AssayError(f"a demo corpus has at least {len(written)} documents, not {documents}")
    licences = _draw(_licences(), round(rest * _LICENCES_SHARE))
    modules = _modules(limit=max(documents // 4, 100))
    docs = _draw(_documentation(modules), round(rest * _DOCS_SHARE))
    code = _draw(_code(modules), rest - len(docs) - len(licences))
    folder.mkdir(parents=True, exist_ok=True)
    rows = [document.model_dump() for document in code]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([(c, pa.string()) for c in Document.model_fields])),
                   folder / "code.parquet")  # fmt: skip
    (folder / "docs.jsonl.gz").write_bytes(gzip.compress(_lines(docs), mtime=0))
    (folder / "licences.jsonl").write_bytes(_lines(licences))
    (folder / "written.jsonl").write_bytes(_with_broken(_lines(written)))
    counts = {"code": len(code), "docs": len(docs), "licences": len(licences), "written": len(written)}
    return DemoCorpus(path=str(folder), counts=counts, broken=len(BROKEN))


def written_documents() -> Iterator[Document]:
    """The documents that ship with the package, their kind in `source`: written/news, written/spam, ..."""
    shipped = importlib.resources.files("assay.flows").joinpath("demo_documents.jsonl").read_text("utf-8")
    for line in shipped.splitlines():
        record = json.loads(line)
        yield Document(id=f"written/{record['id']}", text=record["text"], source=f"written/{record['kind']}")


def split(text: str, edge: re.Pattern[str], size: int) -> Iterator[str]:
    """Cuts a text into pieces of `SHORTEST` to `size` characters, at the last edge that fits, else at a line's end.

    A last piece shorter than `SHORTEST` is left out.
    """
    start = 0
    while len(text) - start > size:
        window = text[start : start + size]
        edges = [m.start() for m in edge.finditer(window) if m.start() >= SHORTEST]
        line_end = window.rfind("\n", SHORTEST)
        cut = edges[-1] if edges else line_end if line_end > 0 else size
        yield window[:cut].strip("\n")
        start += cut
    last = text[start:].strip("\n")
    if len(last) >= SHORTEST:
        yield last


def _draw(candidates: Iterable[Document], n: int) -> list[Document]:
    unique = {hashlib.sha256(d.text.encode("utf-8")).digest(): d for d in candidates}
    ordered = sorted(unique.values(), key=lambda d: _digest(d.id))
    return sorted(ordered[:n], key=lambda d: d.id)


def _pieces(name: str, text: str, edge: re.Pattern[str]) -> Iterator[Document]:
    size = SHORTEST * 2 + int.from_bytes(_digest(name)[:4], "big") % (LONGEST - SHORTEST * 2 + 1)
    for index, piece in enumerate(split(text, edge, size)):
        if len(piece) >= SHORTEST:
            yield Document(id=f"{name}#{index}", text=piece, source=name.split("/", 1)[0])


def _code(modules: Iterable[tuple[str, str]]) -> Iterator[Document]:
    for name, text in modules:
        yield from _pieces(f"code/{name}", text, _CODE_EDGE)


def _documentation(modules: Iterable[tuple[str, str]]) -> Iterator[Document]:
    for topic in sorted(topics):
        yield from _pieces(f"docs/topics/{topic}", topics[topic], _PROSE_EDGE)
    for name, text in modules:
        docstring = _docstring(text)
        if docstring:
            yield from _pieces(f"docs/modules/{name}", docstring, _PROSE_EDGE)
    for package, distribution in _distributions():
        described = distribution.metadata.json.get("description")
        if isinstance(described, str):
            sound = described.encode("utf-8", "replace").decode("utf-8")
            yield from _pieces(f"docs/packages/{package}", sound, _PROSE_EDGE)
    idle = _stdlib() / "idlelib" / "help.html"
    if idle.exists():
        page = html.unescape(re.sub(r"<[^>]+>", "", idle.read_text("utf-8", "replace")))
        yield from _pieces("docs/idle", page, _PROSE_EDGE)


def _licences() -> Iterator[Document]:
    for package, distribution in _distributions():
        for file in sorted(f for f in distribution.files or [] if _LICENCE_NAME.search(f.name)):
            path = Path(str(file.locate()))
            if path.suffix in {"", ".txt", ".md", ".rst"} and path.is_file():
                yield from _pieces(f"licences/{package}/{file.as_posix()}", _text(path), _PROSE_EDGE)
    python = _stdlib() / "LICENSE.txt"
    if python.exists():
        yield from _pieces("licences/python", _text(python), _PROSE_EDGE)


def _distributions() -> list[tuple[str, importlib.metadata.Distribution]]:
    found = {d.metadata["Name"].lower(): d for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return sorted(found.items())


def _modules(limit: int) -> list[tuple[str, str]]:
    root = _stdlib()
    found = [*root.glob("*.py"), *(p for d in root.iterdir() if d.name not in _SKIPPED for p in d.rglob("*.py"))]
    names = [path.relative_to(root) for path in found]
    kept = [name.as_posix() for name in names if not _SKIPPED.intersection(name.parts)]
    return [(name, _text(root / name)) for name in sorted(kept, key=_digest)[:limit]]


def _docstring(source: str) -> str | None:
    try:
        return ast.get_docstring(ast.parse(source))
    except (SyntaxError, ValueError):
        return None


def _stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()


def _lines(documents: Iterable[Document]) -> bytes:
    out = io.BytesIO()
    for document in documents:
        out.write(json.dumps(document.model_dump(), ensure_ascii=False).encode("utf-8") + b"\n")
    return out.getvalue()


def _with_broken(lines: bytes) -> bytes:
    records = lines.splitlines(keepends=True)
    for index, broken in enumerate(BROKEN):
        records.insert(10 + 20 * index, broken.encode("utf-8") + b"\n")
    return b"".join(records)

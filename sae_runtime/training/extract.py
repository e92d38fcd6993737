"""Turns files as packages ship them (HTML, roff, dictd, fortune, POD, source) into plain documents.

Text is only ever parsed here, never executed or imported.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

MAX_PART_CHARS = 8_000
MIN_DOCUMENT_CHARS = 40

_BLOCKS = frozenset(
    "p div li ul ol dl dt dd table tr pre h1 h2 h3 h4 h5 h6 section article blockquote br hr title".split()  # noqa: SIM905
)
_SKIPPED = frozenset(("script", "style", "nav", "header", "footer", "head", "svg", "form"))


class _TextOfPage(HTMLParser):
    """Collects the visible text of one page; block elements start a new line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._skipping: list[str] = []
        self._pre_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipping.append(tag)
        elif tag in _BLOCKS:
            self.pieces.append("\n\n" if tag in {"p", "pre", "h1", "h2", "h3"} else "\n")
        if tag == "pre":
            self._pre_depth += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in self._skipping:
            while self._skipping.pop() != tag:
                pass
        if tag == "pre":
            self._pre_depth = max(0, self._pre_depth - 1)
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.pieces.append(data if self._pre_depth else re.sub(r"\s+", " ", data))


def html_text(markup: str) -> str:
    """Gives the visible text of a page with runs of blank lines reduced to one."""
    page = _TextOfPage()
    page.feed(markup)
    return tidy("".join(page.pieces))


_ROFF_ESCAPES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\s[-+]?\d"), ""),
    (re.compile(r"\\\*?\((?:aq|dq)"), "'"),
    (re.compile(r"\\\*?\([lr]q|\\\[[lr]q\]"), '"'),
    (re.compile(r"\\\((?:em|en)"), "-"),
    (re.compile(r"\\([-.])"), r"\1"),
    (re.compile(r"\\[&%|^/,:cpd{}]"), ""),
    (re.compile(r"\\[~ 0]"), " "),
    (re.compile(r"\\e|\\\(rs"), "\\\\"),
    (re.compile(r'\\".*'), ""),
    (re.compile(r"\\\*?(?:\(..|\[[^\]]*\])"), ""),
]
_ROFF_KEEP_ARGUMENTS = frozenset(
    "SH SS B I R BR IB BI RB RI IR SM SB IP TP Nm Nd Sh Ss Fl Ar It Pa Xr Em Sy Dq Li".split()  # noqa: SIM905
)


def roff_text(source: str) -> str:
    """Gives the readable text of a manual page: macros dropped, headings and their arguments kept."""
    lines: list[str] = []
    for line in source.splitlines():
        if line[:1] in ".'":
            macro, _, arguments = line[1:].strip().partition(" ")
            if macro in {"PP", "P", "LP", "Pp", "sp"}:
                lines.append("")
                continue
            if macro not in _ROFF_KEEP_ARGUMENTS:
                continue
            line = arguments.replace('"', "")
            if macro in {"SH", "SS", "Sh", "Ss", "TP", "IP"}:
                lines.append("")
        for pattern, replacement in _ROFF_ESCAPES:
            line = pattern.sub(replacement, line)
        lines.append(line)
    return tidy("\n".join(lines))


def tidy(text: str) -> str:
    """Removes trailing blanks, control characters and runs of blank lines."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text.replace("\r\n", "\n"))
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def parts(text: str, limit: int = MAX_PART_CHARS) -> Iterator[str]:
    """Cuts a long text at blank lines (or at `limit`) so that no part exceeds `limit` characters."""
    while len(text) > limit:
        cut = text.rfind("\n\n", limit // 2, limit)
        cut = cut if cut > 0 else text.rfind("\n", limit // 2, limit)
        cut = cut if cut > 0 else limit
        yield text[:cut].strip()
        text = text[cut:].strip()
    yield text


def _entries(text: str) -> Iterator[str]:
    """Yields dictionary entries: a headword at the line start and its indented lines."""
    entry: list[str] = []
    for line in text.splitlines():
        if line[:1].strip() and entry and len("\n".join(entry)) > 400:
            yield "\n".join(entry)
            entry = []
        entry.append(line)
    yield "\n".join(entry)


def _read(path: Path) -> str:
    raw = path.read_bytes()
    if path.name.endswith((".gz", ".dz")):
        raw = gzip.decompress(raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def documents_of(path: Path, kind: str) -> Iterator[str]:
    """Yields the plain documents of one file of the given kind.

    Kinds: html, roff, plain (also source code and POD), dict, fortune.
    """
    whole: Callable[[str], str] = {"html": html_text, "roff": roff_text}.get(kind, tidy)
    text = _read(path)
    if kind == "dict":
        pieces: Iterator[str] = _entries(text)
    elif kind == "fortune":
        pieces = iter(re.split(r"\n%\s*\n", text))
    else:
        pieces = iter([text])
    for piece in pieces:
        for part in parts(whole(piece)):
            if len(part) >= MIN_DOCUMENT_CHARS:
                yield part

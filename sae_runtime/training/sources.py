"""The list of texts the embedded model is trained on, with a cap and a weight for each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One text source; `cap` bounds its training characters, `weight` is passes through it per epoch."""

    name: str
    """Debian package, local folder or labelled file."""
    kind: str
    """How its files are read: html, roff, plain, dict, fortune or labelled."""
    match: str = ""
    """Regular expression that a file's path inside the package must contain."""
    cap: int = 500_000
    """Most characters kept on the training side."""
    weight: float = 1.0
    """Passes through the kept text per training epoch; may be below one."""


def _many(kind: str, match: str, caps: dict[str, int]) -> list[Source]:
    return [Source(name, kind, match, cap) for name, cap in caps.items()]


_MAN = r"/man/.*\.[1-8]\.gz$"
_HTML = r"\.html?(\.gz)?$"
_FORTUNE = r"/games/fortunes/[^.]+$"

PACKAGES: list[Source] = [
    *_many(
        "html",
        _HTML,
        {
            "python3.11-doc": 2_000_000,
            "debian-handbook": 2_500_000,
            "installation-guide-amd64": 1_500_000,
            "postgresql-doc-15": 800_000,
            "sqlite3-doc": 500_000,
            "vim-doc": 600_000,
            "gimp-help-en": 800_000,
            "linux-doc-6.1": 1_000_000,
            "debian-faq": 200_000,
            "developers-reference": 400_000,
            "debian-policy": 400_000,
            "harden-doc": 500_000,
            "aptitude-doc-es": 200_000,
            "aptitude-doc-fr": 200_000,
            "debian-reference-en": 200_000,
            "debian-reference-de": 250_000,
            "debian-reference-fr": 250_000,
            "debian-reference-es": 250_000,
            "debian-reference-ja": 250_000,
            "debian-reference-zh-cn": 250_000,
            "debian-reference-it": 250_000,
            "debian-reference-pt": 250_000,
        },
    ),
    *_many(
        "roff",
        _MAN,
        {
            "manpages": 700_000,
            "manpages-dev": 500_000,
            "manpages-de": 600_000,
            "manpages-fr": 600_000,
            "manpages-es": 400_000,
            "manpages-ja": 600_000,
            "manpages-ru": 600_000,
            "manpages-zh": 600_000,
            "manpages-pl": 400_000,
            "manpages-it": 300_000,
            "manpages-pt-br": 300_000,
        },
    ),
    *_many(
        "dict",
        r"\.dict\.dz$",
        {
            "dict-gcide": 1_500_000,
            "dict-foldoc": 900_000,
            "dict-jargon": 600_000,
            "dict-devil": 300_000,
            "dict-vera": 150_000,
        },
    ),
    *_many(
        "fortune",
        _FORTUNE,
        {
            "fortunes": 800_000,
            "fortunes-min": 100_000,
            "fortunes-de": 500_000,
            "fortunes-it": 400_000,
            "fortunes-ru": 500_000,
            "fortunes-cs": 250_000,
            "fortunes-pl": 400_000,
            "fortunes-br": 250_000,
        },
    ),
    Source("perl-doc", "plain", r"\.pod$", 800_000),
    Source("doc-debian", "plain", r"\.txt(\.gz)?$", 150_000),
]

LABELLED: list[Source] = [
    Source("weborganizer", "labelled", cap=30_000_000, weight=3.0),
    Source("davidson", "labelled", cap=1_000_000, weight=2.0),
    Source("multilingual_hatecheck", "labelled", cap=700_000, weight=2.0),
    Source("onestop", "labelled", cap=1_000_000, weight=3.0),
    Source("udhr2", "labelled", cap=3_500_000, weight=0.4),
]

LABELLED_LICENCES: dict[str, str] = {
    "weborganizer": "no licence stated for the pages (Common Crawl terms of use)",
    "davidson": "MIT",
    "multilingual_hatecheck": "CC BY 4.0",
    "onestop": "CC BY-SA 4.0",
    "udhr2": "public domain",
}

LOCAL: list[Source] = [
    Source("python-stdlib", "plain", r"\.py$", 2_500_000),
    Source("common-licenses", "plain", r"common-licenses/", 400_000),
]

FALLBACK: list[Source] = [
    Source("usr-share-doc", "plain", r"/(copyright|README[^/]*|NEWS[^/]*)$", 3_000_000),
    Source("words", "plain", r"/(words|american-english|web2)$", 300_000),
]

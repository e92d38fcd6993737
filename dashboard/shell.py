"""The frame of every page: a policy that lets nothing be fetched or run, the styles in the file, and its parts."""

import importlib.resources
from collections.abc import Sequence

from assay.dashboard.markup import Child, Html, data, join, tag, visible

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, main: Sequence[Child], footer: Html, styles: Sequence[str] = ("report.css",)) -> str:
    """One self-contained page without scripts; `styles` name this package's style sheets. Equal parts, equal bytes."""
    folder = importlib.resources.files("assay.dashboard")
    style = "".join(folder.joinpath(name).read_text("utf-8") for name in styles)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", visible(title)),
        tag("style", Html(style)),
    )
    body = tag("body", tag("main", *main), footer)
    return "<!doctype html>\n" + tag("html", head, body, lang="en").source + "\n"


def section(title: str, text: str, content: Html) -> Html:
    """A part of the page: its heading and what it says to the left of its content."""
    aside = tag("div", tag("h2", data(title)), tag("p", text), class_="aside")
    return tag("section", aside, tag("div", content, class_="content"))


def legend(*entries: tuple[str, str]) -> Html:
    """What the colours mean: (style class, name) each."""
    return tag("p", *(tag("span", tag("span", class_=f"dot {s}"), name) for s, name in entries), class_="legend")


def key_figures(figures: Sequence[tuple[str, Child, Child]]) -> Html:
    """The page's first numbers: (name, value, note) each."""
    entries = [
        tag("div", tag("dt", name), tag("dd", value, class_="value"), tag("dd", note, class_="note"))
        for name, value, note in figures
    ]
    return tag("dl", *entries, class_="key")


def facts(entries: Sequence[tuple[str, str]]) -> Html:
    """Names and values as a footer lists them."""
    made = [tag("div", tag("dt", data(name)), tag("dd", data(value, 200))) for name, value in entries]
    return tag("dl", *made) if made else join()

"""HTML that is escaped by construction: a string can only enter a page as text or as a quoted attribute value."""

import html
import unicodedata
from dataclasses import dataclass

VOID = frozenset({"meta"})
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
_CAMEL = frozenset({"viewBox", "preserveAspectRatio"})


@dataclass(frozen=True)
class Html:
    """Markup made by `tag`, `join` or this package's own style sheet; never from data."""

    source: str


Child = Html | str | int


def visible(text: str, limit: int = 160) -> str:
    """Text in which nothing acts unseen: controls, direction overrides and zero-width characters become ⟨U+…⟩.

    Joiners between letters beyond ASCII stay, since emoji and some scripts are spelled with them.
    """
    shown = []
    for index, character in enumerate(text):
        if unicodedata.category(character) not in _HIDDEN or _joins(text, index):
            shown.append(character)
        else:
            shown.append(f"⟨U+{ord(character):04X}⟩")
        if index + 1 >= limit and index + 1 < len(text):
            shown.append("…")
            break
    return "".join(shown)


def tag(element: str, /, *children: Child | None, **attributes: str | int | float | None) -> Html:
    """One element; strings are escaped. `class_` gives class, `data_x` gives data-x, None leaves an attribute out."""
    pairs = []
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            spelled = key if key in _CAMEL else key.rstrip("_").replace("_", "-")
            pairs.append(f' {spelled}="{html.escape(visible(shown, 2000))}"')
    opening = f"<{element}{''.join(pairs)}>"
    return Html(opening if element in VOID else f"{opening}{join(*children).source}</{element}>")


def join(*children: Child | None) -> Html:
    """Elements and texts one after the other."""
    return Html("".join(_source(child) for child in children if child is not None))


def data(text: str, limit: int = 80) -> Html:
    """A string that came from a corpus, kept apart in direction from what surrounds it."""
    shown = visible(text, limit)
    whole = visible(text, 2000)
    return tag("bdi", shown, title=whole if whole != shown else None)


def _source(child: Child) -> str:
    return child.source if isinstance(child, Html) else html.escape(visible(str(child), 20_000))


def _joins(text: str, index: int) -> bool:
    if text[index] not in _JOINERS or index == 0 or index + 1 == len(text):
        return False
    return ord(text[index - 1]) > 127 and ord(text[index + 1]) > 127

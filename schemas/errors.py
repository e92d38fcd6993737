"""The one error type that is shown to a user without a traceback."""

import difflib
from collections.abc import Iterable


class AssayError(Exception):
    """A mistake that its reader can mend: says what is wrong, where, and what to do next."""

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what, where, hint)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  hint: {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        """Keeps the three parts when the error crosses a process border."""
        return _rebuild, (type(self), self.what, self.where, self.hint)


class StorageError(AssayError):
    """A failure of the storage, which another attempt may not meet."""


class Unfinished(AssayError):
    """Some of the work was given up; what was done is kept, and another run does the rest."""


def _rebuild(cls: type[AssayError], what: str, where: str, hint: str) -> AssayError:
    return cls(what, where=where, hint=hint)


def unknown_name(kind: str, name: str, known: Iterable[str], *, where: str = "") -> AssayError:
    """The error for a name that isn't in a list: names the nearest match and the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return AssayError(f"unknown {kind} {name!r}", where=where, hint=f"{guess}known: {', '.join(names) or 'none'}")


def inert(text: str, keep: str = "") -> str:
    """Text of any script made harmless on a terminal: controls and direction marks, but for `keep`, are escaped."""
    return "".join(c if c.isprintable() or c in keep else printable(c) for c in text)


def printable(text: object, limit: int = 200) -> str:
    """Text from a corpus made safe for a terminal or a log: escaped to printable ASCII, at most `limit` characters."""
    escaped = str(text).encode("unicode_escape", "replace").decode("ascii")
    return escaped if len(escaped) <= limit else escaped[: limit - 3] + "..."

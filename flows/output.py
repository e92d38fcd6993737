"""Files that a command leaves for its user: whole or not at all, and a place that can't be written is told in words."""

import tempfile
from pathlib import Path

from assay.schemas.errors import AssayError


def require_place(path: Path) -> None:
    """AssayError, before any work is done, if no file can be made at `path`; makes the folder that it lies in."""
    if path.is_dir():
        raise AssayError("this is a folder", where=str(path), hint="name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as e:
        raise AssayError(f"can't write here: {e.strerror}", where=str(path), hint="name another file") from e


def write_whole(path: Path, text: str) -> None:
    """Leaves either the old file or the whole new one at `path`; AssayError if it can't be written."""
    require_place(path)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError as e:
        raise AssayError(f"can't write: {e.strerror}", where=str(path), hint="name another file") from e

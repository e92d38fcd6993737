"""The application that the commands are added to, and how they print: corpus text can't move a cursor."""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from assay.schemas.errors import inert

OK, FINDINGS, USAGE, INTERRUPTED = 0, 1, 2, 130

START, LOOK, ABOUT = (Group(name, sort_key=i) for i, name in enumerate(["Run", "Look", "Check"]))

app = App(
    name="assay",
    suppress_keyboard_interrupt=False,
    version=lambda: version("assay"),
    help="""Weighs text corpora by what a Qwen model sees in them.

    `assay demo` shows all of it on text from this machine, in minutes. On your own text: `assay tag` gives each
    document quality, safety, domain and language tags read off SAE features, `assay curate` filters by them, and
    `assay report` shows what is in the corpus. CORPUS and STORE are local paths or URIs such as s3://bucket/prefix.

    Exit codes: 0 done, 1 done with findings (something was unreadable, given up, or failed a check), 2 wrong usage or
    input, 130 interrupted. Every run can be interrupted and continued with the same command.
    """,
)

Store = Annotated[str, Parameter(help="folder or URI of the store")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="print JSON")]
Run = Annotated[str | None, Parameter(help="run id; needed where the store holds several runs")]


def stdout() -> Any:
    """The console for what rich renders."""
    from rich.console import Console

    # A pipe has no width: a table that is cut to 80 columns there is no use to anyone.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140
    return Console(highlight=False, markup=False, emoji=False, width=width)


def print_lines(lines: list[str]) -> None:
    """Lines to stdout, made inert."""
    sys.stdout.write(inert("\n".join(lines), keep="\n") + "\n")
    sys.stdout.flush()


def message(text: str) -> None:
    """A line to stderr, made inert."""
    sys.stderr.write(inert(text, keep="\n") + "\n")


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """A table to stdout, its cells made inert."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold", no_wrap=name not in ("corpus", "backbone", "sae"))
    for row in rows:
        table.add_row(*(Text(inert(cell)) for cell in row))
    stdout().print(table)


def write_page(path: Path, page: str) -> None:
    """Writes a page whole and says where."""
    from assay.flows.output import write_whole

    write_whole(path, page)
    message(f"wrote {path}")

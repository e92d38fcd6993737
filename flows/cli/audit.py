"""Commands that tell what a tagger is worth: evidence."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import LOOK, OK, AsJson, app, message, print_lines, stdout

Html = Annotated[Path | None, Parameter(help="write one self-contained HTML file here")]


@app.command(group=LOOK)
def evidence(
    tagger: Annotated[Path, Parameter(help="tagger file (JSON)")], *, html: Html = None, json: AsJson = False
) -> int:
    """Show what a tagger is worth: held-out figures with intervals beside all baselines, slices and features."""
    from assay.dashboard.evidence_page import evidence_page
    from assay.dashboard.evidence_text import evidence_text
    from assay.flows.evidence import read_evidence

    read, found = read_evidence(tagger)
    if html is not None:
        write_page(html, evidence_page(read, found))
    if json:
        print_lines([found.model_dump_json(indent=1)])
    elif html is None:
        stdout().print(evidence_text(read, found))
    return OK


def write_page(path: Path, page: str) -> None:
    """Writes a page and says where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, "utf-8")
    message(f"wrote {path}")

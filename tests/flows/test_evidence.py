"""The command that shows a tagger's evidence."""

from pathlib import Path

import pytest

from assay.flows.cli import OK, USAGE
from assay.schemas.evidence import Evidence
from assay.schemas.tagger import dump_tagger
from tests.dashboard.evidence import scored
from tests.dashboard.test_report import Page
from tests.flows.conftest import Cli


@pytest.fixture
def tagger_file(tmp_path: Path) -> Path:
    path = tmp_path / "toxicity.json"
    path.write_text(dump_tagger(scored(rival=0.99)), "utf-8")
    return path


def test_evidence_is_shown_in_the_terminal_a_winning_baseline_first(tagger_file: Path, cli: Cli) -> None:
    ran = cli("evidence", tagger_file)
    assert ran.code == OK
    assert ran.out.startswith("A baseline wins: TF-IDF + logistic regression")
    assert "0.905 0.885–0.925" in ran.out


def test_evidence_as_a_page_is_written_where_it_says(tagger_file: Path, tmp_path: Path, cli: Cli) -> None:
    page = tmp_path / "out" / "evidence.html"
    ran = cli("evidence", tagger_file, "--html", page)
    assert ran.code == OK
    assert f"wrote {page}" in ran.err
    assert "A baseline wins" in "".join(Page(page.read_text("utf-8")).text)


def test_evidence_as_json_is_the_files_own(tagger_file: Path, cli: Cli) -> None:
    assert Evidence.model_validate_json(cli("evidence", tagger_file, "--json").out) == scored(rival=0.99).evidence


def test_a_tagger_without_evidence_is_a_mistake_that_says_what_to_do(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "bare.json"
    path.write_text(dump_tagger(scored().model_copy(update={"evidence": None})), "utf-8")
    ran = cli("evidence", path)
    assert ran.code == USAGE
    assert "has no evidence" in ran.err
    assert "assay fit" in ran.err

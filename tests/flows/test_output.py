"""Files for the user: whole or not at all, and a wrong place is told before any work."""

from pathlib import Path

import pytest

from assay.flows.output import require_place, write_whole
from assay.schemas.errors import AssayError


def test_a_file_is_written_in_a_folder_that_is_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_whole(tmp_path / "new/a.json", "{}")
    write_whole(tmp_path / "new/a.json", "[]")
    assert {p.name: p.read_text() for p in (tmp_path / "new").iterdir()} == {"a.json": "[]"}


@pytest.mark.parametrize("place", ["folder", "file/a.json", "/proc/none/a.json"])
def test_a_place_that_can_not_be_written_is_told_by_its_name(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(AssayError) as refused:
        require_place(tmp_path / place)
    assert refused.value.where.endswith(place)
    assert refused.value.hint

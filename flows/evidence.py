"""Reads a tagger with its evidence."""

from pathlib import Path

from pydantic import ValidationError

from assay.schemas.errors import AssayError
from assay.schemas.evidence import Evidence
from assay.schemas.tagger import Tagger, load_tagger


def read_evidence(path: Path) -> tuple[Tagger, Evidence]:
    """The tagger in a file and its evidence; AssayError if it has none that can be shown."""
    tagger = load_tagger(path)
    try:
        return tagger, Evidence.model_validate(tagger.evidence)
    except ValidationError as e:
        raise AssayError(
            f"tagger {tagger.name!r} has no evidence of the present form", where=str(path), hint="fit it again"
        ) from e

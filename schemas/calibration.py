"""A threshold set for one corpus, kept beside the tagger and not in it."""

from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat

from assay.schemas.base import Model
from assay.schemas.evidence import Figures
from assay.schemas.json_file import load_json


class Calibration(Model):
    """An overlay: where a tagger's score is cut on one corpus, by which rule, and on what evidence."""

    format: Literal["assay.calibration/1"] = "assay.calibration/1"
    tagger: str = Field(description="the tagger's name")
    fingerprint: str = Field(description="of the tagger; another one is an error")
    store: str
    run: str = Field(description="the tagging run that it was set on")
    threshold: FiniteFloat = Field(ge=0, le=1, description="a document is positive where score > threshold")
    rule: Literal["share", "fpr", "precision"] = Field(
        description="share: of all documents that are positive; fpr: of negatives that are; precision: of positives"
    )
    target: float = Field(gt=0, lt=1, description="the wanted share, false-positive rate or precision")
    documents: int = Field(description="documents of the run with a score")
    unknown: int = Field(description="documents of the run without one")
    labelled: int = Field(0, description="labelled documents that it rests on; none for a share")
    labels_sha256: str | None = Field(None, description="of their ids and labels")
    figures: Figures = Field(
        default_factory=dict, description="share, and where labels are given fpr, precision, recall"
    )


def load_calibration(path: Path) -> Calibration:
    """Reads one overlay; a wrong one is an AssayError that names file and key."""
    return load_json(path, Calibration, "calibration")

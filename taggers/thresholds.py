"""Where a tagger's score is cut: by its own threshold, or by the overlay that was set for the corpus at hand."""

from collections.abc import Iterable

from assay.schemas.calibration import Calibration
from assay.schemas.errors import AssayError
from assay.schemas.tagger import Tagger


def threshold_of(tagger: Tagger, overlays: Iterable[Calibration] = ()) -> float:
    """The score above which a document is positive: that of the tagger's overlay, where there is one, else its own.

    AssayError for an overlay of the same name that was set for another fit of the tagger, or for two of them.
    """
    mine = [overlay for overlay in overlays if overlay.tagger == tagger.name]
    for overlay in mine:
        if overlay.fingerprint != tagger.fingerprint:
            raise AssayError(
                f"the calibration of {tagger.name!r} is of tagger {overlay.fingerprint}, this one is "
                f"{tagger.fingerprint}",
                hint="a tagger that was fitted again gives other scores: calibrate it again",
            )
    if len(mine) > 1:
        raise AssayError(f"two calibrations of {tagger.name!r}", hint="name the one that is of this corpus")
    return mine[0].threshold if mine else tagger.threshold

"""The command line. Heavy packages are imported inside the commands that use them."""

import os
import sys

from assay.flows.cli import (  # noqa: F401 - adds the commands
    audit,
    check,
    compare,
    datasets,
    dedup,
    look,
    run,
    store,
    taggers,
    tagging,
)
from assay.flows.cli.console import FINDINGS, INTERRUPTED, OK, USAGE, app, message
from assay.schemas.errors import AssayError, Unfinished

__all__ = ["FINDINGS", "INTERRUPTED", "OK", "USAGE", "app", "main"]


def main() -> None:
    """The `assay` command: errors that a user can mend are shown without a traceback (ASSAY_DEBUG=1 shows it)."""
    try:
        code = app(result_action="return_value")
    except AssayError as e:
        if os.environ.get("ASSAY_DEBUG"):
            raise
        message(f"error: {e}")
        code = FINDINGS if isinstance(e, Unfinished) else USAGE
    except KeyboardInterrupt:
        message("interrupted; what is committed is kept, and the same command continues")
        code = INTERRUPTED
    sys.exit(code if isinstance(code, int) else OK)

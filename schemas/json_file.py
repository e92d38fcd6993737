"""JSON files of a user checked against a model."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from assay.schemas.errors import AssayError

M = TypeVar("M", bound=BaseModel)


def load_json(path: Path, model: type[M], what: str, *, hint: str = "") -> M:
    """Reads `path` as `model`; a wrong file is an AssayError that names `what` it should be, the file and the key."""
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as e:
        raise AssayError(f"can't read {what}: {e.strerror}", where=str(path)) from e
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "file"
        raise AssayError(f"not a valid {what}: {key}: {first['msg']}", where=str(path), hint=hint) from e

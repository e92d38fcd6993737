"""The base of every exchanged model, and the fingerprint that names what it produced."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def record_json(record: BaseModel) -> bytes:
    """A record as it is kept: keys in the model's order, and a dict's in its own, which for columns is the source's."""
    return record.model_dump_json().encode()


def fingerprint(value: Any) -> str:
    """16 hex digits (64 bits of SHA-256) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]

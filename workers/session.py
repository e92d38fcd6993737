"""A Ray session that closes what it opened, never attaches to a cluster that nobody named, and lets nobody else in."""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assay.schemas.errors import AssayError, printable


def cluster_address(address: str | None) -> str | None:
    """The cluster that `address` or RAY_ADDRESS names; None for one of this machine's own."""
    target = address or os.environ.get("RAY_ADDRESS")
    return None if target in (None, "", "local") else target


def cluster_gpus() -> int:
    """GPUs of the cluster that the session is connected to."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


@contextmanager
def ray_session(address: str | None, *, cpus: int = 1) -> Iterator[None]:
    """Connects to `address` (or RAY_ADDRESS), or starts one on this machine for the time of the block.

    The latter counts at least `cpus` cores, so that as many actors as the user asked for find a place.

    A session that the caller opened before is used and left open. Raises AssayError if the cluster can't be reached.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    target = cluster_address(address) or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without it Ray warns about a change of default that concerns tasks with num_gpus=0 only.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = target == "local"
    if local:
        _guard()
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # The object store carries receipts of a few kB, so a small one serves.
    own: dict[str, Any] = {}
    if local:
        own = {
            "num_cpus": max(2, os.cpu_count() or 1, cpus),
            "include_dashboard": False,
            "object_store_memory": 128 * 2**20,
        }
    # It would warn that a local cluster is protected by a token, which is as it should be.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    try:
        ray.init(address=target, namespace="assay", log_to_driver=False, logging_level=logging.WARNING, **own)
    except Exception as e:  # Ray raises bare Exceptions where a node doesn't start in time
        ray.shutdown()
        raise AssayError(
            f"can't start or reach Ray: {printable(e, 600)}",
            where=target,
            hint="try again if the machine was overloaded; `assay doctor` checks Ray; a cluster with token auth needs "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token",
        ) from e
    try:
        yield
    finally:
        ray.shutdown()


def _guard() -> None:
    """Sees to it that a cluster of this machine asks for a token, and that only this user can read it.

    Ray's ports answer on every interface, and whoever may talk to them may run code here.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")  # where it isn't set, Ray itself asks for a token
    if mode.lower() != "token":
        raise AssayError(
            "RAY_AUTH_MODE would open the workers to everyone who reaches this machine",
            where=f"RAY_AUTH_MODE={mode}",
            hint="unset it: a local cluster is then guarded by a token",
        )
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return
    with os.fdopen(handle, "w") as out:
        out.write(secrets.token_hex(32))

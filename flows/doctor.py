"""Checks the parts that Assay stands on, and says for each what to do."""

import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from assay.schemas.base import Model
from assay.schemas.errors import AssayError

_LOW_DISK = 2 * 2**30


class Check(Model):
    """One line of the doctor's findings."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def checkup(scope: str, store: str | None) -> Iterator[Check]:
    """Checks one part after another; a part that breaks its check is a finding, never an exception."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("disk", _disk),
        ("torch", _torch),
        ("gpu", _gpu),
        ("weights", lambda: _weights(scope)),
        ("ray", _ray),
        ("prefect", _prefect),
        ("storage", lambda: _storage(store)),
        ("hub", _hub),
    ]
    for name, check in checks:
        try:
            yield check()
        except AssayError as e:
            yield Check(name=name, state="fail", found=f"{e.where}: {e.what}" if e.where else e.what, advice=e.hint)
        except Exception as e:  # noqa: BLE001 - a diagnosis must outlive what it diagnoses
            yield Check(name=name, state="fail", found=f"{type(e).__name__}: {e}", advice="reinstall this package")


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(name="python", state="ok", found=f"{version}, assay {importlib.metadata.version('assay')}")


def _disk() -> Check:
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < _LOW_DISK:
        advice = "Ray stops working when its disk is full: free some"
        return Check(name="disk", state="warn", found=found, advice=advice)
    return Check(name="disk", state="ok", found=found)


def _torch() -> Check:
    import torch

    threads = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    return Check(name="torch", state="ok", found=f"{torch.__version__}, {threads}")


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check(
            name="gpu",
            state="warn",
            found="none visible",
            advice="the embedded scope runs on CPUs; for Qwen suites use a GPU machine and a CUDA build of torch",
        )
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Check(name="gpu", state="ok", found="; ".join(f"{c.name}, {c.total_memory / 2**30:.0f} GiB" for c in cards))


def _weights(name: str) -> Check:
    from assay.flows.scopes import resolve_scope
    from assay.sae_runtime.runtime import Runtime

    started = time.monotonic()
    resolved = resolve_scope(name)
    runtime = Runtime(resolved.scope, device=resolved.device, watched=resolved.watched)
    n_tokens = int(runtime.features(["Assay weighs text."]).n_tokens[0])
    names = ", ".join(t.name for t in resolved.taggers) or "none"
    fitted = all(t.encoder == runtime.encoder_fingerprint for t in resolved.taggers)
    found = (
        f"{name}: encoder {runtime.encoder_fingerprint}, layers {list(resolved.scope.layers)}, "
        f"{n_tokens} tokens encoded, taggers: {names} ({time.monotonic() - started:.1f} s)"
    )
    if not fitted:
        advice = "the taggers were fitted on another encoder (other weights, or dtype: CPU and GPU differ)"
        return Check(name="weights", state="fail", found=found, advice=advice)
    return Check(name="weights", state="ok", found=found)


def _ray() -> Check:
    import ray

    from assay.workers.session import ray_session

    started = time.monotonic()
    with ray_session(None):
        resources = ray.cluster_resources()
    where = os.environ.get("RAY_ADDRESS") or "local"
    found = (
        f"{ray.__version__} at {where}: {resources.get('CPU', 0):.0f} CPUs, {resources.get('GPU', 0):.0f} GPUs "
        f"({time.monotonic() - started:.1f} s)"
    )
    return Check(name="ray", state="ok", found=found)


def _prefect() -> Check:
    import prefect

    from assay.flows.engine import server_url

    url = server_url()
    if url is None:
        return Check(
            name="prefect",
            state="ok",
            found=f"{prefect.__version__}, no server configured: flows run as plain Python",
            advice="set PREFECT_API_URL to record runs",
        )
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        advice = "start it with `prefect server start`, or unset PREFECT_API_URL"
        return Check(name="prefect", state="fail", found=f"{url} doesn't answer: {problem}", advice=advice)
    return Check(name="prefect", state="ok", found=f"{prefect.__version__}, server {url} answers")


def _storage(uri: str | None) -> Check:
    from assay.workers.storage.objects import ObjectStore

    if uri is None:
        with tempfile.TemporaryDirectory() as folder:
            kind = ObjectStore(folder).probe()
        return Check(
            name="storage",
            state="ok" if kind == "atomic" else "fail",
            found=f"local disk: create-if-absent is {kind}",
            advice="`assay doctor --store s3://bucket/prefix` checks object storage" if kind == "atomic" else "",
        )
    kind = ObjectStore(uri).probe()
    if kind == "atomic":
        return Check(name="storage", state="ok", found=f"{uri}: list, write, delete work; create-if-absent is atomic")
    advice = "this store can't promise that a commit is made once: use one with conditional writes (If-None-Match)"
    return Check(name="storage", state="fail", found=f"{uri}: create-if-absent is {kind}", advice=advice)


def _hub() -> Check:
    from huggingface_hub import HfApi

    from assay.flows.engine import offline_hub

    if offline_hub():
        return Check(name="hub", state="ok", found="HF_HUB_OFFLINE is set: only cached models are used")
    try:
        HfApi().model_info("Qwen/Qwen3-1.7B-Base", timeout=5)
    except Exception as e:  # noqa: BLE001 - any failure means the same: not reachable
        return Check(
            name="hub",
            state="warn",
            found=f"not reachable ({type(e).__name__})",
            advice="needed only to fetch Qwen weights by name; the embedded scope and local folders work without",
        )
    return Check(name="hub", state="ok", found="reachable")

"""Runs a flow under a Prefect server where one is configured, and as plain Python where none is."""

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from prefect import Flow, Task
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL

from assay.schemas.errors import inert


def server_url() -> str | None:
    """The API of the Prefect server that environment or profile name, if any."""
    return PREFECT_API_URL.value() or None


def run_flow(flow: Flow[..., Any], *args: Any) -> Any:
    """The flow's result. Without a server the same body runs with no engine round it, and nothing is recorded."""
    return flow(*args) if server_url() else flow.fn(*args)


def step(task: Task[..., Any]) -> Callable[..., Any]:
    """A task as part of a flow: a recorded and retried task run in a flow run, the bare function elsewhere."""
    return task if FlowRunContext.get() else task.fn


def in_flow_run() -> bool:
    """Whether artifacts and events have a run to belong to."""
    return FlowRunContext.get() is not None


def markdown_list(lines: list[str]) -> str:
    """Lines as an artifact shows them, a file name in them as inert as any text."""
    return "\n".join(f"- {inert(line).strip()}" for line in lines)


def assay_version() -> str:
    """The installed version of Assay."""
    return version("assay")


def offline_hub() -> bool:
    """Whether the Hub may not be asked (HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")

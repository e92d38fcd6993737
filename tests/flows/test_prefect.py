"""Under a Prefect server a run is recorded with its tasks and a summary, and wrong parameters never start one."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterName,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, PREFECT_RESULTS_PERSIST_BY_DEFAULT, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from assay.flows.curate import curate
from assay.flows.engine import run_flow, server_url
from assay.flows.tag import tag_corpus
from assay.schemas.errors import AssayError
from assay.schemas.parameters import CurateParameters
from tests.flows.conftest import Tagged, tag_parameters
from tests.flows.corpora import hashes, write_corpus

_INGEST_SECONDS = 60


@pytest.fixture(scope="module")
def server() -> Iterator[SyncPrefectClient]:
    """A Prefect server of its own database, to which this process's flows report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
            yield client


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Path]:
    """Where Prefect would leave results, on a server whose profile persists them by default."""
    folder = tmp_path / "results"
    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True, PREFECT_LOCAL_STORAGE_PATH: folder}):
        yield folder


def the_run(server: SyncPrefectClient, name: str) -> FlowRun:
    (run,) = server.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
    return run


def task_states(server: SyncPrefectClient, run: UUID, wanted: int) -> dict[str, str]:
    """Task name -> state, once `wanted` task runs have ended: the server takes them in some time after the run."""
    of_run = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run]))

    def ended() -> dict[str, str]:
        runs = server.read_task_runs(task_run_filter=of_run)
        return {r.name.rpartition("-")[0]: r.state.name for r in runs if r.state and r.state.is_final()}

    return wait_for(ended, wanted)


def wait_for(read: Callable[[], dict[str, str]], wanted: int) -> dict[str, str]:
    deadline = time.monotonic() + _INGEST_SECONDS
    while len(found := read()) < wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def summary(server: SyncPrefectClient, run: UUID) -> tuple[str | None, str]:
    (artifact,) = server.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
    return artifact.key, str(artifact.data)


def test_a_tagging_run_is_recorded_with_its_tasks_and_a_summary(
    server: SyncPrefectClient, storage: Path, tiny_scope: Path, ray_cluster: None, tmp_path: Path
) -> None:
    assert server_url()
    corpus = write_corpus(tmp_path / "corpus", documents=24)
    report = run_flow(tag_corpus, tag_parameters(corpus.path, tmp_path / "store", tiny_scope, shard_mb=1))
    assert report.manifest.rows_kept == len(corpus.documents)
    run = the_run(server, f"tag {corpus.path}")
    assert run.state is not None
    assert run.state.is_completed()
    assert run.parameters["parameters"]["corpus"] == str(corpus.path)
    assert task_states(server, run.id, 3) == dict.fromkeys(["plan shards", "tag shards", "seal run"], "Completed")
    key, text = summary(server, run.id)
    assert key == "tag-summary"
    assert f"kept {len(corpus.documents)} + dropped 0" in text
    assert all(c.isprintable() or c == "\n" for c in text)
    assert not storage.exists()


def test_a_curation_is_recorded_and_a_folder_of_another_recipe_is_refused_without_retries(
    server: SyncPrefectClient, storage: Path, tagged: Tagged, tmp_path: Path
) -> None:
    def parameters(name: str) -> CurateParameters:
        recipe = {"name": name, "sources": [{"store": str(tagged.store)}], "output": {"path": str(tmp_path / "out")}}
        return CurateParameters.model_validate({"recipe": recipe, "workers": 1})

    made = run_flow(curate, parameters("first")).manifest
    run = the_run(server, "curate first")
    assert run.state is not None
    assert run.state.is_completed()
    states = task_states(server, run.id, 4)
    assert states == dict.fromkeys(["survey", "claim output", "write dataset", "seal dataset"], "Completed")
    key, text = summary(server, run.id)
    assert key == "curation-summary"
    assert f"kept {made.kept.documents} + dropped 0" in text
    assert not storage.exists()

    before = hashes(tmp_path / "out")
    with pytest.raises(AssayError, match="another recipe"):
        run_flow(curate, parameters("second"))
    refused = the_run(server, "curate second")
    assert refused.state is not None
    assert refused.state.is_failed()
    assert task_states(server, refused.id, 1) == {"claim output": "Failed"}
    attempts = server.read_task_runs(
        task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[refused.id]))
    )
    assert {attempt.run_count for attempt in attempts} == {1}
    assert hashes(tmp_path / "out") == before


def test_wrong_parameters_are_refused_before_anything_runs(server: SyncPrefectClient, tmp_path: Path) -> None:
    store = tmp_path / "store"
    wrong = {"corpus": str(tmp_path), "store": str(store), "workers": 0, "shard_gb": 1}
    with pytest.raises(ParameterTypeError) as refused:
        run_flow(tag_corpus, wrong)
    assert "parameters.workers" in str(refused.value)
    assert "parameters.shard_gb" in str(refused.value)
    assert not store.exists()

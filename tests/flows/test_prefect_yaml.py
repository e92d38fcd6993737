"""prefect.yaml against Prefect's own schema: a misspelled key would be ignored without a word."""

from importlib import import_module
from pathlib import Path

import pytest
from prefect import Flow
from prefect.cli.deploy._models import ConcurrencyLimitSpec, DeploymentConfig, WorkPoolConfig
from ruamel.yaml import YAML

CONFIG = YAML(typ="safe").load(Path(__file__).parents[2] / "prefect.yaml")
DEPLOYMENTS = {d["name"]: d for d in CONFIG["deployments"]}


def unknown_keys(given: dict, model: type) -> set[str]:
    fields = model.model_fields
    return set(given) - set(fields) - {field.alias for field in fields.values()}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_key_of_a_deployment_is_one_that_prefect_knows(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    assert unknown_keys(deployment, DeploymentConfig) == set()
    assert unknown_keys(deployment["work_pool"], WorkPoolConfig) == set()
    assert unknown_keys(deployment["concurrency_limit"], ConcurrencyLimitSpec) == set()
    DeploymentConfig.model_validate(deployment)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_entrypoint_is_a_flow_of_the_installed_package(name: str) -> None:
    module, _, function = DEPLOYMENTS[name]["entrypoint"].rpartition(".")
    assert isinstance(getattr(import_module(module), function), Flow)

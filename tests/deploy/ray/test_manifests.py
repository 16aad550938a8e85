"""The production configuration: valid for Serve, and consistent with itself and with the service's settings."""

from typing import Any

import pytest
import yaml

from app.settings import Settings, load_settings
from tests.server import ROOT

FOLDER = ROOT / "deploy" / "ray"
TOKENS = 197
"""Tokens of an image of 224 pixels in patches of 16."""


@pytest.fixture(scope="module")
def production() -> Any:
    return yaml.safe_load((FOLDER / "production.yaml").read_text())


@pytest.fixture(scope="module")
def deployment(production: Any) -> Any:
    return production["applications"][0]["deployments"][0]


@pytest.fixture(scope="module")
def settings(production: Any) -> Settings:
    return load_settings({}, **production["applications"][0]["args"])[0]


@pytest.mark.filterwarnings("ignore:::ray")  # warnings of its own schema
def test_serve_accepts_it(production: Any) -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(production)
    parsed = schema.model_dump(exclude_unset=True, mode="json")
    for name, value in production["applications"][0]["deployments"][0].items():
        assert _within(value, parsed["applications"][0]["deployments"][0][name]), name


def _within(ours: Any, theirs: Any) -> bool:
    """Return whether Serve kept all fields: it silently ignores unknown ones."""
    if isinstance(ours, dict):
        return all(name in theirs and _within(value, theirs[name]) for name, value in ours.items())
    return bool(ours == theirs)


def test_the_queue_has_space_for_all_requests_that_serve_forwards(deployment: Any, settings: Settings) -> None:
    assert settings.max_queue_tokens == deployment["max_ongoing_requests"] * TOKENS
    assert deployment["autoscaling_config"]["target_ongoing_requests"] < deployment["max_ongoing_requests"]


def test_accepted_requests_are_answered_before_the_end(production: Any, deployment: Any, settings: Settings) -> None:
    assert settings.request_timeout_s < deployment["graceful_shutdown_timeout_s"]
    assert settings.request_timeout_s < production["http_options"]["request_timeout_s"]


def test_the_import_path_leads_to_the_application(production: Any, deployment: Any) -> None:
    module, _, name = production["applications"][0]["import_path"].partition(":")
    assert (ROOT / f"{module.replace('.', '/')}.py").read_text().count(f"def {name}(") == 1
    assert f'name="{deployment["name"]}"' in (FOLDER / "serve.py").read_text()


@pytest.fixture(scope="module")
def service() -> Any:
    return yaml.safe_load((FOLDER / "rayservice.yaml").read_text())


def test_the_rayservice_runs_the_same_configuration(service: Any, production: Any) -> None:
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == production


def test_the_rayservice_runs_the_same_ray(service: Any) -> None:
    version = service["spec"]["rayClusterConfig"]["rayVersion"]
    assert f"ray=={version}" in (ROOT / "requirements" / "ray.txt").read_text().splitlines()


def test_a_replica_fits_on_a_worker(service: Any, deployment: Any) -> None:
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    has, wants = container["resources"]["requests"], deployment["ray_actor_options"]
    replicas = int(has["nvidia.com/gpu"] / wants["num_gpus"])
    assert replicas * wants["num_cpus"] <= int(has["cpu"])
    assert deployment["autoscaling_config"]["max_replicas"] == replicas * group["maxReplicas"]
    assert group["template"]["spec"]["terminationGracePeriodSeconds"] > deployment["graceful_shutdown_timeout_s"]

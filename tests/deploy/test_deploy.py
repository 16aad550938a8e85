"""The container, the compose file and the manifest say what the service says. `make docker-test` runs them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.settings import Settings
from tests.deploy.docker.context import context, copied, provides
from tests.deploy.docker.engine import copy_of_the_tree
from tests.deploy.packages import LEFT_OUT, as_in_the_image
from tests.server import ROOT, Server

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICE = COMPOSE["services"]["vitrine"]
MANIFEST = {
    document["kind"]: document
    for document in yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "vitrine.yaml").read_text())
}
POD = MANIFEST["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def pins(name: str) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==([\w.+!-]+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package.lower()): version for package, version in lines}


def test_the_image_installs_what_was_tested() -> None:
    tested = pins("serve.txt")
    del tested["torch"]  # from an index of its own, without its hash
    assert pins("image.txt") == tested, "run `make hashes`"


def test_every_pin_of_the_image_has_hashes() -> None:
    text = (ROOT / "requirements" / "image.txt").read_text()
    for pin in re.split(r"\n(?=\w)", text.split("\n", 1)[1]):
        assert "--hash=sha256:" in pin, pin


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        name = re.match(r"[\w.-]+", requirement)
        assert name
        assert re.sub(r"[-_.]+", "-", name[0].lower()) in pins("serve.txt")


@pytest.mark.parametrize("name", ["serve.txt", "image.txt"])
def test_what_a_newer_python_has_itself_is_pinned_for_the_older_ones(name: str) -> None:
    """Python 3.14 has compression.zstd, and pip refuses to install the backport there."""
    text = (ROOT / "requirements" / name).read_text()
    assert re.search(r"^backports.zstd==\S+ ; python_(full_)?version < ['\"]3\.14['\"]", text, re.MULTILINE)


def test_the_image_holds_every_package() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for package in packages:
        assert f"COPY {package.split('.')[0]}/ " in DOCKERFILE


DOCKERFILES = [
    path.relative_to(ROOT)
    for path in sorted(ROOT.rglob("*Dockerfile*"))
    if path.is_file() and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]


def test_the_dockerfiles_are_found() -> None:
    assert {"Dockerfile", "deploy/ray/Dockerfile"} == {str(path) for path in DOCKERFILES}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=str)
def test_the_context_holds_all_that_a_dockerfile_copies(dockerfile: Path, tmp_path: Path) -> None:
    """Of the files that `make docker-test` builds from, and .dockerignore is the one list."""
    tree = copy_of_the_tree(tmp_path)
    files = context(tree)
    assert files == context(ROOT)
    sources = copied((ROOT / dockerfile).read_text())
    assert sources
    for source in sources:
        assert provides(files, source), f"{dockerfile} copies {source}, which .dockerignore keeps out"
        assert (tree / source).exists()


def test_nothing_is_sent_that_no_dockerfile_copies() -> None:
    files = context(ROOT)
    taken = {
        path for name in DOCKERFILES for source in copied((ROOT / name).read_text()) for path in provides(files, source)
    }
    assert set(files) - taken == set()


def test_the_context_is_what_docker_makes_of_dockerignore(tmp_path: Path) -> None:
    """The rules, one by one; `make docker-test` compares the whole with the engine's own."""
    names = ["a", "b/a", "b/c.py", "b/d/c.py", "b/d/e/f.pyc", "dd/x", "[z]/q", ".hidden"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for rules, left in {
        "": names,
        "*": [],
        "# a comment\n\na": ["b/a", "b/c.py", "b/d/c.py", "b/d/e/f.pyc", "dd/x", "[z]/q", ".hidden"],
        "/b": ["a", "dd/x", "[z]/q", ".hidden"],
        "*\n!b\nb/d": ["b/a", "b/c.py"],
        "*\n!b/*.py": ["b/c.py"],
        "*\n!b\n**/*.pyc": ["b/a", "b/c.py", "b/d/c.py"],
        "*\n!b\nb\n!b/a": ["b/a"],
        "b/**\nd?": ["a", "[z]/q", ".hidden"],
        "*\n![a-b]": ["a", "b/a", "b/c.py", "b/d/c.py", "b/d/e/f.pyc"],
        "*\n!\\[z]": ["[z]/q"],
    }.items():
        (tmp_path / ".dockerignore").write_text(rules)
        found = {str(path) for path in context(tmp_path)} - {".dockerignore"}
        assert found == set(left), rules


def test_a_copy_of_what_is_kept_out_is_found() -> None:
    steps = (
        "COPY --from=y /a /b",
        "COPY --chown=1:1 models/ \\\n  docs/ /c/",
        'ADD ["examples", "/d"]',
        "RUN COPY no /e",
    )
    assert copied("\n".join(steps)) == ["models/", "docs/", "examples"]
    assert not provides(context(ROOT), "docs/")


def test_the_image_leaves_out_only_what_nothing_imports() -> None:
    assert {"sympy", "networkx"} <= set(LEFT_OUT)
    ended = as_in_the_image("classify", "--top-k", "1", "examples/cat.png")
    assert "Egyptian cat" in ended.stdout, ended.stderr


def test_the_image_has_an_init_and_compose_asks_for_no_other() -> None:
    assert 'ENTRYPOINT ["tini", "-s", "--", "vitrine"]\n' in DOCKERFILE
    assert "init" not in SERVICE


def test_the_code_is_the_last_layer() -> None:
    steps = re.findall(r"^(COPY|RUN) (.*)", DOCKERFILE, re.MULTILINE)
    assert [step[1].split()[-1] for step in steps[-2:]] == ["models/", "app/"]


def test_one_version_is_told_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}\n" in DOCKERFILE
    assert CONTAINER["image"] == f"vitrine:{version}"


def test_the_image_sets_settings_that_exist() -> None:
    for name in re.findall(r"VITRINE_([A-Z_]+)", DOCKERFILE):
        assert name.lower() in Settings.model_fields


def test_compose_hands_every_setting_on() -> None:
    handed_on = {name.removeprefix("VITRINE_").lower() for name in SERVICE["environment"] if "VITRINE_" in name}
    assert set(Settings.model_fields) - handed_on == {"host", "port"}


def test_compose_gives_the_drain_its_time() -> None:
    grace = int(re.findall(r"(\d+)s\}", SERVICE["stop_grace_period"])[0])
    assert grace >= Settings.model_fields["drain_timeout_s"].default + 5


@pytest.mark.parametrize("name", ["vitrine", "prometheus", "grafana"])
def test_no_container_has_rights_that_it_does_not_need(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert all(volume.endswith(":ro") for volume in service["volumes"] if volume.startswith("./"))
    assert all("127.0.0.1" in port for port in service["ports"])
    assert name == "vitrine" or service["profiles"] == ["monitoring"]


def test_every_file_that_compose_mounts_is_there() -> None:
    for service in COMPOSE["services"].values():
        for volume in service["volumes"]:
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).exists(), volume


def test_the_manifest_is_as_confined_as_compose() -> None:
    assert POD["enableServiceLinks"] is False
    assert POD["automountServiceAccountToken"] is False
    assert POD["securityContext"]["runAsUser"] == int(SERVICE["user"].split(":")[0])
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert CONTAINER["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert CONTAINER["resources"]["limits"]["memory"] == "4Gi"


def test_the_manifest_gives_the_drain_its_time() -> None:
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = Settings.model_fields["drain_timeout_s"].default
    assert POD["terminationGracePeriodSeconds"] >= pause + drain + 5


def test_the_manifest_sets_settings_that_exist() -> None:
    for variable in CONTAINER["env"]:
        assert variable["name"].removeprefix("VITRINE_").lower() in Settings.model_fields


def test_everything_in_the_manifest_means_the_same_pods() -> None:
    labels = MANIFEST["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFEST["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFEST["Service"]["spec"]["selector"] == labels
    assert MANIFEST["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    name = MANIFEST["Deployment"]["metadata"]["name"]
    assert MANIFEST["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name


def test_the_autoscaler_reads_a_number_that_the_adapter_makes() -> None:
    adapter = (ROOT / "deploy" / "kubernetes" / "prometheus-adapter.yaml").read_text()
    (rule,) = yaml.safe_load(adapter)["rules"]["custom"]
    (metric,) = MANIFEST["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    from app.telemetry.metrics import Metrics

    text = Metrics().text().decode()
    for series in re.findall(r"(vitrine_\w+)[{(]", rule["metricsQuery"]):
        assert series in text


def test_the_manifest_follows_the_schema_of_kubernetes() -> None:
    validate: Any = pytest.importorskip("kubernetes_validate")
    for document in MANIFEST.values():
        validate.validate(document, validate.latest_version(), strict=True)


def test_the_probes_ask_what_is_answered(server: Server) -> None:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert httpx.get(f"{server.url}{CONTAINER[probe]['httpGet']['path']}").status_code == 200


def test_the_health_check_says_whether_requests_are_taken(server: Server) -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "deploy" / "healthcheck.py")]
    for port, code in ((server.port, 0), (1, 1)):
        environment = {"VITRINE_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
        assert subprocess.run(command, env=environment, check=False).returncode == code


def test_nothing_here_names_a_file_that_is_gone() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "operations.md", ROOT / "docker-compose.yml"):
        for name in re.findall(r"(?<![\w/.])((?:deploy|docs)/[\w./-]+\w)", page.read_text()):
            assert Path(ROOT / name).exists(), f"{page.name} names {name}"

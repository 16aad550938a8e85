"""`make docker-test`: the image and the compose file on a real engine, from the build to the stop under load.

Prints what it finds, a line each, and ends with an error at the first thing that is not as promised. It builds from a
copy of what .dockerignore lets in, and takes down and removes what it brought up. BUILD_NETWORK=host and TORCH_INDEX=
(empty) are for machines where building containers reach no network or not PyTorch's index.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.docker.context import context
from tests.deploy.docker.engine import (
    IMAGE,
    Compose,
    copy_of_the_tree,
    docker,
    inspect,
    log_lines,
    stopped_within,
    wait_healthy,
    wait_ready,
)
from tests.deploy.docker.load import Load
from tests.server import ROOT

CAT = (ROOT / "examples" / "cat.png").read_bytes()
ESPRESSO = (ROOT / "examples" / "espresso.jpg").read_bytes()
SHIPPED = "vit-small-tiny-imagenet"
SMOKE = ("tests/api/test_api.py", "tests/documents/test_readme.py", "tests/documents/test_commands.py")
PARITY = {"VITRINE_DTYPE": "float32", "VITRINE_DECODE": "exact", "VITRINE_ALLOW_HEADS": "true"}
"""What the tests compare with the originals' answers under float32's bound, on any machine."""
BASE = os.environ.get("BASE", "python:3.11-slim-bookworm")
LONE = "vitrine-check-lone"
PROMPTLY_S = 1.0
"""Within which a container ends that has nothing to answer."""
MOMENTS_S = 5.0
"""Signals are sent from a container's first moment to this one, when the model has been loaded."""

CLASSIFY_INSIDE = """
import http.client, pathlib
connection = http.client.HTTPConnection("127.0.0.1", 8000)
connection.request("POST", "/classify?top_k=1", bytes.fromhex(input()))
print(connection.getresponse().read().decode())
"""


def main() -> None:
    """All of it, in order."""
    with tempfile.TemporaryDirectory() as folder:
        compose = Compose.of(copy_of_the_tree(Path(folder)))
        same_context(compose.tree)
        build(compose)
        describe_image()
        try:
            up(compose)
            ask(compose)
            confined(compose.container)
            logged(compose.container)
            stop_under_load(compose)
            up(compose, **PARITY)
            smoke(compose)
            converted(compose)
        finally:
            compose("down", "--volumes", "--timeout", "5")
        say("taken down", "yes")
        alone()
        signals()
    say("all of it", "as promised")


def say(what: str, found: object) -> None:
    """A line of the report."""
    sys.stdout.write(f"{what:34}{found}\n")
    sys.stdout.flush()


def require(holds: object, what: object) -> None:
    """End here unless it holds."""
    if not holds:
        raise SystemExit(f"NOT AS PROMISED: {what}")


def seconds(action: Callable[[], object]) -> str:
    """How long it takes."""
    started = time.monotonic()
    action()
    return f"{time.monotonic() - started:.1f} s"


def same_context(tree: Path) -> None:
    """What the engine sends to a build is what the tests work out from .dockerignore, of the tree and of its copy."""
    recipe = tree.parent / "Dockerfile"
    recipe.write_text(f"FROM {BASE}\nCOPY . /context\n")
    for root in (ROOT, tree):
        docker("build", "--quiet", "--file", str(recipe), "--tag", f"{IMAGE}-context", str(root))
        inside = ("--rm", "--network", "none", f"{IMAGE}-context", "find", "/context", "!", "-type", "d")
        sent = {Path(line).relative_to("/context") for line in docker("run", *inside).splitlines()}
        docker("rmi", f"{IMAGE}-context")
        # The engine sends these for its own use, whatever .dockerignore says of them.
        expected = set(context(root))
        require(sent - {Path("Dockerfile"), Path(".dockerignore")} == expected, f"the context is {sent ^ expected}")
    say("build context", f"{len(expected)} files, those that .dockerignore lets in")


def build(compose: Compose) -> None:
    """The image; then once more, with a changed line of code."""
    say("build", seconds(lambda: compose("build", "vitrine")))
    code = compose.tree / "app" / "__init__.py"
    code.write_text(code.read_text() + "# changed\n")
    say("build after a change of the code", seconds(lambda: compose("build", "vitrine")))


def describe_image() -> None:
    """Its size, by layer, and what was promised of it."""
    facts = inspect(IMAGE)
    base = inspect(BASE)
    say("image", f"{facts['Size'] / 1e6:.0f} MB, of which the base {base['Size'] / 1e6:.0f} MB")
    listing = docker("history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", IMAGE)
    for line in listing.splitlines():
        size, step = line.split("\t", 1)
        if size != "0B" and "COPY" in step:
            say("  layer", f"{size:8} {re.sub(r'(dir|file):[0-9a-f]+', '...', step.split('COPY')[1])[:80].strip()}")
    inside = "cd /opt/venv/lib/python3*/site-packages && du -sm * /opt/vitrine/* | sort -rn | head -12"
    say("  megabytes", ", ".join(" ".join(reversed(line.split())) for line in sh(inside).splitlines()))
    config = facts["Config"]
    require(config["User"] == "10001:10001", "the user is 10001")
    require(config["Healthcheck"]["Test"][:2] == ["CMD", "python"], "python is the health check")
    require(config["Entrypoint"] == ["tini", "-s", "--", "vitrine"], "only an init stands before the service")
    say("labels", json.dumps({name.rsplit(".", 1)[1]: value for name, value in config["Labels"].items()}))
    loaded = "from models.network.kernels.operators import library; print(library() is not None)"
    require(sh(f"python -c '{loaded}'").strip() == "True", "the compiled operators are there")
    require(not sh("command -v gcc cc curl wget git || true").strip(), "no compiler and no downloader inside")


def sh(command: str) -> str:
    """What a shell in the image prints."""
    return docker("run", "--rm", "--network", "none", "--entrypoint", "sh", IMAGE, "-c", command)


def up(compose: Compose, **settings: str) -> None:
    """`docker compose up` with these settings and no others, until the engine calls it healthy."""
    compose.settings = settings
    say("compose", f"{compose('version').splitlines()[0]}, {settings or 'default settings'}")
    compose("up", "-d", "--no-build", "vitrine")
    say("healthy after", f"{wait_healthy(compose.container):.1f} s")
    wait_ready(compose.url)


def ask(compose: Compose) -> None:
    """Real pictures through the published port."""
    pictures = [("image", ("cat.png", CAT)), ("image", ("espresso.jpg", ESPRESSO))]
    answer = httpx.post(f"{compose.url}/classify?top_k=1", files=pictures, timeout=60).json()
    labels = [result["predictions"][0]["label"] for result in answer["results"]]
    require(labels == ["Egyptian cat", "espresso"], f"the pictures are known, not {labels}")
    say("classify", labels)
    answer = httpx.post(f"{compose.url}/embed?size=140x98&resize=squash", content=CAT, timeout=60).json()
    require(len(answer["results"][0]["embedding"]) == answer["dim"], "a vector of the model's width")
    say("embed", f"{answer['dim']} numbers at {answer['results'][0]['network']}")
    metrics = httpx.get(f"{compose.url}/metrics").text
    require('vitrine_images_total{task="classify"} 2.0' in metrics, "the metrics count what was asked")


def confined(container: str) -> None:
    """What the process may not do, asked of the running container."""

    def inside(*command: str) -> str:
        return docker("exec", container, *command, check=False).strip()

    status = dict(line.split(":\t", 1) for line in inside("cat", "/proc/self/status").splitlines() if ":\t" in line)
    service = inside("sh", "-c", "grep -h -e Uid -e CapEff -e NoNewPrivs /proc/[0-9]*/status | sort -u").split()
    require(set(service) >= {"Uid:", "10001", "CapEff:", "0000000000000000", "NoNewPrivs:", "1"}, service)
    require("0" not in service[service.index("Uid:") + 1 : service.index("Uid:") + 5], "nobody inside is root")
    say("user, capabilities", f"{inside('id')}, CapEff {status['CapEff']}, NoNewPrivs {status['NoNewPrivs']}")
    refused = inside("sh", "-c", "touch /opt/vitrine/x /x; touch /tmp/x && echo wrote /tmp")
    require(refused.count("Read-only file system") == 2 and "wrote /tmp" in refused, refused)
    say("root file system", "read-only; /tmp is memory of 64 MB")
    host = inspect(container)["HostConfig"]
    limits = {name: host[name] for name in ("Memory", "PidsLimit", "CapDrop", "SecurityOpt", "ReadonlyRootfs")}
    require(all(limits.values()), limits)
    say("limits", limits)
    say("health", inspect(container)["State"]["Health"]["Status"])


def logged(container: str) -> None:
    """The log: JSON, one line a request, nothing of its picture or file name."""
    lines = log_lines(container)
    requests = [line for line in lines if line["message"] == "request" and line["route"] == "/classify"]
    require(requests and requests[0]["images"] == 2, "the request is in the log")
    require("cat.png" not in json.dumps(lines), "no file name is in the log")
    say("log", f"{len(lines)} lines, all JSON; {json.dumps(requests[0])}")


def smoke(compose: Compose) -> None:
    """The contract's tests against the container, which answers in float32."""
    environment = os.environ | {"VITRINE_TEST_PORT": str(compose.port)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SMOKE]
    ended = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    require(ended.returncode == 0, ended.stdout[-3000:])
    say("smoke part of the tests", ended.stdout.strip().splitlines()[-1])
    memory = docker("stats", "--no-stream", "--format", "{{.MemUsage}}, {{.PIDs}} threads", compose.container).strip()
    say("memory after it", memory)


def stop_under_load(compose: Compose) -> None:
    """Stop while clients ask: what the service took is answered."""
    container = compose.container
    load = Load(compose.url, CAT)
    load.start()
    time.sleep(5)
    took = seconds(lambda: compose("stop"))
    load.stop()
    state = inspect(container)["State"]
    say("stopped under load", f"in {took}, exit code {state['ExitCode']}, killed: {state['OOMKilled']}")
    require(state["ExitCode"] in (0, 143), "it ended by itself")
    taken = {line["request_id"]: line["status"] for line in log_lines(container) if line["message"] == "request"}
    lost = [name for name, outcome in load.outcomes.items() if name in taken and not outcome.isdecimal()]
    never = sum(not outcome.isdecimal() for name, outcome in load.outcomes.items() if name not in taken)
    say("  requests", f"{len(load.outcomes)} of {load.clients} clients: {dict(load.counts())}")
    say("  taken and lost", len(lost))
    say("  never taken", f"{never} (the port was closed, or the connection was not yet accepted)")
    require(load.counts()["200"] > load.clients, "there was a load")
    require(not lost, "nothing that was taken is lost")


def converted(compose: Compose) -> None:
    """A checkpoint converted on the host into ./checkpoints is served; one that may not be read is called that."""
    folder = compose.tree / "checkpoints" / "converted"
    command = [sys.executable, "-m", "app", "convert", str(compose.tree / "weights" / SHIPPED), str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, umask=0o022)
    up(compose, VITRINE_MODEL="/checkpoints/converted")
    answer = httpx.post(f"{compose.url}/classify?top_k=1", content=CAT, timeout=60).json()
    require(answer["model"] == "converted", answer)
    require(answer["results"][0]["predictions"][0]["label"] == "Egyptian cat", answer)
    say("converted on the host", "served")
    (folder / "model.safetensors").chmod(0o600)
    mounted = f"{folder.parent}:/checkpoints:ro"
    told = docker("run", "--rm", "-v", mounted, IMAGE, "inspect", "/checkpoints/converted", check=False)
    require("may not be read by user 10001 (permission denied)" in told, told)
    say("closed to the user", told.strip().splitlines()[-1])


def signals() -> None:
    """Without `--init`, idle or at any moment of the start, SIGTERM ends a container at once."""
    moments = [0.0, 0.05, 0.1, 0.2, 0.4, *sorted(random.uniform(0, MOMENTS_S) for _ in range(5))]
    ended = []
    for moment in moments:
        with lone_container() as container:
            time.sleep(moment)
            ended.append(_end(container, "kill", "--signal", "TERM"))
            say(f"  SIGTERM after {moment:.2f} s", f"ended after {ended[-1]:.2f} s")
    with lone_container() as container:
        wait_healthy(container)
        ended.append(_end(container, "stop"))
        say("  docker stop, idle", f"ended after {ended[-1]:.2f} s")
    require(max(ended) <= PROMPTLY_S, f"each ends within {PROMPTLY_S} s")


def _end(container: str, *command: str) -> float:
    """How many seconds after the command the container had ended, which it did because of the signal."""
    since = datetime.now(UTC)
    docker(*command, container)
    took = stopped_within(container, since)
    code = inspect(container)["State"]["ExitCode"]
    require(code in (0, 143), f"it ended by SIGTERM, not with {code}")
    return took


def alone() -> None:
    """Without Compose or a network, under a user id that nobody knows: it starts, answers and ends."""
    with lone_container("--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", "54321:54321") as container:
        say("healthy without a network after", f"{wait_healthy(container):.1f} s")
        command = ["docker", "exec", "-i", container, "python", "-c", CLASSIFY_INSIDE]
        ended = subprocess.run(command, input=CAT.hex(), text=True, capture_output=True, check=True)
        answer: dict[str, Any] = json.loads(ended.stdout)
        require(answer["results"][0]["predictions"][0]["label"] == "Egyptian cat", "it answers")
        say("stopped", f"ended after {_end(container, 'stop', '--time', '30'):.2f} s")
    # Without the image's init the service is process 1, and has to hear signals by itself.
    with lone_container("--entrypoint", "vitrine") as container:
        wait_healthy(container)
        say("stopped as process 1", f"ended after {_end(container, 'stop', '--time', '30'):.2f} s")


@contextmanager
def lone_container(*options: str) -> Iterator[str]:
    """The image, run by hand."""
    docker("run", "--detach", "--name", LONE, *options, IMAGE, *(("serve",) if "--entrypoint" in options else ()))
    try:
        yield LONE
    finally:
        docker("rm", "--force", LONE)


if __name__ == "__main__":
    main()

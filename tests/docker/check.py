"""`make docker-test`: the image and the compose file on a real engine, from the build to the stop under load.

Prints what it finds, a line each, and ends with an error at the first thing that is not as promised. It builds from a
copy of the tree, and takes down and removes what it brought up. BUILD_NETWORK=host and TORCH_INDEX= (empty) are for
machines where building containers reach no network or not PyTorch's index.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.docker.engine import (
    IMAGE,
    Compose,
    copy_of_the_tree,
    docker,
    inspect,
    log_lines,
    wait_healthy,
    wait_ready,
)
from tests.docker.load import Load
from tests.server import ROOT

CAT = (ROOT / "examples" / "cat.png").read_bytes()
ESPRESSO = (ROOT / "examples" / "espresso.jpg").read_bytes()
SMOKE = ("tests/test_api.py", "tests/test_readme.py", "tests/test_commands.py")
LONE = "vitrine-check-lone"

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
        build(compose)
        describe_image()
        try:
            up(compose)
            ask(compose)
            confined(compose.container)
            logged(compose.container)
            smoke(compose)
            stop_under_load(compose)
        finally:
            compose("down", "--volumes", "--timeout", "5")
        say("taken down", "yes")
        alone()
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


def build(compose: Compose) -> None:
    """The image; then once more, with a changed line of code."""
    say("build", seconds(lambda: compose("build", "vitrine")))
    code = compose.tree / "app" / "__init__.py"
    code.write_text(code.read_text() + "# changed\n")
    say("build after a change of the code", seconds(lambda: compose("build", "vitrine")))


def describe_image() -> None:
    """Its size, by layer, and what was promised of it."""
    facts = inspect(IMAGE)
    base = inspect(os.environ.get("BASE", "python:3.11-slim-bookworm"))
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
    require(config["Entrypoint"] == ["vitrine"], "nothing stands between the engine and the service")
    say("labels", json.dumps({name.rsplit(".", 1)[1]: value for name, value in config["Labels"].items()}))
    require(not sh("command -v gcc cc curl wget git || true").strip(), "no compiler and no downloader inside")


def sh(command: str) -> str:
    """What a shell in the image prints."""
    return docker("run", "--rm", "--network", "none", "--entrypoint", "sh", IMAGE, "-c", command)


def up(compose: Compose) -> None:
    """`docker compose up`, until the engine calls it healthy."""
    say("compose", compose("version").splitlines()[0])
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
    """The contract's tests against the container."""
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


def alone() -> None:
    """Without Compose, an init or a network, under a user id that nobody knows: it starts, answers and ends."""
    with lone_container("--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", "54321:54321") as container:
        say("healthy without a network after", f"{wait_healthy(container):.1f} s")
        command = ["docker", "exec", "-i", container, "python", "-c", CLASSIFY_INSIDE]
        ended = subprocess.run(command, input=CAT.hex(), text=True, capture_output=True, check=True)
        answer: dict[str, Any] = json.loads(ended.stdout)
        require(answer["results"][0]["predictions"][0]["label"] == "Egyptian cat", "it answers")
        took = seconds(lambda: docker("stop", "--timeout", "30", container))
        say("stopped as process 1", f"in {took}, exit code {inspect(container)['State']['ExitCode']}")
        require(inspect(container)["State"]["ExitCode"] in (0, 143), "process 1 hears SIGTERM")
    with lone_container() as container:
        time.sleep(2)  # it is still importing torch
        took = seconds(lambda: docker("stop", "--timeout", "30", container))
        code = inspect(container)["State"]["ExitCode"]
        say("stopped while starting", f"in {took}, exit code {code}")
        require(code in (0, 143), "process 1 hears SIGTERM while it starts")


@contextmanager
def lone_container(*options: str) -> Iterator[str]:
    """The image, run by hand."""
    docker("run", "--detach", "--name", LONE, *options, IMAGE)
    try:
        yield LONE
    finally:
        docker("rm", "--force", LONE)


if __name__ == "__main__":
    main()

"""What this code uses of libraries beyond their documented interface, and whether it is still what was read.

After an upgrade these tests name what has changed: read the new code beside the file that builds on it, then write the
new digest down. pyproject.toml bounds the range of each of these libraries, with the reason.
"""

import ast
import hashlib
import importlib
import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.server import ROOT

PRIVATE = {
    "logging._srcfile": "app/telemetry/logs.py: no search for each caller; in the guide to optimization",
    "queue.Queue.all_tasks_done": "app/telemetry/logs.py: a wait with a deadline, which join() lacks",
    "queue.Queue.unfinished_tasks": "app/telemetry/logs.py",
    "torch.ops.onednn.qlinear_pointwise": "models/network/kernels/linear.py: a linear layer of 8 bits; not documented",
    "torch.ops.onednn.qlinear_prepack": "models/network/kernels/linear.py",
    "torch.ops.mkldnn._linear_pointwise": "models/network/kernels/linear.py: a linear layer and its activation in one",
    "torch.ops.mkldnn._reorder_linear_weight": "models/network/kernels/linear.py",
    "torch.cpu._is_avx512_bf16_supported": "app/inference/device/processor.py: where torch has no get_capabilities",
    "torch.cpu._is_amx_tile_supported": "app/inference/device/processor.py",
    "torch.cpu._is_vnni_supported": "app/inference/device/processor.py",
    "torch._dynamo.exc.TorchDynamoException": "app/inference/engine.py: errors of torch.compile; without a public name",
    "uvicorn._types.ASGI3Application": "app/http/connections/: for type checkers alone",
    "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol._start_asgi_task": "app/http/connections/",
    "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol._unset_keepalive_if_required": "app/http/connections/",
}
"""Private names of libraries, and where and why they are used. `os._exit` is documented."""

YOUNG = {
    "torch.AcceleratorError": "app/inference/device/backend.py: a lost device",
    "torch.cpu.get_capabilities": "app/inference/device/processor.py: whether the processor computes bfloat16",
    "torch.nn.attention.varlen.varlen_attn": "models/network/kernels/attention.py: a prototype",
    "torch.compile": "models/network/block.py",
    "torch.jit.optimized_execution": "models/network/kernels/script.py: not documented",
    "torch.jit.script": "models/network/kernels/script.py: deprecated",
    "torch.jit.trace": "models/network/kernels/script.py: deprecated",
    "huggingface_hub.constants.is_offline_mode": "models/files/hub.py: a module that is not documented",
    "numpy._core.multiarray.scalar": "models/files/pickles.py: makes the numbers of a pickle",
    "python_multipart.multipart.MultipartParser": "app/api/uploads.py",
    "prometheus_client.gc_collector.GCCollector": "app/telemetry/metrics.py",
    "prometheus_client.platform_collector.PlatformCollector": "app/telemetry/metrics.py",
    "prometheus_client.process_collector.ProcessCollector": "app/telemetry/metrics.py",
    "fastapi.routing.APIRoute.handle": "app/api/route.py: overridden",
    "tqdm.tqdm.format_meter": "app/bulk/progress.py",
}
"""Names that are public, and young, or part of no documented interface."""

HTTPTOOLS, FLOW, SERVER = (
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.http.flow_control",
    "uvicorn.server",
)
CYCLE = f"{HTTPTOOLS}.RequestResponseCycle"

METHODS = {
    f"{HTTPTOOLS}.HttpToolsProtocol.__init__": "9da8a6a7d463",
    f"{HTTPTOOLS}.HttpToolsProtocol.connection_made": "d5a09a0d85a2",
    f"{HTTPTOOLS}.HttpToolsProtocol.connection_lost": "cf66139e7aee",
    f"{HTTPTOOLS}.HttpToolsProtocol.eof_received": "37e9ca8de85a",
    f"{HTTPTOOLS}.HttpToolsProtocol.data_received": "d3b0b0eb52be",
    f"{HTTPTOOLS}.HttpToolsProtocol.send_400_response": "0e5cd74ba39a",
    f"{HTTPTOOLS}.HttpToolsProtocol.on_message_begin": "5e3c151c2453",
    f"{HTTPTOOLS}.HttpToolsProtocol.on_url": "5ab84be9e1f6",
    f"{HTTPTOOLS}.HttpToolsProtocol.on_header": "a4c34f5de722",
    f"{HTTPTOOLS}.HttpToolsProtocol.on_headers_complete": "c8ea59f95089",
    f"{HTTPTOOLS}.HttpToolsProtocol.on_body": "4a653c9e7763",
    f"{HTTPTOOLS}.HttpToolsProtocol.on_message_complete": "3e238a25b2cd",
    f"{HTTPTOOLS}.HttpToolsProtocol.on_response_complete": "52270117a0a5",
    f"{HTTPTOOLS}.HttpToolsProtocol.shutdown": "b96fd121daa5",
    f"{HTTPTOOLS}.HttpToolsProtocol.pause_writing": "d644a86b5cde",
    f"{HTTPTOOLS}.HttpToolsProtocol.resume_writing": "b75db73a2dec",
    f"{HTTPTOOLS}.HttpToolsProtocol._start_asgi_task": "83720468ea54",
    f"{HTTPTOOLS}.HttpToolsProtocol._unset_keepalive_if_required": "0ad523b5946e",
    f"{HTTPTOOLS}.RequestResponseCycle.__init__": "1e42499bb173",
    f"{HTTPTOOLS}.RequestResponseCycle.run_asgi": "db92507d6848",
    f"{HTTPTOOLS}.RequestResponseCycle.send": "fd591d07a3d8",
    f"{HTTPTOOLS}.RequestResponseCycle.receive": "3f6649daab5c",
    f"{FLOW}.FlowControl.__init__": "4f4da60ea239",
    f"{FLOW}.FlowControl.pause_reading": "aaec248c04a6",
    f"{FLOW}.FlowControl.resume_reading": "3f3ca9111edb",
    f"{SERVER}.ServerState.__init__": "a8e78f403839",
    f"{SERVER}.Server.__init__": "fe21e24f830b",
    f"{SERVER}.Server._serve": "2066cc14c9f2",
    f"{SERVER}.Server.startup": "d83ec62650d9",
    f"{SERVER}.Server.shutdown": "723391882e21",
    f"{SERVER}.Server.capture_signals": "c1fd80a9d4eb",
    f"{SERVER}.Server.handle_exit": "5aae5b8c0fb2",
}
"""What app/http/connections/ and app/server.py override, call, or rely on being called by: a digest of its source."""

ATTRIBUTES = {
    f"{HTTPTOOLS}.HttpToolsProtocol": (
        "client cycle flow headers loop parser pipeline scope server_state timeout_keep_alive transport url"
    ),
    CYCLE: "disconnected keep_alive message_event more_body response_complete response_started scope transport",
    f"{SERVER}.ServerState": "connections total_requests",
    f"{SERVER}.Server": "config lifespan server_state servers should_exit",
}
"""What instances of these classes hold."""

BOUNDED = ("uvicorn", "torch", "huggingface-hub", "fastapi", "numpy", "prometheus-client", "python-multipart", "tqdm")


def resolve(dotted: str) -> Any:
    """The module, class or function of this name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(dotted)


def held(kind: type) -> set[str]:
    """What a class and its instances have: its methods, and what they assign to `self`."""
    names = {name for one in kind.__mro__ for name in vars(one)}
    for one in kind.__mro__[:-1]:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(one)))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            ):
                names.add(node.attr)
    return names


def digest(function: Any) -> str:
    """Of its source, whatever its indentation."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    return hashlib.blake2b(source.encode(), digest_size=6).hexdigest()


def library(dotted: str) -> str:
    """The library and its version, for whoever reads why a test fails."""
    name = dotted.partition(".")[0]
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return "this Python"


@pytest.mark.parametrize("dotted", [*PRIVATE, *YOUNG])
def test_what_is_used_of_libraries_is_there(dotted: str) -> None:
    parent, _, name = dotted.rpartition(".")
    try:
        kind = resolve(parent)
        there = name in held(kind) if inspect.isclass(kind) else resolve(dotted) is not None
    except (AttributeError, ModuleNotFoundError):
        there = False
    assert there, f"{library(dotted)} has no {dotted} any more: {(PRIVATE | YOUNG)[dotted]}"


@pytest.mark.parametrize(("kind", "names"), ATTRIBUTES.items())
def test_the_attributes_that_we_use_are_there(kind: str, names: str) -> None:
    missing = set(names.split()) - held(resolve(kind))
    assert not missing, f"{library(kind)}: {kind} has no {', '.join(sorted(missing))} any more"


@pytest.mark.parametrize(("dotted", "read"), METHODS.items())
def test_what_we_build_on_is_what_was_read(dotted: str, read: str) -> None:
    try:
        found = digest(resolve(dotted))
    except AttributeError:
        pytest.fail(f"{library(dotted)} has no {dotted} any more")
    where = "app/server.py" if dotted.startswith(f"{SERVER}.Server.") else "app/http/connections/"
    assert found == read, f"{library(dotted)} has changed {dotted}: read it beside {where}, then note {found!r}"


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("app", "models", "deploy"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def test_every_private_name_that_is_used_is_in_the_table() -> None:
    """Imports of private modules and names, and private attributes that nothing of ours defines."""
    trees = list(sources())
    ours = {
        name
        for _, tree in trees
        for node in ast.walk(tree)
        for name in (
            [node.name]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            else [node.attr]
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
            else [node.target.id]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            else []
        )
    }
    listed = {part for dotted in PRIVATE for part in dotted.split(".") if is_private(part)} | {"_exit"}
    for path, tree in trees:
        for node in ast.walk(tree):
            used: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(("app", "models")):
                used = [*node.module.split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                used = [part for alias in node.names for part in alias.name.split(".")]
            elif isinstance(node, ast.Attribute) and node.attr not in ours:
                used = [node.attr]
            private = {name for name in used if is_private(name)} - listed
            assert not private, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} uses {private}, not in PRIVATE"


def test_every_attribute_of_uvicorn_that_is_used_is_in_the_table() -> None:
    """Check the classes that derive from uvicorn's or hold its objects."""
    for path, name, base, written in (
        ("http/connections/connection.py", "Connection", f"{HTTPTOOLS}.HttpToolsProtocol", ("self", "super()")),
        ("http/connections/connection.py", "Connection", CYCLE, ("cycle", "self.cycle", "self._running")),
        ("http/connections/repeating.py", "RepeatingProtocol", f"{HTTPTOOLS}.HttpToolsProtocol", ("self", "super()")),
        ("http/connections/repeating.py", "RepeatingProtocol", CYCLE, ("latest",)),
        ("http/connections/disconnect.py", "DisconnectProbe", CYCLE, ("self._cycle",)),
        ("http/connections/transport.py", "ResponseTransport", CYCLE, ("self._cycle",)),
        ("http/connections/transport.py", "PipelineFlow", f"{FLOW}.FlowControl", ("super()",)),
        ("http/connections/linger.py", "Linger", f"{FLOW}.FlowControl", ("self._flow",)),
        ("server.py", "_Server", f"{SERVER}.Server", ("self", "super()")),
    ):
        tree = ast.parse((ROOT / "app" / path).read_text())
        (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
        used = {
            node.attr
            for node in ast.walk(found)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in written
        }
        of_base = used & held(resolve(base))
        listed = {
            *ATTRIBUTES.get(base, "").split(),
            *(dotted.rsplit(".", 1)[1] for dotted in METHODS if base in dotted),
        }
        assert of_base <= listed, f"app/{path} uses {of_base - listed} of {base}"


def test_each_of_these_libraries_has_a_bound_and_its_pin_is_within() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ranges = {one.name.lower(): one.specifier for one in map(Requirement, dependencies)}
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / "serve.txt").read_text(), re.MULTILINE))
    pinned = {name.lower().replace("_", "-"): found for name, found in pins.items()}
    for name, allowed in ranges.items():
        assert allowed.contains(pinned[name]), f"{name} {pinned[name]} is tested, and {allowed} is allowed"
    assert {name for name in BOUNDED if not any(one.operator.startswith("<") for one in ranges[name])} == set()

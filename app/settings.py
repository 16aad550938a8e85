"""Every VITRINE_* variable, in one frozen class. Made inside `create_app`; nothing happens at import."""

import os
import re
from collections.abc import Mapping
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.wording import allow, requirement

PREFIX = "VITRINE_"
SHIPPED_MODEL = str(Path(__file__).parent.parent / "weights" / "vit-small-tiny-imagenet")

# Kubernetes gives every pod of a namespace the addresses of a service called `vitrine` under these names.
INJECTED = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)|PORT)(_.*)?")

ImageFormat = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIC", "TIFF"]
FORMATS: tuple[ImageFormat, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIC")


def _split(value: Any) -> Any:
    return tuple(part for name in value.split(",") if (part := name.strip())) if isinstance(value, str) else value


def _formats(value: Any) -> Any:
    return tuple(name.upper() for name in _split(value)) if isinstance(value, str) else value


def _networks(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name != "*":
            ip_network(name)
    return names


DEVICE = allow(r"^(auto|cpu|mps|cuda(:\d+)?)$", "must be auto, cpu, mps, cuda or cuda:N")

Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Key = Annotated[str, StringConstraints(pattern=allow(r"^[\x21-\x7e]+$", "must be printable ASCII without spaces"))]
Keys = Annotated[tuple[Key, ...], NoDecode, BeforeValidator(_split)]
SECRET = {"api_keys"}
"""Settings whose values are never shown, and are no flags: other users of a machine see a process's flags."""

CHECKPOINT = ("model", "revision", "profile", "head", "num_heads", "labels")
"""Settings that say which checkpoint is meant, and what it does not say itself."""

COMPUTE = ("device", "dtype", "compile", "torch_threads", "decode_threads", "max_batch_tokens", "cache_mb")
"""Settings of how the model is run."""

IMAGES = ("decode", "max_pixels", "image_formats", "max_tokens_per_image")
"""Settings of what images are accepted."""

LOGGING = ("log_level", "log_format")


class Settings(BaseSettings):
    """How the service runs. What belongs to a checkpoint (size, mean, labels, ...) comes with the checkpoint."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    # model
    model: str = Field(
        SHIPPED_MODEL,
        description="The checkpoint to serve: a directory, a file, or owner/name on the Hugging Face hub.",
    )
    revision: str | None = Field(None, description="The hub's branch, tag or commit [default: main].")
    profile: str | None = Field(
        None, description="The original to answer like: timm, transformers, dinov2, ... [default: by the checkpoint]."
    )
    head: str | None = Field(None, description="A file with a linear head, for a checkpoint that has none.")
    num_heads: int | None = Field(
        None, gt=0, description="Attention heads, where nothing in the checkpoint tells them [default: by its config]."
    )
    labels: str | None = Field(
        None,
        description="Names of the classes: a file, one a line; imagenet-1k; or none for their indices "
        "[default: the checkpoint's].",
    )

    # compute
    device: Annotated[str, Field(pattern=DEVICE)] = Field(
        "auto", description="Where the model runs: auto (CUDA where there is one, else CPU), cpu, cuda, cuda:N or mps."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="What it computes in; auto is bfloat16 where the hardware has it natively."
    )
    compile: bool = Field(
        False, description="Compile the network at start-up; needs a C++ compiler, and a minute or two."
    )
    torch_threads: int | None = Field(
        None, gt=0, description="Threads of the forward pass on the CPU [default: the cores that the process may use]."
    )
    decode_threads: int | None = Field(
        None, gt=0, description="Images decoded at the same time [default: the cores that the process may use]."
    )
    decode: Literal["fast", "exact"] = Field(
        "fast",
        description="fast: a large JPEG is decoded at a reduced scale, never below twice the size that is needed; "
        "exact: every pixel, as the originals do.",
    )

    # limits
    max_upload_bytes: int = Field(64 * 2**20, gt=0, description="The whole body of a request.")
    max_pixels: int = Field(50_000_000, gt=0, description="Pixels of a JPEG; other formats may have half as many.")
    image_formats: Annotated[tuple[ImageFormat, ...], NoDecode, BeforeValidator(_formats)] = Field(
        FORMATS, min_length=1, description="Formats that are opened, separated by commas."
    )
    max_images_per_request: int = Field(64, gt=0, description="Images in one request.")
    max_tokens_per_image: int = Field(4096, gt=0, description="Patches and prefix tokens of one image.")
    max_batch_tokens: int | None = Field(None, gt=0, description="Tokens in one forward pass [default: by device].")
    max_queue_tokens: int | None = Field(None, gt=0, description="Tokens that may wait [default: 16 batches].")
    cache_mb: int = Field(0, ge=0, description="MiB of answers kept for images that come again; 0 keeps none.")
    request_timeout_s: float = Field(30.0, gt=0, allow_inf_nan=False, description="Seconds that a request may wait.")
    receive_timeout_s: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Seconds in which a request's body must arrive whole."
    )

    # server
    host: str = Field("127.0.0.1", description="The address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="The port to listen on; 0 for any free one.")
    api_keys: Keys = Field((), repr=False, description="Keys, of which a request must carry one; separated by commas.")
    api_keys_file: Path | None = Field(None, description="A file of API keys, one per line; a request must carry one.")
    cors_origins: Names = Field((), description="Origins whose pages may ask, separated by commas; * for all.")
    trusted_proxies: Annotated[Names, AfterValidator(_networks)] = Field(
        (), description="Addresses or networks whose X-Forwarded-* headers are believed, separated by commas."
    )
    root_path: str = Field("", description="The path under which a proxy publishes the service.")
    docs: bool = Field(True, description="Serve /docs and /openapi.json.")
    drain_timeout_s: float = Field(
        20.0, ge=0, allow_inf_nan=False, description="Seconds for requests in hand after SIGTERM."
    )
    drain_delay_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Seconds to go on serving after SIGTERM, unready, for a balancer."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum log level.")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Log format; auto is text on a terminal, else json."
    )

    @property
    def choices(self) -> dict[str, Any]:
        """What is said of the checkpoint beyond its place, as `open_checkpoint` takes it."""
        return {name: getattr(self, name) for name in CHECKPOINT if name != "model"}

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        queue, batch = self.max_queue_tokens, self.max_batch_tokens
        if queue is not None and batch is not None and queue < batch:
            raise ValueError(f"max_queue_tokens={queue}: must be at least max_batch_tokens, {batch}")
        return self

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of both settings. Raises BadSettings for a file that cannot be read, or that has none."""
        if self.api_keys_file is None:
            return self.api_keys
        try:
            lines = self.api_keys_file.read_text(encoding="ascii").split()
        except PermissionError as error:
            user = f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"
            detail = f"may not be read by {user} (permission denied)"
            raise BadSettings(f"{PREFIX}API_KEYS_FILE={str(self.api_keys_file)!r}: {detail}") from error
        except (OSError, ValueError) as error:
            raise BadSettings(f"{PREFIX}API_KEYS_FILE={str(self.api_keys_file)!r}: cannot be read") from error
        if not lines:
            raise BadSettings(f"{PREFIX}API_KEYS_FILE={str(self.api_keys_file)!r}: has no key in it")
        return (*self.api_keys, *lines)


class BadSettings(Exception):
    """Settings that cannot be used: one line for each, naming the variable, the value and what is allowed."""


def load_settings(environment: Mapping[str, str] = os.environ, **overrides: Any) -> tuple[Settings, list[str]]:
    """Read the environment; `overrides` (of the command line) win.

    Returns the settings and warnings for values that were passed over.
    Raises BadSettings with all faults at once, unknown VITRINE_* names among them.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    warnings: list[str] = []
    for variable in sorted(name for name in environment if name.startswith(PREFIX)):
        value, name = environment[variable], variable.removeprefix(PREFIX).lower()
        if INJECTED.fullmatch(variable) and (name != "port" or value.startswith("tcp://")):
            warnings.append(f"{variable}={value!r} looks injected by Kubernetes and is passed over")
        elif name not in Settings.model_fields:
            faults.append(f"{variable}={value!r}: there is no such setting")
        elif value:
            values[name] = value
    try:
        # Values come as keywords, so that the environment is read here alone.
        settings = Settings.model_validate(values | overrides)
    except ValidationError as error:
        faults += [_fault(fault, values, overrides) for fault in error.errors()]
    else:
        try:
            _ = settings.keys
        except BadSettings as error:
            faults.append(str(error))
    if faults:
        raise BadSettings("\n".join(faults))
    return settings, warnings


def _fault(fault: Any, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> str:
    """One line: where the value came from, the value, what is allowed."""
    allowed = requirement(fault)
    if not fault["loc"]:  # of several together; the sentence names the first of them
        setting, _, rest = allowed.partition("=")
        return f"{PREFIX}{setting.upper()}={rest}"
    name = str(fault["loc"][0])
    if name in SECRET:
        return f"{PREFIX}{name.upper()}: {allowed}"
    if name in overrides:
        return f"--{name.replace('_', '-')}={str(overrides[name])!r}: {allowed}"
    return f"{PREFIX}{name.upper()}={str(values[name])!r}: {allowed}"

"""All settings (VITRINE_* variables and flags), in one frozen class. Nothing is read at import."""

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
from models.files.readable import denial

PREFIX = "VITRINE_"
SHIPPED_MODEL = str(Path(__file__).parent.parent / "weights" / "vit-small-tiny-imagenet")

# Kubernetes sets these variables in every pod of a namespace that has a Service called `vitrine`.
INJECTED = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)|PORT)(_.*)?")

ImageFormat = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIC", "TIFF"]
Colour = Literal["original", "srgb"]
FORMATS: tuple[ImageFormat, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIC")


def _split(value: Any) -> Any:
    return tuple(part for name in value.split(",") if (part := name.strip())) if isinstance(value, str) else value


def _formats(value: Any) -> Any:
    return tuple(name.upper() for name in _split(value)) if isinstance(value, str) else value


def _without_brackets(value: Any) -> Any:
    """Return an IPv6 address as the system takes it; URLs have it in brackets."""
    return value[1:-1] if isinstance(value, str) and value.startswith("[") and value.endswith("]") else value


def _networks(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name != "*":
            ip_network(name)
    return names


DEVICE = allow(r"^(auto|cpu|mps|cuda(:\d+)?)$", "must be auto, cpu, mps, cuda or cuda:N")

STREAMS = allow(r"^(auto|[1-9][0-9]?)$", "must be auto, or a number from 1 to 99")

ROOT_PATH = re.compile(allow(r"^(/[A-Za-z0-9._~-]+)*/?$", "must be a path that begins with a slash, as in /vision"))

Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Key = Annotated[str, StringConstraints(pattern=allow(r"^[\x21-\x7e]+$", "must be printable ASCII without spaces"))]
Keys = Annotated[tuple[Key, ...], NoDecode, BeforeValidator(_split)]
SECRET = {"api_keys", "admin_keys"}
"""Settings whose values are never shown, and that have no flag: other users of the machine can see flags."""

CHECKPOINT = ("model", "revision", "profile", "head", "num_heads", "labels")
"""Settings that select the checkpoint and supply what it does not contain."""

COMPUTE = (
    "device",
    "dtype",
    "compile",
    "torch_threads",
    "streams",
    "compiled_shapes",
    "decode_threads",
    "max_batch_tokens",
    "cache_mb",
)
"""Settings of how the model runs."""

IMAGES = ("decode", "colour", "max_pixels", "image_formats", "max_tokens_per_image")
"""Settings of which images are accepted."""

LOGGING = ("log_level", "log_format")


class Settings(BaseSettings):
    """How the service runs. What belongs to a checkpoint (size, mean, ...) is read from the checkpoint instead."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    # model
    model: str = Field(
        SHIPPED_MODEL,
        description="Checkpoint to serve: a directory, a file, or owner/name on the Hugging Face Hub.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the Hub [default: main].")
    profile: str | None = Field(
        None, description="Implementation to reproduce, such as timm, transformers or dinov2 [default: detected]."
    )
    head: str | None = Field(None, description="File with a linear classifier head, for a checkpoint without one.")
    num_heads: int | None = Field(
        None, gt=0, description="Number of attention heads, if the checkpoint does not say [default: the checkpoint's]."
    )
    labels: str | None = Field(
        None,
        description="Class names: a file with one name per line, imagenet-1k, or none: class indices as names "
        "[default: the checkpoint's].",
    )

    # compute
    device: Annotated[str, Field(pattern=DEVICE)] = Field(
        "auto", description="Device that runs the model: cpu, cuda, cuda:N, mps, or auto (CUDA if available, else CPU)."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="Number format of the forward pass; auto: int8 if vitrine quantize wrote the checkpoint, bfloat16 "
        "if the hardware supports it natively and is faster with it, float16 on older CUDA devices, else float32. int8 "
        "needs such a checkpoint.",
    )
    compile: bool = Field(
        False, description="Compile the network at start-up, in one to two minutes; needs a C++ compiler."
    )
    torch_threads: int | None = Field(
        None, gt=0, description="Threads of all forward passes on the CPU [default: available physical cores]."
    )
    streams: Annotated[str, BeforeValidator(str), Field(pattern=STREAMS)] = Field(
        "auto",
        description="Batches that run side by side on the CPU, each with its share of the threads; a lone one gets "
        "all but one for each image that is being decoded. auto: as many as threads, up to 4, and one more while other "
        "programs use the cores; on CUDA 2, if the trial at the start finds that faster: one batch is copied and "
        "started while the other computes; on other devices 1.",
    )
    compiled_shapes: int = Field(
        256,
        ge=0,
        le=2**20,
        description="Operations that oneDNN keeps compiled, one for each shape; more are faster for images of many "
        "sizes and take more memory. ONEDNN_PRIMITIVE_CACHE_CAPACITY takes precedence.",
    )
    decode_threads: int | None = Field(
        None, gt=0, description="Number of images decoded in parallel [default: number of available cores]."
    )
    decode: Literal["fast", "exact"] = Field(
        "fast",
        description="How to decode and resize. fast: large JPEGs at a reduced scale, at least three times the size "
        "that is needed; and unless the network computes in float32, images are resized with vector instructions, to "
        "within 2 of 255; exact: at full scale with Pillow's filters, as the original implementations do.",
    )
    colour: Colour = Field(
        "original",
        description="What to do with an image's ICC profile. original: ignore it, as the original implementations do; "
        "srgb: convert the colours by it to sRGB.",
    )

    # limits
    max_upload_bytes: int = Field(64 * 2**20, gt=0, description="Maximum size of a request body, in bytes.")
    max_pixels: int = Field(
        50_000_000, gt=0, description="Maximum number of pixels of a JPEG; half as many for other formats."
    )
    image_formats: Annotated[tuple[ImageFormat, ...], NoDecode, BeforeValidator(_formats)] = Field(
        FORMATS, min_length=1, description="Image formats to accept, separated by commas."
    )
    max_images_per_request: int = Field(64, gt=0, description="Maximum number of images in one request.")
    max_tokens_per_image: int = Field(
        4096, gt=0, description="Maximum number of tokens (patches and prefix tokens) of one image."
    )
    max_batch_tokens: int | None = Field(
        None, gt=0, description="Maximum number of tokens in one forward pass [default: depends on the device]."
    )
    max_queue_tokens: int | None = Field(
        None, gt=0, description="Maximum number of tokens waiting in the queue [default: 16 batches]."
    )
    max_heads: int = Field(100, gt=0, description="Maximum number of fitted heads that are kept by name.")
    max_head_classes: int = Field(1000, gt=1, description="Maximum number of classes of one head.")
    max_head_examples: int = Field(20_000, gt=1, description="Maximum number of examples of one head.")
    max_heads_bytes: int = Field(
        512 * 2**20, gt=0, description="Maximum memory of all heads that are kept by name, in bytes."
    )
    cache_mb: int = Field(
        0, ge=0, description="Size of the cache of answers to repeated images, in MiB; 0 for no cache."
    )
    fair: bool = Field(
        True, description="Let clients (API keys, else addresses) take turns; off if something in front does so."
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="Maximum time from the end of the request body to the answer, in seconds.",
    )
    receive_timeout_s: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="Maximum time to receive a request, and for the client to read the response, in seconds.",
    )
    keep_alive_s: float = Field(
        75.0,
        gt=0,
        allow_inf_nan=False,
        description="Time that a connection without a request stays open, in seconds; longer than the idle timeout of "
        "a proxy or balancer in front.",
    )

    # server
    host: Annotated[str, BeforeValidator(_without_brackets)] = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 for all, :: for all with IPv6."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 for any free port.")
    api_keys: Keys = Field(
        (), repr=False, description="API keys, separated by commas; a request must carry one of them."
    )
    api_keys_file: Path | None = Field(
        None, description="File with API keys, one per line; a request must carry one of them."
    )
    admin_keys: Keys = Field(
        (), repr=False, description="API keys that may also write and delete heads, separated by commas."
    )
    admin_keys_file: Path | None = Field(
        None, description="File with API keys that may also write and delete heads, one per line."
    )
    heads: Path | None = Field(
        None,
        description="Directory of the heads that are kept by name, which several replicas may share "
        "[default: in memory, gone with the process].",
    )
    allow_heads: bool = Field(
        False, description="Let clients write heads where no keys are set; a directory of heads allows it too."
    )
    cors_origins: Names = Field(
        (), description="Origins whose web pages may send requests, separated by commas; * for all."
    )
    trusted_proxies: Annotated[Names, AfterValidator(_networks)] = Field(
        (), description="Addresses or networks of proxies whose X-Forwarded-* headers are trusted, separated by commas."
    )
    root_path: Annotated[str, Field(pattern=ROOT_PATH.pattern)] = Field(
        "", description="Path under which a proxy publishes the service, as in /vision."
    )
    docs: bool = Field(True, description="Serve /docs and /openapi.json.")
    drain_timeout_s: float = Field(
        20.0,
        ge=0,
        allow_inf_nan=False,
        description="Maximum time to finish accepted requests after SIGTERM, in seconds.",
    )
    drain_delay_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Time to keep serving after SIGTERM while /readyz answers 503, for load balancers, in seconds.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum log level.")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Log format; auto is text on a terminal, else json."
    )

    @property
    def choices(self) -> dict[str, Any]:
        """The settings that supplement the checkpoint, as arguments of `open_checkpoint`."""
        return {name: getattr(self, name) for name in CHECKPOINT if name != "model"}

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        queue, batch = self.max_queue_tokens, self.max_batch_tokens
        if queue is not None and batch is not None and queue < batch:
            raise ValueError(f"max_queue_tokens={queue}: must be at least max_batch_tokens, {batch}")
        return self

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The API keys of both settings. Raises BadSettings for a file that cannot be read or has no keys."""
        return _keys(self.api_keys, "API_KEYS_FILE", self.api_keys_file)

    @cached_property
    def admins(self) -> tuple[str, ...]:
        """The keys that may write heads, of both settings. Raises BadSettings as `keys` does."""
        return _keys(self.admin_keys, "ADMIN_KEYS_FILE", self.admin_keys_file)


def _keys(given: tuple[str, ...], setting: str, path: Path | None) -> tuple[str, ...]:
    """Return the keys of a setting and of a file. Raises BadSettings."""
    if path is None:
        return given
    named = f"{PREFIX}{setting}={str(path)!r}"
    try:
        lines = path.read_text(encoding="ascii").split()
    except PermissionError as error:
        raise BadSettings(f"{named}: {denial()}") from error
    except (OSError, ValueError) as error:
        raise BadSettings(f"{named}: the file cannot be read") from error
    if not lines:
        raise BadSettings(f"{named}: the file has no keys")
    return (*given, *lines)


class BadSettings(Exception):
    """Invalid settings: one line for each, with the variable or flag, the value and what is allowed."""


def load_settings(environment: Mapping[str, str] = os.environ, **overrides: Any) -> tuple[Settings, list[str]]:
    """Read the settings from the environment; `overrides` from the command line take precedence.

    Returns the settings, and warnings about ignored variables.
    Raises BadSettings with all errors at once, including unknown VITRINE_* names.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    warnings: list[str] = []
    for variable in sorted(name for name in environment if name.startswith(PREFIX)):
        value, name = environment[variable], variable.removeprefix(PREFIX).lower()
        if INJECTED.fullmatch(variable) and (name != "port" or value.startswith("tcp://")):
            warnings.append(f"{variable}={value!r} looks as if Kubernetes had set it, and is ignored")
        elif name not in Settings.model_fields:
            faults.append(f"{variable}={value!r}: there is no such setting")
        elif value:
            values[name] = value
    try:
        # As arguments, so that pydantic-settings does not read the environment a second time.
        settings = Settings.model_validate(values | overrides)
    except ValidationError as error:
        faults += [_fault(fault, values, overrides) for fault in error.errors()]
    else:
        for name in ("keys", "admins"):
            try:
                getattr(settings, name)
            except BadSettings as error:
                faults.append(str(error))
    if faults:
        raise BadSettings("\n".join(faults))
    return settings, warnings


def _fault(fault: Any, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> str:
    """Return one line: the variable or flag, the value, what is allowed."""
    allowed = requirement(fault)
    if not fault["loc"]:  # an error of several settings; its sentence begins with one of them
        setting, _, rest = allowed.partition("=")
        return f"{PREFIX}{setting.upper()}={rest}"
    name = str(fault["loc"][0])
    if name in SECRET:
        return f"{PREFIX}{name.upper()}: {allowed}"
    if name in overrides:
        return f"--{name.replace('_', '-')}={str(overrides[name])!r}: {allowed}"
    return f"{PREFIX}{name.upper()}={str(values[name])!r}: {allowed}"

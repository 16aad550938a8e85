"""Schemas of requests and responses: they validate parameters and describe them in the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from app.wording import allow

SIZE = allow(
    r"^[1-9]\d{0,4}(x[1-9]\d{0,4})?$",
    "must be N or HxW (height x width) in pixels, each side from 1 to 99999, as in 224 or 140x98",
)
HEAD = allow(r"^(mean|all|\d{1,3})$", "must be mean, all, or the index of an attention head, counted from 0")
LAYERS = allow(r"^\d{1,3}(,\d{1,3})*$", "must be layers, counted from 0 and separated by commas, as in 3,7,11")
PATCH = allow(r"^\d{1,4},\d{1,4}$", "must be ROW,COLUMN of a patch, counted from 0, as in 5,12")

HEAD_NAME = allow(
    r"^[a-z0-9][a-z0-9._-]{0,63}$",
    "must be up to 64 lower-case letters, digits, dots, dashes and underscores, beginning with a letter or a digit",
)
SKIP_BAD = "Leave images out that cannot be used, and name them in the answer, instead of fitting nothing."

TOP_K = "Number of classes to return, best first. 0, or more than the model has, returns all."


class ResolutionQuery(BaseModel):
    """The resolution at which the network sees the image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: str | None = Field(
        None,
        pattern=SIZE,
        description="Resolution in pixels: `N` (square) or `HxW` (height x width). Each side is rounded to the nearest "
        "multiple of the patch size. Default: the checkpoint's input size.",
        examples=["224", "140x98"],
    )
    resize: Literal["crop", "squash", "fit"] | None = Field(
        None,
        description="How the image reaches that size. `crop`: scale it to cover the size, then cut out the centre. "
        "`squash`: scale it to exactly the size; the aspect ratio is lost. `fit`: keep the aspect ratio and cut "
        "nothing; the size is the bounding box. Default: the checkpoint's own preprocessing.",
    )
    max_patches: int | None = Field(
        None,
        ge=1,
        description="Resolution by a budget, instead of `size` and `resize`: the image keeps its shape, each side is a "
        "whole number of patches, and there are at most this many. Default: the checkpoint's own preprocessing.",
        examples=[256],
    )

    @field_validator("max_patches")
    @classmethod
    def _alone(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and (info.data.get("size") or info.data.get("resize")):
            raise ValueError("must be without size and resize, because it keeps the shape of the image")
        return value

    @property
    def resolution(self) -> tuple[tuple[int, int] | None, Literal["crop", "squash", "fit"] | None, int | None]:
        """The requested size, resize mode and number of patches; None for what the request does not have."""
        return self.height_width, self.resize, self.max_patches

    @property
    def height_width(self) -> tuple[int, int] | None:
        """The requested size as (height, width) in pixels; None if the request has no size."""
        if self.size is None:
            return None
        height, _, width = self.size.partition("x")
        return int(height), int(width or height)


class HeadQuery(ResolutionQuery):
    """Parameters of a request for classes, which a head of this name may give."""

    head: str | None = Field(
        None,
        pattern=HEAD_NAME,
        description="Name of a fitted head, as in GET /heads. Default: the head that the service was started with, or "
        "the checkpoint's own.",
        examples=["pets"],
    )


class ClassifyQuery(HeadQuery):
    """Parameters of POST /classify."""

    top_k: int = Field(5, ge=0, description=TOP_K)
    explain: int = Field(
        0,
        ge=0,
        le=32,
        description="Number of nearest examples of the best class to name, with their cosines; only of a fitted head.",
    )


class FitQuery(ResolutionQuery):
    """Parameters of PUT /heads/{name}."""

    method: Literal["ridge", "mean", "logistic"] = Field(
        "ridge",
        description="`ridge`: regression on one-hot targets, in closed form. `mean`: the nearest class mean by cosine. "
        "`logistic`: multinomial logistic regression, from two images of each class.",
    )
    pool: Literal["cls", "mean", "native"] | None = Field(
        None, description="Which vector the head reads. Default: `cls`, or `native` for a model without a [CLS] token."
    )
    skip_bad: bool = Field(False, description=SKIP_BAD)


class ExamplesQuery(BaseModel):
    """Parameters of POST /heads/{name}/examples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skip_bad: bool = Field(False, description=SKIP_BAD)


POOL = (
    "Which vector to return. `cls`: the [CLS] token after the final norm. `mean`: the mean of the patch tokens. "
    "`native`: the vector that the checkpoint's own head reads."
)
DEFAULT_POOL = "Default: `cls`, or `native` for a model without a [CLS] token."
NORMALIZE = "Scale each vector to length 1."


class VectorQuery(ResolutionQuery):
    """Parameters that select the vector of an image."""

    pool: Literal["cls", "mean", "native"] | None = Field(None, description=f"{POOL} {DEFAULT_POOL}")
    normalize: bool = Field(False, description=NORMALIZE)


class EmbedQuery(ResolutionQuery):
    """Parameters of POST /embed."""

    pool: Literal["cls", "mean", "native", "patches"] | None = Field(
        None,
        description=f"{POOL} `patches`: all patch tokens, returned only as .npy of shape (n, h, w, dim). "
        f"{DEFAULT_POOL}",
    )
    normalize: bool = Field(False, description=NORMALIZE)
    encoding: Literal["float", "base64"] = Field(
        "float",
        description="Encoding of the vectors in JSON. `float`: a list of numbers. `base64`: little-endian float32.",
    )


class AttentionQuery(ResolutionQuery):
    """Parameters of POST /attention."""

    layer: int | None = Field(None, ge=0, description="Layer, counted from 0. Default: the last.")
    head: str = Field(
        "mean",
        pattern=HEAD,
        description="Attention head, counted from 0; `mean` for the mean over all heads; or `all` for the map of each "
        "head, which is answered as JSON or .npy.",
        examples=["mean", "0", "all"],
        max_length=4,
    )
    method: Literal["raw", "rollout"] = Field(
        "raw",
        description="`raw`: softmax(q k^T / sqrt(d)) from [CLS] to the patches in that layer. `rollout`: attention "
        "rollout through all layers up to that one, with the mean over the heads of each (Abnar & Zuidema 2020).",
    )
    output: Literal["overlay", "map", "json"] | None = Field(
        None,
        description="`overlay`: a PNG of the image with the attention drawn over it. `map`: a PNG of the attention "
        "alone. `json`: the numbers. Default: `json` if `Accept` asks for it, else `overlay`. A PNG needs a request "
        "with one image.",
    )

    @property
    def head_index(self) -> int | Literal["all"] | None:
        """The index of the head; None for the mean over all heads; `all` for each by itself."""
        if self.head == "all":
            return "all"
        return None if self.head == "mean" else int(self.head)


Output = Literal["pca", "similarity", "tokens"]


class FeaturesQuery(ResolutionQuery):
    """Parameters of POST /features."""

    output: Output = Field(
        "pca",
        description="`pca`: principal components of the patch tokens, the first three as red, green and blue; all "
        "images of a request share one basis. `similarity`: the cosine of every patch to one patch of the first image. "
        "`tokens`: the tokens themselves, as .npy.",
    )
    patch: str | None = Field(
        None,
        pattern=PATCH,
        validate_default=True,
        description="For `similarity`: `ROW,COLUMN` of the patch in the first image, counted from 0.",
        examples=["5,12"],
    )
    components: int | None = Field(
        None,
        ge=1,
        le=16,
        description="For `pca`: number of components in JSON and .npy. A PNG shows the first three or, of fewer than "
        "three, the first as grey. Default: 3.",
    )
    mask: Literal["positive", "negative"] | None = Field(
        None,
        description="For `pca`: the sign of the first component that marks the foreground. The other patches are left "
        "out, and the components are fitted to the foreground, as DINOv2 shows them. Default: nothing is left out.",
    )
    layers: str | None = Field(
        None,
        pattern=LAYERS,
        description="Blocks whose outputs are read, counted from 0: one for `pca` and `similarity`, any number for "
        "`tokens`, as in DINOv2's `get_intermediate_layers`. Default: the last.",
        examples=["3,7,11"],
    )
    norm: bool = Field(True, description="Apply the network's final norm to the tokens of every block.")
    prefix: bool | None = Field(
        None, description="For `tokens`: return [CLS] and the other prefix tokens too, before the patches."
    )
    format: Literal["map", "overlay", "json"] | None = Field(
        None,
        description="`map`: a PNG of the patches alone. `overlay`: a PNG over the image. `json`: the numbers. Default: "
        "what `Accept` asks for, else `map` for `pca` and `overlay` for `similarity`. A PNG needs a request with one "
        "image.",
    )
    with_tokens: bool | None = Field(
        None,
        description="Add the patch tokens to each JSON result: base64 of little-endian float16 (h, w, dim), each "
        "scaled to length 1.",
    )

    @field_validator("patch", "components", "mask", "prefix", "format", "with_tokens")
    @classmethod
    def _belongs(cls, value: Any, info: ValidationInfo) -> Any:
        belongs = OUTPUTS_OF[info.field_name or ""]
        output = info.data.get("output")
        if value is not None and output not in (*belongs, None):
            raise ValueError(f"belongs to output={' and output='.join(belongs)}, and this is output={output}")
        if info.field_name == "patch" and value is None and output == "similarity":
            raise ValueError("must be given for output=similarity, as in patch=5,12")
        return value

    @field_validator("layers")
    @classmethod
    def _distinct(cls, value: str | None, info: ValidationInfo) -> str | None:
        names = [int(name) for name in (value or "").split(",") if name]
        if len(set(names)) < len(names):
            raise ValueError("must name each layer once")
        if len(names) > 1 and info.data.get("output") in ("pca", "similarity"):
            raise ValueError(f"must be one layer for output={info.data['output']}")
        return value

    @property
    def layer_indices(self) -> tuple[int, ...] | None:
        """The blocks, counted from 0; None for the last."""
        return None if self.layers is None else tuple(int(name) for name in self.layers.split(","))

    @property
    def place(self) -> tuple[int, int] | None:
        """Row and column of the patch, counted from 0; None if the request has none."""
        if self.patch is None:
            return None
        row, _, column = self.patch.partition(",")
        return int(row), int(column)


OUTPUTS_OF: dict[str, tuple[Output, ...]] = {
    "patch": ("similarity",),
    "components": ("pca",),
    "mask": ("pca",),
    "prefix": ("tokens",),
    "format": ("pca", "similarity"),
    "with_tokens": ("pca", "similarity"),
}
"""The outputs of /features that each of these parameters belongs to."""


class PreprocessQuery(ResolutionQuery):
    """Parameters of POST /preprocess."""

    output: Literal["png", "json"] | None = Field(
        None,
        description="`png`: the preprocessed image, with its metadata in response headers. `json`: the metadata, with "
        "the image as a data: URI. Default: `json` if `Accept` asks for it, else `png`, which needs a request with one "
        "image.",
    )


class JsonUpload(BaseModel):
    """Images as JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(description="Image files, each as base64 or as a data: URI of base64.", min_length=1)


class Problem(BaseModel):
    """An error, as an RFC 9457 problem document."""

    type: str = Field(description="A URN of the error code.", examples=["urn:vitrine:problem:undecodable"])
    title: str = Field(description="The error code in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="A sentence that names the offending value and what is allowed.")
    code: str = Field(description="The error code, for programs.", examples=["undecodable"])
    request_id: str = Field(description="The request's id, also in the X-Request-ID header and in the log.")


class ImageInfo(BaseModel):
    """The uploaded image, after its EXIF orientation was applied."""

    width: int = Field(description="Width in pixels.")
    height: int = Field(description="Height in pixels.")
    format: str = Field(description="File format, such as JPEG.")


class NetworkInfo(BaseModel):
    """The image as the network saw it."""

    width: int = Field(description="Width in pixels.")
    height: int = Field(description="Height in pixels.")
    resize: str = Field(
        description="How the image was brought to this size: crop, squash or fit, or border or edge of the "
        "checkpoint's own preprocessing."
    )
    tokens: int = Field(description="Number of tokens: patches and prefix tokens.")
    interpolated: bool = Field(
        description="Whether the grid of patches is not the checkpoint's own, so that positions are interpolated to it."
    )


class Prediction(BaseModel):
    """A class and its probability."""

    label: str = Field(description="Name of the class.")
    index: int = Field(description="Index of the class in the checkpoint.")
    score: float = Field(description="Probability, from 0 to 1.")


class Failed(BaseModel):
    """The entry of an image that failed while other images of the request were answered."""

    error: Problem = Field(description="Why this image has no result.")


FAILED = "Number of images that failed."
RESULTS = "One entry per image, in the order of the request."
MODEL = "Name of the model."


class Nearest(BaseModel):
    """An example of a head that lies near an image."""

    name: str = Field(description="Name of its file as it was uploaded; empty if it had none.")
    digest: str = Field(description="Digest of its file: BLAKE2b of 16 bytes, in hexadecimal.")
    cosine: float = Field(description="Cosine of both vectors.")


class HeadVersion(BaseModel):
    """The fitted head that gave the classes."""

    name: str | None = Field(description="Name of the head; null for the one that the service was started with.")
    version: str = Field(description="Version of the head, as in its ETag.")


class Classification(BaseModel):
    """The classes of one image."""

    predictions: list[Prediction] = Field(description="The best classes, highest probability first.")
    confidence: float | None = Field(None, description="Of a fitted head: the probability of the best class.")
    distance: float | None = Field(
        None,
        description="Of a fitted head: the share of its own examples that lie farther from their nearest class, each "
        "measured without itself. Near 0, the image is unlike everything that the head has seen; null if no class has "
        "two examples.",
    )
    nearest: list[Nearest] | None = Field(None, description="With `explain`: the nearest examples of the best class.")
    image: ImageInfo
    network: NetworkInfo


class ClassifyResponse(BaseModel):
    """The response of POST /classify."""

    model: str = Field(description=MODEL)
    activation: Literal["softmax", "sigmoid"] = Field(
        description="Function that turns logits into probabilities: `sigmoid` for multi-label models and for one class."
    )
    head: HeadVersion | None = Field(None, description="The fitted head that gave the classes, if one did.")
    failed: int = Field(description=FAILED)
    results: list[Classification | Failed] = Field(description=RESULTS)


class Embedding(BaseModel):
    """The vector of one image."""

    embedding: list[float] | str = Field(description="The vector: a list of numbers, or base64 of float32.")
    image: ImageInfo
    network: NetworkInfo


class EmbedResponse(BaseModel):
    """The response of POST /embed."""

    model: str = Field(description=MODEL)
    dim: int = Field(description="Length of each vector.")
    failed: int = Field(description=FAILED)
    results: list[Embedding | Failed] = Field(description=RESULTS)


class AttentionMap(BaseModel):
    """The attention from [CLS] to the patches of one image."""

    attention: list[list[float]] | list[list[list[float]]] = Field(
        description="One weight per patch, row by row from the top; with `head=all` such a map for each head."
    )
    grid: tuple[int, int] = Field(description="Rows and columns of patches.")
    image: ImageInfo
    network: NetworkInfo


class AttentionResponse(BaseModel):
    """The response of POST /attention."""

    model: str = Field(description=MODEL)
    layer: int = Field(description="Layer, counted from 0.")
    head: int | Literal["mean", "all"] = Field(
        description="Attention head, counted from 0, the mean over all heads, or all of them."
    )
    method: Literal["raw", "rollout"] = Field(description="`raw` or `rollout`, as in the request.")
    failed: int = Field(description=FAILED)
    results: list[AttentionMap | Failed] = Field(description=RESULTS)


GRID = "Rows and columns of patches."
TOKENS = "With `with_tokens`: base64 of little-endian float16 (h, w, dim), each token scaled to length 1."
LAYER = "Block whose output was read, counted from 0."


class ComponentMap(BaseModel):
    """The principal components of the patches of one image."""

    components: list[list[list[float]]] = Field(description="The coordinates of each patch, row by row from the top.")
    foreground: list[list[bool]] = Field(description="Which patches are not left out by `mask`.")
    picture: str = Field(description="A PNG as a data: URI: one pixel per patch, transparent where it is left out.")
    tokens: str | None = Field(None, description=TOKENS)
    grid: tuple[int, int] = Field(description=GRID)
    image: ImageInfo
    network: NetworkInfo


class PcaResponse(BaseModel):
    """The response of POST /features?output=pca."""

    model: str = Field(description=MODEL)
    output: Literal["pca"]
    layer: int = Field(description=LAYER)
    explained: list[float] = Field(description="Share of the variance of all patches that each component explains.")
    failed: int = Field(description=FAILED)
    results: list[ComponentMap | Failed] = Field(description=RESULTS)


class SimilarityMap(BaseModel):
    """The cosine of the patches of one image to the chosen one."""

    similarity: list[list[float]] = Field(description="One cosine per patch, from -1 to 1, row by row from the top.")
    tokens: str | None = Field(None, description=TOKENS)
    grid: tuple[int, int] = Field(description=GRID)
    image: ImageInfo
    network: NetworkInfo


class SimilarityResponse(BaseModel):
    """The response of POST /features?output=similarity."""

    model: str = Field(description=MODEL)
    output: Literal["similarity"]
    layer: int = Field(description=LAYER)
    patch: tuple[int, int] = Field(description="Row and column of the chosen patch in the first image.")
    failed: int = Field(description=FAILED)
    results: list[SimilarityMap | Failed] = Field(description=RESULTS)


class Steps(BaseModel):
    """How the image was brought to the network's size: scaled, then cropped."""

    scaled_width: int = Field(description="Width after scaling, in pixels.")
    scaled_height: int = Field(description="Height after scaling, in pixels.")
    left: int = Field(description="Left edge of the crop in the scaled image, in pixels; negative for padding.")
    top: int = Field(description="Top edge of the crop in the scaled image, in pixels; negative for padding.")


class PreprocessedImage(BaseModel):
    """One image as the network receives it, before mean and standard deviation are applied."""

    picture: str = Field(description="A PNG as a data: URI.")
    grid: tuple[int, int] = Field(description="Rows and columns of patches.")
    steps: Steps
    image: ImageInfo
    network: NetworkInfo


class PreprocessResponse(BaseModel):
    """The response of POST /preprocess."""

    model: str = Field(description=MODEL)
    failed: int = Field(description=FAILED)
    results: list[PreprocessedImage | Failed] = Field(description=RESULTS)


class Health(BaseModel):
    """The response of the health probes."""

    status: Literal["ok"]

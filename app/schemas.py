"""What goes over the wire, for validation of parameters and for the OpenAPI document."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.wording import allow

SIZE = allow(
    r"^[1-9]\d{0,4}(x[1-9]\d{0,4})?$",
    "must be N or HxW (height x width) in pixels, each side from 1 to 99999, as in 224 or 140x98",
)
HEAD = allow(r"^(mean|\d{1,3})$", "must be mean or the number of a head, counted from 0")


class ResolutionQuery(BaseModel):
    """The resolution that the network is to see."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: str | None = Field(
        None,
        pattern=SIZE,
        description="`N` or `HxW` (height x width) in pixels, each side rounded to the nearest multiple of the patch. "
        "Default: the checkpoint's input size.",
        examples=["224", "140x98"],
    )
    resize: Literal["crop", "squash", "fit"] | None = Field(
        None,
        description="`crop`: cover the size, cut the centre. `squash`: exactly the size, aspect lost. `fit`: keep the "
        "aspect, nothing cut, the size is the box that holds it. Default: the checkpoint's own steps.",
    )

    @property
    def height_width(self) -> tuple[int, int] | None:
        """The size in pixels, if one was asked for."""
        if self.size is None:
            return None
        height, _, width = self.size.partition("x")
        return int(height), int(width or height)


class ClassifyQuery(ResolutionQuery):
    """Parameters of POST /classify."""

    top_k: int = Field(5, ge=0, description="How many classes, best first; 0, or more than there are, gives all.")


class VectorQuery(ResolutionQuery):
    """Which vector stands for an image."""

    pool: Literal["cls", "mean", "native", "patches"] | None = Field(
        None,
        description="`cls`: the [CLS] token after the final norm. `mean`: the mean of the patch tokens. `native`: what "
        "the checkpoint's own head reads. `patches`: all patch tokens, always answered as .npy (n, h, w, dim). "
        "Default: `cls`, or `mean` for a model without a [CLS] token.",
    )
    normalize: bool = Field(False, description="Scale each vector to length 1.")


class EmbedQuery(VectorQuery):
    """Parameters of POST /embed."""

    encoding: Literal["float", "base64"] = Field(
        "float", description="`float`: a list of numbers. `base64`: little-endian float32."
    )


class AttentionQuery(ResolutionQuery):
    """Parameters of POST /attention."""

    layer: int | None = Field(None, ge=0, description="Counted from 0. Default: the last.")
    head: str = Field(
        "mean", pattern=HEAD, description="`mean`, or a head counted from 0.", examples=["mean", "0"], max_length=4
    )
    method: Literal["raw", "rollout"] = Field(
        "raw",
        description="`raw`: softmax(q k^T / sqrt(d)) of [CLS] over the patches in that layer. `rollout`: through all "
        "layers up to that one, each the mean over its heads (Abnar & Zuidema 2020).",
    )
    output: Literal["overlay", "map", "json"] | None = Field(
        None,
        description="`overlay`: a PNG of the picture with the attention over it. `map`: a PNG of the attention alone. "
        "`json`: its numbers. Default: `json` where `Accept` asks for it, else `overlay`. PNGs answer one image.",
    )

    @property
    def head_index(self) -> int | None:
        """The head; None is the mean of all."""
        return None if self.head == "mean" else int(self.head)


class PreprocessQuery(ResolutionQuery):
    """Parameters of POST /preprocess."""

    output: Literal["png", "json"] | None = Field(
        None,
        description="`png`: the picture, its numbers in the headers. `json`: the numbers, the picture as a data: URI. "
        "Default: `json` where `Accept` asks for it, else `png`, which answers one image.",
    )


class JsonUpload(BaseModel):
    """Images as JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(description="base64, or data: URIs of it", min_length=1)


class Problem(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: str = Field(examples=["urn:vitrine:problem:undecodable"])
    title: str
    status: int
    detail: str = Field(description="a sentence that names the offending value and what is allowed")
    code: str = Field(examples=["undecodable"])
    request_id: str


class ImageInfo(BaseModel):
    """The picture as it came, upright."""

    width: int
    height: int
    format: str


class NetworkInfo(BaseModel):
    """The picture as the network saw it."""

    width: int
    height: int
    resize: str
    tokens: int = Field(description="patches and prefix tokens")
    interpolated: bool = Field(description="whether the position embeddings were resampled")


class Prediction(BaseModel):
    """A class and its probability."""

    label: str
    index: int = Field(description="the checkpoint's class index")
    score: float


class Failed(BaseModel):
    """The place of an image that was refused while others of its request were answered."""

    error: Problem


class Classification(BaseModel):
    """The classes of one image."""

    predictions: list[Prediction]
    image: ImageInfo
    network: NetworkInfo


class ClassifyResponse(BaseModel):
    """The answer of POST /classify."""

    model: str
    activation: Literal["softmax", "sigmoid"]
    failed: int = Field(description="how many images were refused")
    results: list[Classification | Failed] = Field(description="in the order of the images")


class Embedding(BaseModel):
    """The vector of one image."""

    embedding: list[float] | str
    image: ImageInfo
    network: NetworkInfo


class EmbedResponse(BaseModel):
    """The answer of POST /embed."""

    model: str
    dim: int
    failed: int = Field(description="how many images were refused")
    results: list[Embedding | Failed] = Field(description="in the order of the images")


class AttentionMap(BaseModel):
    """The attention of [CLS] in one image."""

    attention: list[list[float]] = Field(description="for each patch, rows from the top")
    grid: tuple[int, int] = Field(description="rows and columns of patches")
    image: ImageInfo
    network: NetworkInfo


class AttentionResponse(BaseModel):
    """The answer of POST /attention."""

    model: str
    layer: int
    head: int | Literal["mean"]
    method: Literal["raw", "rollout"]
    failed: int = Field(description="how many images were refused")
    results: list[AttentionMap | Failed] = Field(description="in the order of the images")


class Steps(BaseModel):
    """How the picture was brought to the network's size: scaled, then cut."""

    scaled_width: int
    scaled_height: int
    left: int = Field(description="of the cut, in the scaled picture; negative where it is padded")
    top: int


class PreprocessedImage(BaseModel):
    """One image as the network is given it, before mean and standard deviation."""

    picture: str = Field(description="a PNG as a data: URI")
    grid: tuple[int, int] = Field(description="rows and columns of patches")
    steps: Steps
    image: ImageInfo
    network: NetworkInfo


class PreprocessResponse(BaseModel):
    """The answer of POST /preprocess."""

    model: str
    failed: int = Field(description="how many images were refused")
    results: list[PreprocessedImage | Failed] = Field(description="in the order of the images")


class Health(BaseModel):
    """The answer of the probes."""

    status: Literal["ok"]

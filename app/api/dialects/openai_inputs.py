"""The forms in which clients of OpenAI's API and of its imitators write an image.

A string, `{"image": ...}`, the content parts of OpenAI's chats (`{"type": "image_url", ...}`) and of its responses
(`{"type": "input_image", ...}`), and chats with one image, as vLLM takes them for embeddings.
https://platform.openai.com/docs/guides/images-vision
https://docs.vllm.ai/en/latest/models/pooling_models.html
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.api.dialects.shared import PASSED_OVER

IMAGE = "An image file as base64, or as a data: URI of base64."
ALLOWED = (
    'must be base64, a data: URI of base64, {"image": ...} or {"type": "image_url", "image_url": {"url": ...}} with '
    "one of these, or a list of them"
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageItem(_Part):
    """An image as an object."""

    image: str = Field(description=IMAGE)


class ImageUrl(_Part):
    """The address of an image in OpenAI's form."""

    url: str = Field(description="A data: URI of base64; URLs are not fetched.")
    detail: Any = Field(default=None, description=PASSED_OVER)


class ImagePart(_Part):
    """An image as OpenAI's content parts have it."""

    type: Literal["image_url", "input_image"] = Field("image_url", description="Either name for an image.")
    image_url: ImageUrl | str = Field(description="A data: URI of base64, alone or as `url` of an object.")
    detail: Any = Field(default=None, description=PASSED_OVER)


Image = ImageItem | ImagePart


def _images(value: Any) -> Any:
    """Return the images of `input` as strings, in order.

    Raises ValueError with one sentence: for a union, pydantic reports what is wrong with each of its members.
    """
    items = value if isinstance(value, list) else [value]
    return [item if isinstance(item, str) else _of_object(item, ALLOWED) for item in items]


def _of_object(value: Any, allowed: str) -> str:
    for kind in (ImageItem, ImagePart):
        try:
            item = kind.model_validate(value, strict=True)
        except ValidationError:
            continue
        if isinstance(item, ImageItem):
            return item.image
        return item.image_url if isinstance(item.image_url, str) else item.image_url.url
    raise ValueError(allowed)


ImageInput = Annotated[
    list[str],
    BeforeValidator(_images, json_schema_input_type=str | Image | list[str | Image]),
]
"""The member `input`: the images as strings, after validation."""


class TextPart(_Part):
    """Text beside an image."""

    type: Literal["text"]
    text: str = Field(description="Must be blank, because the model reads no text.", pattern=r"^\s*$")


class Message(_Part):
    """A message of a chat."""

    role: str = Field(description=PASSED_OVER)
    content: list[ImagePart | ImageItem | TextPart] = Field(description="Content parts: an image, and no text.")


def _image_of_chat(value: Any) -> Any:
    """Return the one image of a chat. Raises ValueError for text, which the model does not read, and for two images."""
    if not isinstance(value, list) or not all(isinstance(one, dict) and "content" in one for one in value):
        raise ValueError("must be a list of messages with 'role' and 'content'")
    images = [image for message in value for image in _images_of(message["content"])]
    if len(images) != 1:
        raise ValueError(f"must have one image, and these have {len(images)}; send several images as 'input'")
    return images[0]


def _images_of(content: Any) -> Iterator[str]:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for part in parts if isinstance(parts, list) else [parts]:
        if not isinstance(part, dict) or "text" not in part:
            yield _of_object(part, 'must have content parts {"type": "image_url", "image_url": {"url": ...}}')
        elif str(part["text"]).strip():
            raise ValueError("must have no text: the model reads images only, and a vector would ignore it")


Chat = Annotated[str, BeforeValidator(_image_of_chat, json_schema_input_type=list[Message])]
"""The member `messages`: its image as a string, after validation."""

"""The bodies of OpenAI's Images API as models, which are the schemas of the gateway's OpenAPI document."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from darkroom.producer.gateway.openai.orders import PARTIAL_IMAGES_MAX
from darkroom.schemas.events.request import COUNT_MAX


class ImagesOrder(BaseModel):
    """A request for pictures, as OpenAI's clients send it. Every field of GenerationOrder may stand beside these."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"prompt": "a dancer", "n": 2}]})

    prompt: str = Field(min_length=1, max_length=2000, description="What to paint.")
    model: str | None = Field(default=None, description="One of GET /v1/models; null for the only one there is.")
    n: int | None = Field(default=None, ge=1, le=COUNT_MAX, description="How many pictures; 1 when left out.")
    size: str | None = Field(default=None, description="WIDTHxHEIGHT in pixels, or auto: the model's own.")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        default=None, description="high, xhigh, max and hd: the preset quality; low, medium and standard: fast."
    )
    output_format: Literal["png", "webp", "jpeg"] | None = Field(default=None, description="png when left out.")
    output_compression: int | None = Field(
        default=None, ge=0, le=100, description="The encoder's quality for webp and jpeg; 100 when left out."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None, description="url needs a gateway that knows its own address; b64_json when left out."
    )
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")
    partial_images: int | None = Field(
        default=None, ge=0, le=PARTIAL_IMAGES_MAX, description="Previews to send in a stream before the picture."
    )
    user: str | None = Field(default=None, description="Kept as the job's label `user`.")


class OnePicture(BaseModel):
    """A picture, in the form that was asked for."""

    b64_json: str | None = Field(default=None, description="The file in base64.")
    url: str | None = Field(default=None, description="Where the file is.")


class ImagesAnswer(BaseModel):
    """The pictures of a request."""

    created: int = Field(description="When the pictures were finished, in seconds since 1970.")
    data: list[OnePicture] = Field(description="The pictures.")
    background: Literal["opaque"] = Field(description="SDXL paints no transparency.")
    output_format: Literal["png", "webp", "jpeg"] = Field(description="The files' format.")
    size: str = Field(description="WIDTHxHEIGHT in pixels.")


class ModelCard(BaseModel):
    """A name that `model` may have."""

    id: str = Field(description="The name.")
    object: Literal["model"] = Field(default="model", description="OpenAI's name for its kind.")
    created: int = Field(default=0, description="0: not known.")
    owned_by: str = Field(default="darkroom", description="Who serves it.")


class ModelList(BaseModel):
    """The names that `model` may have."""

    object: Literal["list"] = Field(default="list", description="OpenAI's name for its kind.")
    data: list[ModelCard] = Field(description="The models.")


class Fault(BaseModel):
    """An error, as OpenAI's clients read it. Further members depend on `code`."""

    model_config = ConfigDict(extra="allow")

    message: str = Field(description="What happened, and what the caller can do.")
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"] = Field(description="Its kind.")
    param: str | None = Field(description="The field that it is about, where it is about one.")
    code: str = Field(description="For programs; its meaning never changes.")
    remedy: str = Field(description="What the caller can do.")


class FaultAnswer(BaseModel):
    """An answer other than success."""

    error: Fault = Field(description="The error.")


FAULTS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": FaultAnswer, "description": "Refused; `code` says why."},
    "5XX": {"model": FaultAnswer, "description": "Not possible now; `code` says why."},
}
"""The error responses of these routes."""

"""Teachers that are asked over HTTP."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from gateway.settings.part import ModelName, Name, Part
from gateway.teachers.destination import destination
from gateway.types import FieldValue


class UpstreamSettings(Part):
    """Where a teacher is asked over HTTP."""

    url: str = Field(description="http or https, a host, maybe a port and a path")
    key: Name | None = Field(
        default=None, description="its name in UNDERSTUDY_TEACHER_KEYS; null: none is sent"
    )

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:  # of the whole part, as a message about url alone shows it
        try:
            destination(self.url)
        except ValueError as error:
            raise ValueError(f"url: {error}") from error
        return self


class OipSettings(UpstreamSettings):
    """A model behind the Open Inference Protocol, version 2, over REST."""

    model: ModelName
    version: ModelName | None = None
    input: str = Field(default="text", min_length=1, description="the tensor that takes the text")
    outputs: dict[str, str] = Field(default={}, description="head -> the tensor that answers it")
    scores: Literal["logits", "probabilities"] = Field(
        default="logits", description="what the numbers of a head's tensor are"
    )


class ShownSettings(Part):
    """A text that a chat model is shown with its labels, as an example."""

    text: str
    labels: dict[str, str | tuple[str, ...]] = Field(description="of every head")
    fields: dict[str, FieldValue] = Field(default={})


# What the gateway itself writes into a request of a chat; it asks for one reply, in one piece.
_OF_A_CHAT = frozenset(
    {"model", "messages", "temperature", "max_tokens", "response_format", "logprobs", "n", "stream"}
)


class ChatSettings(UpstreamSettings):
    """A model behind an OpenAI-compatible chat endpoint, and the card that tells it the task."""

    model: str = Field(min_length=1)
    instructions: str = ""
    descriptions: dict[str, dict[str, str]] = Field(
        default={}, description="head -> label -> what it means"
    )
    examples: tuple[ShownSettings, ...] = ()
    structured: Literal["auto", "json_schema", "json_object", "none"] = "auto"
    temperature: float | None = Field(default=0.0, ge=0.0, description="null: not sent")
    max_tokens: int | None = Field(default=512, ge=1, description="of a reply; null: not sent")
    samples: int = Field(default=1, ge=1, le=64, description="replies that vote")
    logprobs: bool = False
    extra: dict[str, JsonValue] = Field(default={}, description="more keys of each request")
    input_usd_per_million: Decimal | None = Field(default=None, ge=0)
    output_usd_per_million: Decimal | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0.0:
            raise ValueError("samples of temperature 0 are all the same; name a temperature above")
        if self.samples > 1 and self.logprobs:
            raise ValueError("samples and logprobs are two ways to one end; name one of them")
        return self

    @model_validator(mode="after")
    def _extra_is_more(self) -> Self:
        if taken := sorted(self.extra.keys() & _OF_A_CHAT):
            raise ValueError(f"extra.{taken[0]}: the gateway writes this key itself")
        return self

"""The reply of a chat endpoint, in the shape that OpenAI gave it: what was written, at what price.

It reads the parts that matter here and passes over all others: servers differ in what they add. It
does not read what the model wrote; that is the prompt's.

Source: OpenAI API reference, "The chat completion object".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Self

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gateway.errors import TeacherGarbled
from gateway.teachers.prompt import Span
from gateway.telemetry.pricing import micro_usd

_MILLION = Decimal(1_000_000)  # tokens that a price is for

# Of one call: far above any context, and small enough that its price is a number that is stored.
_Tokens = Annotated[int, Field(ge=0, le=10**9, strict=True)]
_Byte = Annotated[int, Field(ge=0, le=255, strict=True)]

_UNFINISHED = {
    "length": ("was cut off", "raise max_tokens of the teacher"),
    "content_filter": ("was held back by the server's filter", ""),
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Usage(_Part):
    """Tokens of one call, as the server counts them for its bill."""

    prompt_tokens: _Tokens
    completion_tokens: _Tokens


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """What a million tokens cost, in USD; None: not known.

    Tokens that the server read from a cache count in full: the cost is never told too low for them.
    """

    input_usd_per_million: Decimal | None = None
    output_usd_per_million: Decimal | None = None

    def cost(self, calls: Iterable[Usage | None]) -> int | None:
        """All calls together, in micro-USD, rounded once; None where a part is not known."""
        used = list(calls)
        counted = [usage for usage in used if usage is not None]
        read, written = self.input_usd_per_million, self.output_usd_per_million
        if read is None or written is None or len(counted) < len(used):
            return None
        usd_millions = read * sum(usage.prompt_tokens for usage in counted)
        usd_millions += written * sum(usage.completion_tokens for usage in counted)
        return micro_usd(usd_millions / _MILLION)


class _Message(_Part):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Part):
    message: _Message
    finish_reason: str | None = None
    logprobs: Any = None  # read only where it is asked for: see Tokens


class Completion(_Part):
    """One reply. `usage` is None where the server does not count."""

    choices: tuple[_Choice, ...]
    usage: Usage | None = None

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Read a reply's body. Raises TeacherGarbled."""
        try:
            return cls.model_validate(orjson.loads(body))
        except (orjson.JSONDecodeError, ValidationError) as error:
            raise TeacherGarbled(
                "the reply has not the shape of a chat completion",
                mend="is the url that of an OpenAI-compatible server, up to /v1?",
            ) from error

    def content(self) -> str:
        """What the model wrote. Raises TeacherGarbled where it wrote nothing, or not to its end."""
        if not self.choices:
            raise TeacherGarbled("the reply has no choices")
        choice = self.choices[0]
        if choice.message.refusal:
            raise TeacherGarbled(
                "the model refused to answer",
                mend="say in the instructions what the labels are for",
            )
        if choice.finish_reason in _UNFINISHED:
            what, mend = _UNFINISHED[choice.finish_reason]
            raise TeacherGarbled(f"the reply {what} ({choice.finish_reason})", mend=mend)
        if not choice.message.content:
            raise TeacherGarbled("the reply has no content")
        return choice.message.content

    def tokens(self) -> Tokens | None:
        """The tokens of `content` with their probabilities; None where they are not there."""
        content, choice = self.content(), self.choices[0]
        try:
            entries = _LOGPROBS.validate_python(choice.logprobs).content
        except ValidationError:
            return None
        parts = [bytes(e.bytes) if e.bytes is not None else e.token.encode() for e in entries]
        start = b"".join(parts).find(content.encode())
        if start < 0:  # a server that shows its tokens another way than its text
            return None
        return Tokens(content, start, parts, [min(0.0, entry.logprob) for entry in entries])


class _Entry(_Part):
    token: str
    logprob: float
    bytes: list[_Byte] | None = None


class _Logprobs(_Part):
    content: list[_Entry] = Field(min_length=1)


_LOGPROBS = TypeAdapter(_Logprobs)


class Tokens:
    """The tokens of a text, laid over it. They may begin before it and go on behind it.

    `start` is the text's first byte among those of the tokens; `logs` are natural logarithms.
    """

    def __init__(self, text: str, start: int, parts: list[bytes], logs: list[float]) -> None:
        self._text = text
        self._ends: NDArray[np.int64] = np.cumsum([len(part) for part in parts]) - start
        self._starts = self._ends - [len(part) for part in parts]
        self._logs = np.array(logs, np.float64)

    def probability(self, span: Span) -> float:
        """The probability of what stands there, given what stands before.

        By the chain rule the product over all tokens that reach into it.
        """
        first, last = (len(self._text[:place].encode()) for place in span)
        inside = (self._ends > first) & (self._starts < last)
        return float(np.exp(self._logs[inside].sum()))

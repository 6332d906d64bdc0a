"""A teacher that is a chat model: any server that speaks OpenAI's `/v1/chat/completions`.

It asks by the task's prompt, has the server hold the model to the answer's schema where it can, and
knows what the call cost. It does not retry and keeps no deadline: that is the guard's.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import orjson

from gateway.contract.manifest import Task
from gateway.errors import TeacherError, TeacherGarbled, TeacherRefused
from gateway.teachers import belief
from gateway.teachers.base import Said
from gateway.teachers.completion import Completion, TokenPrices
from gateway.teachers.prompt import Message, Prompt, Reading
from gateway.teachers.upstream import Upstream
from gateway.types import Instance, Prediction

Structured = Literal["auto", "json_schema", "json_object", "none"]

_PATH = "/chat/completions"
_MODEL = 48  # characters of a model's name, its last; with a fingerprint a record has room for it
_FINGERPRINT = 12  # hexadecimal digits: enough to tell the prompts of a task apart
_LADDER: tuple[Structured, ...] = ("json_schema", "json_object", "none")  # the strictest first
_FORM_REFUSED = frozenset({400, 422})  # how servers refuse a response_format that they do not know
_PLAIN_S = 30.0  # after all forms were refused, in which one request is enough to be refused


@dataclass(frozen=True, slots=True)
class Asking:
    """How a chat model is asked.

    `samples` replies are asked for, side by side, and vote. `logprobs`: its tokens' probabilities
    are asked for. `options` go into each request's body as they are: temperature, max_tokens.
    """

    model: str
    structured: Structured = "auto"
    samples: int = 1
    logprobs: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class ChatTeacher:
    """Asks a chat model for the labels of one instance.

    Where `structured` is `auto`, the first call finds out what the server takes: a JSON schema, any
    JSON object, or neither. The first that it does not refuse is kept; where it refuses all, it is
    asked in the last form alone for a while. Of several replies more than half have to be usable.
    `clock` gives seconds and never goes back.

    Its name is the model's with a fingerprint of how it is asked: under another prompt a model is
    another teacher, whose answers no cache and no certificate may take for those of the first.
    """

    def __init__(
        self,
        prompt: Prompt,
        upstream: Upstream,
        *,
        asking: Asking,
        prices: TokenPrices,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task: Task = prompt.task
        self.name = f"{asking.model[-_MODEL:]}@{_fingerprint(prompt, asking)}"
        self._prompt = prompt
        self._upstream = upstream
        self._asking = asking
        self._prices = prices
        self._clock = clock
        self._forms = _LADDER if asking.structured == "auto" else (asking.structured,)
        self._plain_until: float | None = None  # after all forms were refused

    async def answer(self, instance: Instance) -> Said:
        """Ask, read and price. A TeacherGarbled says what the unusable replies cost."""
        completions = await self._ask(self._prompt.messages(instance))
        cost = self._prices.cost([completion.usage for completion in completions])
        readings: list[Reading] = []
        garbled: list[TeacherGarbled] = []
        for completion in completions:
            try:
                readings.append(self._prompt.read(completion.content()))
            except TeacherGarbled as error:
                garbled.append(error)
        if len(garbled) >= len(readings):
            first = garbled[0]
            raise TeacherGarbled(first.message, mend=first.mend, cost=cost) from first
        return Said(self._believed(completions, readings), cost)

    async def close(self) -> None:
        """Close the connections."""
        await self._upstream.close()

    def _believed(
        self, completions: Sequence[Completion], readings: Sequence[Reading]
    ) -> Prediction:
        if self._asking.samples > 1:
            return belief.voted(self.task, readings, self.name)
        tokens = completions[0].tokens() if self._asking.logprobs else None
        if tokens is None:
            return belief.stated(self.task, readings[0], self.name)
        return belief.weighed(self.task, readings[0], tokens, self.name)

    async def _ask(self, messages: Sequence[Message]) -> list[Completion]:
        """All samples, or the error of the first that failed; the others are then ended."""
        samples: list[asyncio.Task[Completion]] = []
        try:
            async with asyncio.TaskGroup() as group:
                samples += [
                    group.create_task(self._sample(messages)) for _ in range(self._asking.samples)
                ]
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            if isinstance(first, TeacherError) and not all(map(_free, samples)):
                first.cost = None
            raise first from first.__cause__
        return [sample.result() for sample in samples]

    async def _sample(self, messages: Sequence[Message]) -> Completion:
        if self._plain_until is not None and self._clock() < self._plain_until:
            return await self._plain(messages)
        refused: list[TeacherRefused] = []
        for form in self._forms:
            try:
                reply = await self._post(form, messages)
            except TeacherError as error:
                if refused:
                    error.cost = None  # what the requests before it cost is not known
                if not isinstance(error, TeacherRefused) or error.status not in _FORM_REFUSED:
                    raise
                refused.append(error)
                continue
            self._forms = (form,)  # taken once, so that a later refusal is about something else
            self._plain_until = None
            return Completion.read(reply)
        last = refused[-1]  # the one that no form is to blame for
        if len(self._forms) > 1:
            self._plain_until = self._clock() + _PLAIN_S
            last.lasting = True
        raise last

    async def _plain(self, messages: Sequence[Message]) -> Completion:
        """Ask in the last form alone. Where it is taken, the others are tried again after it."""
        try:
            reply = await self._post(self._forms[-1], messages)
        except TeacherRefused as error:
            error.lasting |= error.status in _FORM_REFUSED and len(self._forms) > 1
            raise
        self._plain_until = None
        return Completion.read(reply)

    async def _post(self, form: Structured, messages: Sequence[Message]) -> bytes:
        return await self._upstream.post(_PATH, orjson.dumps(self._body(form, messages)))

    def _body(self, form: Structured, messages: Sequence[Message]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._asking.model, "messages": messages}
        if form == "json_schema":
            answer = {"name": "answer", "strict": True, "schema": self._prompt.schema}
            body["response_format"] = {"type": form, "json_schema": answer}
        elif form == "json_object":
            body["response_format"] = {"type": form}
        if self._asking.logprobs:
            body["logprobs"] = True
        return body | dict(self._asking.options)


def _free(sample: asyncio.Task[Completion]) -> bool:
    """Whether a sample failed in a way that certainly cost nothing."""
    error = None if sample.cancelled() else sample.exception()
    return isinstance(error, TeacherError) and error.cost == 0


def _fingerprint(prompt: Prompt, asking: Asking) -> str:
    asked = [prompt.messages(Instance("")), asdict(asking)]
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()[
        :_FINGERPRINT
    ]

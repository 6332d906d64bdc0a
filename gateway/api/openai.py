"""/v1/models, /v1/moderations, /v1/chat/completions in OpenAI's shapes. A model is a task.

A chat is classified by its last user message, and the completion is the label, or a JSON object of
heads; it may come as a stream. What would change the meaning of an answer is refused; settings of
sampling are ignored, since nothing is sampled. What OpenAI has no place for stands under the key
`understudy`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope

from gateway.api import asked, shapes
from gateway.api.dialect import Body, Dialect, Endpoint, Shown, json_response, told
from gateway.api.limits import read_body
from gateway.api.predict import labels_of
from gateway.api.problems import problem_of
from gateway.assembly import Gateway
from gateway.contract.manifest import Head, HeadKind
from gateway.errors import Invalid, UnderstudyError
from gateway.routing.cascade import Cascade
from gateway.settings import ServerSettings
from gateway.students.student import Student
from gateway.types import Answer, Instance, Prediction, Terms

_CHAT = '{"model": "TASK", "messages": [{"role": "user", "content": "..."}]}'
_MODERATION = '{"model": "TASK", "input": "..."}'
_USD = 1_000_000  # micro-USD in a USD
_EVENTS = b"text/event-stream; charset=utf-8"
_REFUSED = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)
_CODES = {
    "unauthorized": "invalid_api_key",
    "unknown_task": "model_not_found",
    "overloaded": "rate_limit_exceeded",
}
_PLACE = re.compile(r"([a-z_]+(?:[.\[\]\w]*)): ")  # where a message says that something is wrong
# Parameters that would change what an answer is, and what of each changes nothing.
_MEANT: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
}
_FORMATS = {"text": False, "json_object": True, "json_schema": True}


@dataclass(frozen=True, slots=True)
class Chat:
    """What a chat asks. `as_json`: the completion is an object even where a label would do."""

    task: str | None
    instance: Instance
    terms: Terms
    as_json: bool
    stream: bool
    usage: bool  # at the end of the stream


def dialect(gateway: Gateway) -> Dialect:
    """The protocol on this gateway."""
    routes = _Routes(gateway)
    return Dialect(
        name="openai",
        owns=re.compile(r"/v1/(models(/|$)|moderations$|chat/)"),
        refuse=refuse,
        error=shapes.OpenAiError,
        endpoints=(
            Endpoint(
                "GET",
                "/v1/models",
                routes.models,
                Shown("The tasks as models", _models, shapes.OpenAiModels, (401, 500)),
            ),
            Endpoint(
                "GET",
                "/v1/models/{model}",
                routes.model,
                Shown("A task as a model", _model, shapes.OpenAiModel, (401, 404, 500)),
            ),
            Endpoint(
                "POST",
                "/v1/moderations",
                routes.moderations,
                Shown("Flags of texts", _moderations, shapes.Moderations, _REFUSED),
                metrics=gateway.metrics,
            ),
            Endpoint(
                "POST",
                "/v1/chat/completions",
                routes.chat,
                Shown("Classify a chat", _chat, shapes.Completion, _REFUSED, _STREAM),
                metrics=gateway.metrics,
            ),
        ),
    )


def refuse(error: Exception) -> Response:
    """An error as OpenAI says it; a wrong shape is 400 there."""
    problem = problem_of(error)
    status = 400 if problem.status == 422 else problem.status
    place = _PLACE.match(error.message) if isinstance(error, UnderstudyError) else None
    content = {
        "message": told(problem),
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": place and place[1],
        "code": _CODES.get(problem.code, problem.code),
    }
    return json_response({"error": content}, status, problem.headers)


def parse_chat(body: bytes, limits: ServerSettings, started: float) -> Chat:
    """A body -> what it asks. Raises Malformed or Invalid."""
    content = asked.content(body, _CHAT)
    for name, harmless in _MEANT.items():
        if (value := content.get(name)) is not None and value not in harmless:
            raise Invalid(f"{name}: not offered by a classifier", mend="leave it out")
    options = _object(content, "stream_options")
    return Chat(
        task=asked.name(content, "model"),
        instance=Instance(_last_user_text(content.get("messages"), limits)),
        terms=_terms(content, started),
        as_json=_as_json(_object(content, "response_format")),
        stream=asked.flag(content, "stream"),
        usage=asked.flag(options, "include_usage", "stream_options."),
    )


class _Routes:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def models(self, scope: Scope, receive: Receive) -> Body:  # noqa: ARG002  no body
        tasks = self._gateway.tasks.values()
        return Body.of({"object": "list", "data": [_shown(cascade) for cascade in tasks]})

    async def model(self, scope: Scope, receive: Receive) -> Body:  # noqa: ARG002
        return Body.of(_shown(self._gateway.cascade(scope["path_params"]["model"])))

    async def chat(self, scope: Scope, receive: Receive) -> Body:
        started = time.perf_counter()
        body = await read_body(scope, receive, limit=self._gateway.settings.server.max_body_bytes)
        chat = parse_chat(body, self._gateway.settings.server, started)
        cascade = self._gateway.cascade(chat.task)
        reply = await asked.reply(self._gateway, cascade, (chat.instance,), chat.terms, scope)
        completion = _completion(reply.answers[0], cascade, as_json=chat.as_json)
        headers = asked.headers(reply, started)
        if not chat.stream:
            return Body.of(completion, headers)
        events = _events(_chunks(completion, usage=chat.usage))
        return Body(events, _EVENTS, ((b"cache-control", b"no-cache"), *headers))

    async def moderations(self, scope: Scope, receive: Receive) -> Body:
        started = time.perf_counter()
        body = await read_body(scope, receive, limit=self._gateway.settings.server.max_body_bytes)
        content = asked.content(body, _MODERATION)
        instances = _inputs(content.get("input"), self._gateway.settings.server)
        cascade = self._flagging(asked.name(content, "model"))
        terms = _terms(content, started)
        reply = await asked.reply(self._gateway, cascade, instances, terms, scope)
        said = {
            "id": f"modr-{reply.answers[0].id}",
            "model": cascade.task,
            "results": [_moderation(answer) for answer in reply.answers],
        }
        return Body.of(said, asked.headers(reply, started))

    def _flagging(self, task: str | None) -> Cascade:
        """The task of that name, or the only one, with a head of flags. Raises Invalid."""
        flagging = [
            name
            for name, cascade in self._gateway.tasks.items()
            if any(head.kind is HeadKind.FLAGS for head in _heads(cascade))
        ]
        if task is None and len(flagging) == 1:
            return self._gateway.cascade(flagging[0])
        cascade = self._gateway.cascade(task)
        if cascade.task not in flagging:
            names = ", ".join(flagging) or "none here"
            raise Invalid(
                f"model: the task {cascade.task!r} has no head of flags, and moderation is flags",
                mend=f"name a task that has: {names}",
            )
        return cascade


def _completion(answer: Answer, cascade: Cascade, *, as_json: bool) -> dict[str, Any]:
    said = asked.said(answer)
    text = _content(said, as_json=as_json)
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": int(answer.at),
        "model": cascade.task,
        "system_fingerprint": said.bundle,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(cascade.rung.student.student, answer.instance.text, text),
        "understudy": _more(answer, said),
    }


def _usage(student: Student | None, asked: str, answered: str) -> dict[str, int] | None:
    """The tokens of both texts; without a student, by whose tokenizer they count, not known."""
    if student is None:
        return None
    # One at a time: for several the tokenizer starts its threads, which takes longer.
    prompt, completion = (len(student.encode([each])[0].ids) for each in (asked, answered))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _content(said: Prediction, *, as_json: bool) -> str:
    """The label where one choice is all there is, else heads and labels as JSON."""
    labels = labels_of(said)
    if not as_json and len(said.asked) == 1 and said.asked[0].kind is HeadKind.CHOICE:
        return said.heads[0].labels[0]
    return orjson.dumps(labels).decode()


def _chunks(completion: Mapping[str, Any], *, usage: bool) -> Iterable[dict[str, Any]]:
    """A completion as the pieces of a stream: who speaks, what it says, that it ends, usage."""
    about = {
        name: completion[name] for name in ("id", "created", "model", "system_fingerprint")
    } | {"object": "chat.completion.chunk"}
    if usage:
        about["usage"] = None
    text = completion["choices"][0]["message"]["content"]
    yield about | {"choices": [_delta({"role": "assistant", "content": ""})]}
    yield about | {"choices": [_delta({"content": text})]}
    yield about | {"choices": [_delta({}, "stop")], "understudy": completion["understudy"]}
    if usage:
        yield about | {"choices": [], "usage": completion["usage"]}


def _delta(delta: Mapping[str, str], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _events(chunks: Iterable[Mapping[str, Any]]) -> bytes:
    """Server-sent events, as OpenAI ends them."""
    lines = [b"data: " + orjson.dumps(chunk) for chunk in chunks]
    return b"\n\n".join([*lines, b"data: [DONE]", b""])


def _moderation(answer: Answer) -> dict[str, Any]:
    said = asked.said(answer)
    several = sum(head.kind is HeadKind.FLAGS for head in said.asked) > 1
    categories: dict[str, bool] = {}
    scores: dict[str, float] = {}
    for head, part in zip(said.asked, said.heads, strict=True):
        if head.kind is not HeadKind.FLAGS:
            continue
        for label, score in zip(head.labels, part.probabilities.tolist(), strict=True):
            name = f"{head.name}/{label}" if several else label
            categories[name] = label in part.labels
            scores[name] = score
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in categories},
        "understudy": _more(answer, said),
    }


def _more(answer: Answer, said: Prediction) -> dict[str, Any]:
    """What OpenAI's shapes have no place for."""
    total = answer.cost.total
    return {
        "id": answer.id,
        "route": answer.route,
        "reason": answer.decision.reason,
        "score": said.score,
        "bundle": said.bundle,
        "cost_usd": None if total is None else total / _USD,
    }


def _last_user_text(messages: Any, limits: ServerSettings) -> str:
    if type(messages) is not list or not messages:
        raise Invalid("messages: not a list with something in it", mend=f"send {_CHAT}")
    for number, message in enumerate(messages):
        if type(message) is not dict or type(message.get("role")) is not str:
            raise Invalid(f"messages[{number}].role: not a role", mend=f"send {_CHAT}")
    for number in reversed(range(len(messages))):
        if messages[number]["role"] == "user":
            place = f"messages[{number}].content"
            return asked.text(_joined(messages[number].get("content"), place), place, limits)
    raise Invalid("messages: none is of the role user", mend=f"send {_CHAT}")


def _joined(content: Any, place: str) -> Any:
    """A text that may come in parts, each on a line of its own."""
    if type(content) is not list:
        return content
    for number, part in enumerate(content):
        if type(part) is not dict or part.get("type") != "text":
            raise Invalid(f"{place}[{number}]: not a part of text", mend="students read only text")
        if type(part.get("text")) is not str:
            raise Invalid(f"{place}[{number}].text: not a text", mend="send a string")
    return "\n".join(part["text"] for part in content)


def _inputs(value: Any, limits: ServerSettings) -> Sequence[Instance]:
    """A text, a list of texts, or one text in parts."""
    in_parts = type(value) is list and any(type(each) is dict for each in value)
    if type(value) is not list or in_parts:
        return (Instance(asked.text(_joined(value, "input"), "input", limits)),)
    return asked.instances(value, "input", limits)


def _terms(content: Mapping[str, Any], started: float) -> Terms:
    """On what terms, under a key of our own."""
    wishes = _object(content, "understudy")
    asked.check_known(wishes, asked.TERMS, "understudy.")
    return asked.terms(wishes, "understudy.", started)


def _object(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    if value is not None and type(value) is not dict:
        raise Invalid(f"{key}: no object", mend="send an object, or leave it out")
    return value or {}


def _as_json(wanted: Mapping[str, Any]) -> bool:
    kind = wanted.get("type", "text")
    if type(kind) is not str or kind not in _FORMATS:
        raise Invalid(
            "response_format.type: not a format", mend=f"send one of: {', '.join(_FORMATS)}"
        )
    return _FORMATS[kind]


def _heads(cascade: Cascade) -> Sequence[Head]:
    return cascade.heads


def _shown(cascade: Cascade) -> dict[str, Any]:
    """A task as a model; it was created when its bundle was, and is none created yet without."""
    bundle = cascade.rung.bundle
    return {
        "id": cascade.task,
        "object": "model",
        "created": _seconds(bundle.manifest.provenance.created_at) if bundle else 0,
        "owned_by": "understudy",
    }


def _seconds(moment: str) -> int:
    """A moment that somebody wrote, in seconds since the epoch; 0 where it cannot be read."""
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return 0


_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {"type": "string", "description": "a chat.completion.chunk; at the end [DONE]"}
    },
}
_STREAM: Mapping[str, Any] = {
    "responses": {"200": {"content": {"text/event-stream": {"schema": _EVENT}}}}
}


async def _models() -> None:
    """The tasks that are served here."""


async def _model(model: str) -> None:
    """One task; its name is the model's id."""


async def _moderations(body: shapes.ModerationRequest) -> None:
    """A task with a head of flags: each flag is a category, and any flag flags the text.

    Without `model` the only such task is asked.
    """


async def _chat(body: shapes.ChatRequest) -> None:
    """The last user message in; the label out, or a JSON object of heads.

    An object is given where the task has several heads, flags, or where `response_format` asks for
    JSON. Tokens are counted as the student's tokenizer splits text, as far as the student reads.
    """

"""POST /v1/predict, the hot route: a body -> instances -> the cascade -> a reply.

A pure ASGI callable: orjson reads (it refuses NaN, lone surrogates and deep nesting), one pass
validates, and no model, file, lock or database stands on the way. It decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from gateway.api import asked, schemas
from gateway.api.dialect import unchosen
from gateway.api.limits import read_body
from gateway.assembly import Gateway
from gateway.contract.manifest import HeadKind
from gateway.errors import Invalid, Malformed, TooLarge
from gateway.settings import ServerSettings
from gateway.types import Answer, FieldValue, Instance, Prediction, Terms

PATH = "/v1/predict"

_FIELDS = 32  # of one input; risk rules read a handful
_ID_LENGTH = 128  # characters of a client's own id, which comes back
_MICRO = 1_000_000  # micro-USD in a USD
_MS = 1000.0  # milliseconds in a second
_PLAIN = Terms()
_KEYS = frozenset(
    {"task", "input", "inputs", "fields", "route", "priority", "deadline_ms", "probabilities"}
)
_TERMS = frozenset({"route", "priority", "deadline_ms"})
_INPUT_KEYS = frozenset({"text", "fields", "id"})
_SCALARS = frozenset({str, int, float, bool, type(None)})


@dataclass(frozen=True, slots=True)
class Question:
    """What a body asks. `single`: the reply is one object and no list."""

    task: str | None
    instances: Sequence[Instance]
    ids: Sequence[str | None]
    single: bool
    terms: Terms = _PLAIN
    probabilities: bool = False


class Predict:
    """The ASGI callable of the hot route. It raises; the shell around it replies to errors."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        metrics = self._gateway.metrics
        metrics.entered()
        try:
            await self._answer(scope, receive, send)
        finally:
            metrics.left()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        limits = self._gateway.settings.server  # read each time: they may be reloaded
        body = await read_body(scope, receive, limit=limits.max_body_bytes)
        question = parse(body, limits, started)
        cascade = self._gateway.cascade(question.task)
        scope["state"]["task"] = cascade.task  # an error from here on is counted under its task
        told = await self._gateway.answer(cascade.task, question.instances, question.terms)
        answers = told.answers
        results = [
            result(answer, given, probabilities=question.probabilities)
            for answer, given in zip(answers, question.ids, strict=True)
        ]
        reply = orjson.dumps(results[0] if question.single else {"results": results})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(reply)),
            (b"server-timing", asked.timing(answers, started)),
            (b"understudy-record", told.record.encode()),
        ]
        if question.single:
            headers.append((b"x-understudy-route", answers[0].route.encode()))
            headers.append((b"x-understudy-reason", answers[0].decision.reason.encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})


class PredictRoute(APIRoute):
    """The route as /openapi.json shows it; the shell runs the ASGI callable, nobody else does."""

    def __init__(self) -> None:
        super().__init__(
            PATH,
            _documented,
            methods=["POST"],
            name="predict",
            summary="Answer one text, or several",
            response_model=schemas.Result | schemas.Results,
            responses=schemas.problems(400, 401, 404, 408, 413, 415, 422, 429, 431, 500, 503, 504),
        )
        self.app = unchosen


async def _documented(body: schemas.PredictRequest) -> None:
    """Send `input` for one answer, `inputs` for a list of them.

    The student answers what it is sure of; the rest goes to the teacher. `route`: "teacher" asks
    the teacher in any case, "student" only what a risk rule names.
    """


def parse(body: bytes, limits: ServerSettings, now: float) -> Question:
    """A body that came at `now` (time.perf_counter) -> what it asks.

    Raises Malformed, Invalid or TooLarge, naming the place.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}", mend="send one JSON object") from error
    if type(content) is not dict:
        raise Invalid("the body is no object", mend='send {"input": "..."}')
    if not content.keys() <= _KEYS:
        raise _unknown("", content, _KEYS)
    if ("input" in content) is ("inputs" in content):
        raise Invalid("the body needs either input or inputs", mend='send {"input": "..."}')
    task = _optional_string(content, "task")
    terms = asked.terms(content, "", now) if content.keys() & _TERMS else _PLAIN
    probabilities = content.get("probabilities", False)
    if type(probabilities) is not bool:
        raise Invalid("probabilities: not true or false", mend="send true, or leave it out")
    if "input" in content:
        text = asked.text(content["input"], "input", limits)
        instance = Instance(text, _fields(content.get("fields"), "fields"))
        return Question(task, (instance,), (None,), True, terms, probabilities)
    if "fields" in content:
        raise Invalid("fields: they belong to one input", mend='send inputs as {"text", "fields"}')
    instances, ids = _inputs(content["inputs"], limits)
    return Question(task, instances, ids, False, terms, probabilities)


def result(
    answer: Answer, given: str | None = None, *, probabilities: bool = False
) -> dict[str, Any]:
    """An answer as the client gets it; `given` is the id that the client gave its input."""
    said, student = answer.prediction, answer.student
    cost, stages = answer.cost, answer.stages
    reply: dict[str, Any] = {
        "id": answer.id,
        "labels": said and labels_of(said),
        "confidence": said and {head.head: head.confidence for head in said.heads},
        "score": said and said.score,
        "familiarity": student and student.familiarity,
        "route": answer.route,
        "reason": answer.decision.reason,
        "reasons": answer.decision.reasons,
        "bundle": said and said.bundle,
        "truncated": _truncated(answer),
        "cost_usd": {
            "student": _usd(cost.student),
            "teacher": _usd(cost.teacher),
            "avoided": _usd(cost.avoided),
            "total": _usd(cost.total),
        },
        "timing_ms": {
            "queue": round(stages.queue * _MS, 3),
            "student": round(stages.student * _MS, 3),
            "teacher": round(stages.teacher * _MS, 3),
            "total": round(stages.total * _MS, 3),
        },
    }
    if given is not None:
        reply["input_id"] = given
    if answer.decision.detail:
        reply["detail"] = answer.decision.detail
    if answer.failure:
        reply["failure"] = answer.failure
    if probabilities and said:
        reply["probabilities"] = {
            head.name: dict(zip(head.labels, part.probabilities.tolist(), strict=True))
            for head, part in zip(said.asked, said.heads, strict=True)
        }
    return reply


def _inputs(values: Any, limits: ServerSettings) -> tuple[Sequence[Instance], Sequence[str | None]]:
    if type(values) is not list or not values:
        raise Invalid("inputs: not a list with something in it", mend='send ["...", "..."]')
    if len(values) > limits.max_inputs:
        raise TooLarge(
            f"inputs: {len(values)} of them, {limits.max_inputs} are allowed",
            mend="send them in several requests",
        )
    instances: list[Instance] = []
    ids: list[str | None] = []
    for number, value in enumerate(values):
        place = f"inputs[{number}]"
        if type(value) is not dict:
            instances.append(Instance(asked.text(value, place, limits)))
            ids.append(None)
            continue
        if not value.keys() <= _INPUT_KEYS:
            raise _unknown(f"{place}.", value, _INPUT_KEYS)
        text = asked.text(value.get("text"), f"{place}.text", limits)
        instances.append(Instance(text, _fields(value.get("fields"), f"{place}.fields")))
        ids.append(_optional_string(value, "id", f"{place}."))
    return instances, ids


def _fields(value: Any, place: str) -> Mapping[str, FieldValue]:
    if value is None:
        return {}
    if type(value) is not dict:
        raise Invalid(f"{place}: no object", mend='send {"name": value}')
    if len(value) > _FIELDS:
        raise Invalid(
            f"{place}: {len(value)} of them, {_FIELDS} are allowed",
            mend="send only those that risk rules read",
        )
    for name, each in value.items():
        if type(each) not in _SCALARS:
            raise Invalid(
                f"{place}.{name[:60]}: a list or an object",
                mend="send a string, a number, true, false or null",
            )
    return value


def _optional_string(content: Mapping[str, Any], key: str, place: str = "") -> str | None:
    value = content.get(key)
    if value is not None and (type(value) is not str or not 0 < len(value) <= _ID_LENGTH):
        raise Invalid(
            f"{place}{key}: not a name", mend=f"send a string of 1 to {_ID_LENGTH} characters"
        )
    return value


def _unknown(place: str, content: Mapping[str, Any], known: frozenset[str]) -> Invalid:
    unknown = min(content.keys() - known)
    return Invalid(
        f"{place}{unknown[:60]}: unknown key", mend=f"the known keys are {', '.join(sorted(known))}"
    )


def labels_of(said: Prediction) -> dict[str, str | tuple[str, ...]]:
    """What a client gets of a prediction: a label for a choice, a list of them for flags."""
    return {
        head.name: part.labels[0] if head.kind is HeadKind.CHOICE else part.labels
        for head, part in zip(said.asked, said.heads, strict=True)
    }


def _truncated(answer: Answer) -> bool:
    said = answer.prediction or answer.student
    return said is not None and said.truncated


def _usd(micro: int | None) -> float | None:
    return None if micro is None else micro / _MICRO

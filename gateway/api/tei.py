"""POST /predict in the shape of Text Embeddings Inference: labels with their scores, best first.

A client of TEI's sequence classification moves here by its address alone. Scores are calibrated
probabilities; raw ones are refused, and so are pairs of texts, which no student reads. The reply
has no place for the route, so it stands in the headers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Query
from starlette.responses import Response
from starlette.types import Receive, Scope

from gateway import __version__
from gateway.api import asked, ops, shapes
from gateway.api.dialect import Access, Body, Dialect, Endpoint, Shown, json_response, told
from gateway.api.limits import read_body
from gateway.api.problems import problem_of
from gateway.assembly import Gateway
from gateway.contract.manifest import Head, HeadKind
from gateway.errors import Invalid, StudentFailed, Unanswered
from gateway.settings import ServerSettings
from gateway.students.vacancy import NO_STUDENT
from gateway.types import Answer, Instance, Terms

_WANTED = '{"inputs": "..."}'
_KEYS = frozenset(
    {
        "inputs",
        "raw_scores",
        "truncate",
        "truncation_direction",
        "model",
        "task",
        "head",
        "parameters",
    }
)
_REFUSED = (400, 401, 404, 408, 413, 415, 422, 424, 429, 500, 503, 504)
# TEI's own words for what went wrong, by HTTP status; all else is "validation".
_TYPES = {424: "backend", 429: "overloaded", 500: "backend", 503: "unhealthy", 504: "overloaded"}


@dataclass(frozen=True, slots=True)
class Question:
    """What a body asks. `single`: the reply is one list of labels, and no list of lists."""

    task: str | None
    head: str | None
    instances: Sequence[Instance]
    single: bool


def dialect(gateway: Gateway) -> Dialect:
    """The protocol on this gateway."""
    routes = _Routes(gateway)
    return Dialect(
        name="tei",
        owns=re.compile(r"/(predict|info|health)$"),
        refuse=refuse,
        error=shapes.TeiError,
        endpoints=(
            Endpoint(
                "POST",
                "/predict",
                routes.predict,
                Shown("Labels with scores, as TEI", _predict, shapes.TeiReply, _REFUSED),
                metrics=gateway.metrics,
            ),
            Endpoint(
                "GET",
                "/info",
                routes.info,
                Shown("What serves, as TEI", _info, shapes.TeiInfo, (401, 404, 422, 500)),
            ),
            Endpoint(
                "GET",
                "/health",
                routes.health,
                Shown("Ready and alive, as TEI", _health, None, (500, 503)),
                access=Access.OPEN,
            ),
        ),
    )


def refuse(error: Exception) -> Response:
    """An error as TEI says it. A failed inference is 424 there; other statuses are our own."""
    problem = problem_of(error)
    failed = isinstance(error, StudentFailed | Unanswered)
    status = HTTPStatus.FAILED_DEPENDENCY if failed else problem.status
    content = {"error": told(problem), "error_type": _TYPES.get(status, "validation")}
    return json_response(content, status, problem.headers)


def parse(body: bytes, query: Mapping[str, str], limits: ServerSettings) -> Question:
    """A body, and what the address says -> what is asked. Raises Malformed, Invalid, TooLarge."""
    content = asked.content(body, _WANTED)
    asked.check_known(content, _KEYS)
    _check_parameters(content.get("parameters"))
    if asked.flag(content, "raw_scores"):
        raise Invalid(
            "raw_scores: scores here are calibrated probabilities", mend="leave it out, or false"
        )
    asked.flag(content, "truncate")  # what is too long for the student goes to the teacher anyway
    task = asked.name(content, "task") or asked.name(content, "model") or query.get("task")
    head = asked.name(content, "head") or query.get("head")
    inputs = content.get("inputs")
    if type(inputs) is not list:
        single = Instance(asked.text(inputs, "inputs", limits))
        # With `parameters` it is of the Hugging Face inference API, whose reply is always a batch.
        return Question(task, head, (single,), single=content.get("parameters") is None)
    texts = [_alone(each, number) for number, each in enumerate(inputs)]
    return Question(task, head, asked.instances(texts, "inputs", limits), single=False)


class _Routes:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def predict(self, scope: Scope, receive: Receive) -> Body:
        started = time.perf_counter()
        body = await read_body(scope, receive, limit=self._gateway.settings.server.max_body_bytes)
        question = parse(body, asked.query(scope), self._gateway.settings.server)
        cascade = self._gateway.cascade(question.task)
        place = _chosen(cascade.heads, question.head)
        reply = await asked.reply(self._gateway, cascade, question.instances, Terms(), scope)
        found = [_scores(answer, place) for answer in reply.answers]
        return Body.of(found[0] if question.single else found, asked.headers(reply, started))

    async def info(self, scope: Scope, receive: Receive) -> Body:  # noqa: ARG002  it has no body
        query = asked.query(scope)
        cascade = self._gateway.cascade(query.get("task"))
        limits = self._gateway.settings.server
        settings = self._gateway.settings.tasks[cascade.task].student
        head = cascade.heads[_chosen(cascade.heads, query.get("head"))]
        bundle = cascade.rung.bundle
        # Without a student no text is cut, and none has more tokens than characters.
        longest = bundle.manifest.limits.max_tokens if bundle else limits.max_characters
        labels = {str(number): label for number, label in enumerate(head.labels)}
        return Body.of(
            {
                "model_id": cascade.task,
                "model_sha": bundle.id if bundle else None,
                "model_dtype": bundle.manifest.graph.precision if bundle else NO_STUDENT,
                "model_type": {
                    "classifier": {
                        "id2label": labels,
                        "label2id": {label: int(number) for number, label in labels.items()},
                    }
                },
                "max_concurrent_requests": settings.queue,
                "max_input_length": longest,
                "max_batch_tokens": longest * settings.max_batch,
                "max_batch_requests": settings.max_batch,
                "max_client_batch_size": limits.max_inputs,
                "auto_truncate": True,
                "tokenization_workers": 1,
                "version": __version__,
            }
        )

    async def health(self, scope: Scope, receive: Receive) -> Body:  # noqa: ARG002
        ops.check_ready(self._gateway)
        return Body(b"", kind=b"")


def _check_parameters(value: Any) -> None:
    """Raises Invalid, with its name, for a parameter that asks for something."""
    if value is None:
        return
    if type(value) is not dict:
        raise Invalid("parameters: no object", mend="send {}, or leave it out")
    if given := sorted(name for name, wanted in value.items() if wanted is not None):
        raise Invalid(
            f"parameters.{given[0][:60]}: not offered; the reply has all labels, with calibrated "
            "probabilities",
            mend="leave it out",
        )


def _alone(value: Any, number: int) -> Any:
    """A text of a batch; TEI also writes it as a list of one. Raises Invalid for a pair."""
    if type(value) is not list:
        return value
    if len(value) != 1:
        raise Invalid(
            f"inputs[{number}]: {len(value)} texts, and students read one at a time",
            mend='send ["...", "..."] or [["..."], ["..."]]',
        )
    return value[0]


def _chosen(heads: Sequence[Head], name: str | None) -> int:
    """Which head is asked for: the one of that name, else the first choice, else the first."""
    names = [head.name for head in heads]
    if name is None:
        return next((n for n, head in enumerate(heads) if head.kind is HeadKind.CHOICE), 0)
    if name not in names:
        raise Invalid(
            f"head: there is no head {name[:60]!r} here", mend=f"name one of: {', '.join(names)}"
        )
    return names.index(name)


def _scores(answer: Answer, place: int) -> list[dict[str, Any]]:
    """The labels of one head with their probabilities, the most probable first."""
    said = asked.said(answer)
    labels = said.asked[place].labels
    pairs = zip(labels, said.heads[place].probabilities.tolist(), strict=True)
    return [
        {"score": score, "label": label}
        for label, score in sorted(pairs, key=lambda pair: pair[1], reverse=True)
    ]


_Task = Annotated[str | None, Query(description="may be left out where there is only one")]
_Head = Annotated[str | None, Query(description="without it the first choice")]


async def _predict(body: shapes.TeiRequest, task: _Task = None, head: _Head = None) -> None:
    """One text gives a list of labels, a list of texts a list of such lists.

    A list of strings is a batch, as in the Hugging Face inference API; pairs are refused.
    """


async def _info(task: _Task = None, head: _Head = None) -> None:
    """The task, its bundle, the labels of one head, and the limits."""


async def _health() -> None:
    """200 without a body while requests may be sent here."""

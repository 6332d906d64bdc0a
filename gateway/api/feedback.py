"""POST /v1/feedback: what a person says is right of an answer. It stores, and decides nothing.

A verdict names the right labels of every head, so that it can teach and measure a student as gold
does. Who sent it is the name of the key; the person behind it is what the sender says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from gateway.api import origin
from gateway.api.limits import read_body
from gateway.api.schemas import problems
from gateway.assembly import Gateway
from gateway.contract.manifest import Head, HeadKind
from gateway.errors import Invalid, UnknownRecord
from gateway.store.verdicts import Verdict

PATH = "/v1/feedback"

_BODY_LIMIT = 65_536  # bytes: the labels of some hundred flags, and a note
_NOTE = 500  # characters
_NAME = 120  # characters of a person's name: the column's own limit
_ID = 36  # characters of a record's id
_PLAIN = r"^[^\x00-\x1f\x7f]*$"  # nothing that could forge a line of a log
_NOBODY = "(no key)"  # who sends it where no keys are configured


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FeedbackRequest(_Part):
    """What is right of one answer."""

    record: str = Field(min_length=1, max_length=_ID, description="the `id` of the answer")
    labels: dict[str, str | list[str]] = Field(description="of every head: a list for flags")
    by: str | None = Field(default=None, max_length=_NAME, pattern=_PLAIN, description="the person")
    note: str = Field(default="", max_length=_NOTE, pattern=_PLAIN)


class FeedbackReply(_Part):
    """The verdict is stored."""

    id: str
    record: str
    task: str


def router(gateway: Gateway) -> APIRouter:
    """The route that takes verdicts."""
    routes = APIRouter(responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 500, 503))

    @routes.post(PATH, status_code=201, openapi_extra=_documented())
    async def feedback(request: Request) -> FeedbackReply:
        """Store what a person says is right of an answer. It is committed before the reply."""
        key = request.scope["state"].get("key")
        origin.check(request.scope["headers"], keyless=not key)
        said = await _read(request)
        if gateway.verdicts is None:
            raise UnknownRecord("no records are kept here", mend="set records.enabled")
        task = await asyncio.to_thread(gateway.verdicts.task_of, said.record)
        labels = _checked(said.labels, gateway.cascade(task).heads)
        verdict = Verdict(said.record, labels, who=key or _NOBODY, by=said.by, note=said.note)
        name = await asyncio.to_thread(gateway.verdicts.add, verdict)
        return FeedbackReply(id=name, record=said.record, task=task)

    return routes


async def _read(request: Request) -> FeedbackRequest:
    """The body. Raises Invalid, or as `read_body` does."""
    body = await read_body(request.scope, request.receive, limit=_BODY_LIMIT)
    try:
        return FeedbackRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the body"
        raise Invalid(
            f"{where}: {first['msg']}",
            mend='send {"record": "ID OF A REPLY", "labels": {"HEAD": "LABEL"}}',
        ) from error


def _checked(
    said: Mapping[str, str | Sequence[str]], heads: Sequence[Head]
) -> dict[str, tuple[str, ...]]:
    """The labels as records hold them, in the order of the heads. Raises Invalid."""
    if said.keys() != {head.name for head in heads}:
        raise Invalid(
            f"labels: of {', '.join(said) or 'no head'}",
            mend=f"name what is right of every head: {', '.join(head.name for head in heads)}",
        )
    return {head.name: _of(head, said[head.name]) for head in heads}


def _of(head: Head, said: str | Sequence[str]) -> tuple[str, ...]:
    flags = head.kind is HeadKind.FLAGS
    if flags is isinstance(said, str):
        raise Invalid(
            f"labels.{head.name}: not {'a list of labels' if flags else 'one label'}",
            mend="write a label for a choice, and a list of labels for flags",
        )
    given = (said,) if isinstance(said, str) else tuple(said)
    if strange := [label for label in given if label not in head.labels]:
        raise Invalid(
            f"labels.{head.name}: no label {strange[0][:200]!a}",
            mend=f"name some of: {', '.join(head.labels)}"[:2000],
        )
    return tuple(label for label in head.labels if label in given)


def _documented() -> dict[str, Any]:
    content = {"application/json": {"schema": FeedbackRequest.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}

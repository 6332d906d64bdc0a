"""Whatever a client sends, it gets a problem document: what is wrong, how to mend it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from gateway.api.limits import read_body
from gateway.api.problems import UnsupportedMedia, problem_of
from gateway.api.schemas import ProblemReply
from gateway.errors import (
    DataError,
    Draining,
    Malformed,
    StudentFailed,
    TeacherTimeout,
    TooLarge,
)
from tests.conftest import Client, Opener
from tests.factories import CONFIDENT

JSON = {"content-type": "application/json"}


def problem(client: Client, content: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    """Send a body, raw or as JSON; give the status and the problem document of the reply."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = client.post("/v1/predict", content=raw, headers=JSON | named)
    assert reply.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = reply.json()
    ProblemReply.model_validate(found)
    assert found["status"] == reply.status_code
    assert found["type"] == f"urn:understudy:{found['code']}"
    assert found["instance"] == reply.headers["x-request-id"]
    assert "Traceback" not in reply.text
    return reply.status_code, found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"input": "a"} x',
        b'{"input": NaN}',
        b'{"input": "a", "fields": {"x": Infinity}}',
        b'{"input": "\\ud800"}',
        b'{"input": "\xff"}',
        b"[" * 5000 + b"]" * 5000,
    ],
    ids=["empty", "cut", "tail", "nan", "infinity", "surrogate", "utf-8", "deep"],
)
def test_what_is_not_strict_json_is_malformed(client: Client, body: bytes) -> None:
    status, found = problem(client, body)
    assert (status, found["code"]) == (400, "malformed")
    assert found["mend"]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ([], "no object"),
        ("text", "no object"),
        ({}, "either input or inputs"),
        ({"input": "a", "inputs": ["a"]}, "either input or inputs"),
        ({"input": "a", "inptu": 1}, "inptu: unknown key"),
        ({"input": 5}, "input: not a text"),
        ({"input": None}, "input: not a text"),
        ({"input": ""}, "input: empty"),
        ({"input": " \n\t"}, "input: empty"),
        ({"inputs": "a"}, "inputs: not a list"),
        ({"inputs": []}, "inputs: not a list with something"),
        ({"inputs": ["a", 5]}, "inputs[1]: not a text"),
        ({"inputs": [{}]}, "inputs[0].text: not a text"),
        ({"inputs": [{"text": "a", "txt": "b"}]}, "inputs[0].txt: unknown key"),
        ({"inputs": [{"text": "a", "id": 5}]}, "inputs[0].id: not a name"),
        ({"inputs": [{"text": "a", "fields": []}]}, "inputs[0].fields: no object"),
        ({"inputs": ["a"], "fields": {}}, "fields: they belong to one input"),
        ({"input": "a", "fields": {"x": []}}, "fields.x: a list or an object"),
        ({"input": "a", "fields": {str(n): n for n in range(33)}}, "fields: 33 of them"),
        ({"input": "a", "route": "nobody"}, "route: not one"),
        ({"input": "a", "route": ["teacher"]}, "route: not one"),
        ({"input": "a", "priority": "shadow"}, "priority: not one"),
        ({"input": "a", "deadline_ms": 0}, "deadline_ms: not a time"),
        ({"input": "a", "deadline_ms": 3_600_001}, "deadline_ms: not a time"),
        ({"input": "a", "deadline_ms": True}, "deadline_ms: not a time"),
        ({"input": "a", "task": 5}, "task: not a name"),
        ({"input": "a", "task": ""}, "task: not a name"),
        ({"input": "a", "probabilities": 1}, "probabilities: not true or false"),
    ],
)
def test_json_of_another_shape_is_invalid_and_named(
    client: Client, body: object, place: str
) -> None:
    status, found = problem(client, body)
    assert (status, found["code"]) == (422, "invalid")
    assert place in found["detail"]
    assert found["mend"]


def test_32_fields_and_a_key_that_stands_twice_are_accepted(client: Client) -> None:
    fields = {str(number): number for number in range(32)}
    assert client.post("/v1/predict", json={"input": "a", "fields": fields}).status_code == 200
    twice = b'{"input": "a", "input": "refund"}'
    assert client.post("/v1/predict", content=twice).json()["labels"]["intent"] == "refund"


def test_a_text_above_its_limit_is_invalid(serve: Opener) -> None:
    client = serve(server={"max_characters": 10})
    assert client.post("/v1/predict", json={"input": "x" * 10}).status_code == 200
    status, found = problem(client, {"input": "x" * 11})
    assert (status, found["code"]) == (422, "invalid")
    assert "11 characters, 10 are allowed" in found["detail"]


def test_more_inputs_than_allowed_are_too_large(serve: Opener) -> None:
    client = serve(server={"max_inputs": 2})
    assert client.post("/v1/predict", json={"inputs": ["a", "b"]}).status_code == 200
    status, found = problem(client, {"inputs": ["a", "b", "c"]})
    assert (status, found["code"]) == (413, "too_large")


def test_a_body_of_a_megabyte_is_refused_by_its_declared_length(client: Client) -> None:
    status, found = problem(client, {"input": "x" * 1_048_576})
    assert (status, found["code"]) == (413, "too_large")


def test_a_body_of_unknown_length_is_refused_when_it_has_grown_too_large(serve: Opener) -> None:
    client = serve(server={"max_body_bytes": 1024})
    reply = client.post("/v1/predict", content=iter([b"x" * 600, b"x" * 600]))
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "multipart/form-data; boundary=x"},
        {"content_encoding": "gzip"},
    ],
)
def test_a_body_that_is_not_plain_json_is_unsupported(
    client: Client, headers: dict[str, str]
) -> None:
    status, found = problem(client, {"input": "a"}, **headers)
    assert (status, found["code"]) == (415, "unsupported_media")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", None])
def test_json_by_any_spelling_of_its_type_or_none_is_read(client: Client, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    reply = client.post("/v1/predict", content=b'{"input": "a"}', headers=headers)
    assert reply.status_code == 200


def test_an_unknown_task_is_not_found_and_the_known_ones_are_named(client: Client) -> None:
    status, found = problem(client, {"task": "mail", "input": "a"})
    assert (status, found["code"]) == (404, "unknown_task")
    assert "tickets" in found["mend"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/predict/", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/v1/predict", 405, "method_not_allowed"),
        ("POST", "/v1/stats", 405, "method_not_allowed"),
    ],
)
def test_a_path_or_method_that_is_not_there_is_a_problem_too(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    reply = client.request(method, path)
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert reply.headers["content-type"] == "application/problem+json"
    assert ("allow" in reply.headers) is (status == 405)


def test_a_full_queue_is_overload_and_says_when_to_come_back(serve: Opener) -> None:
    client = serve()
    client.gateway.tasks["tickets"].rung.student._capacity = 1  # as if others had filled the rest
    reply = client.post("/v1/predict", json={"inputs": ["a", "b"]})
    assert (reply.status_code, reply.json()["code"]) == (429, "overloaded")
    assert reply.headers["retry-after"] == "1"


def test_a_student_that_has_closed_is_draining(client: Client) -> None:
    client.end_student()
    reply = client.post("/v1/predict", json={"input": CONFIDENT})
    assert (reply.status_code, reply.json()["code"]) == (503, "draining")
    assert reply.headers["retry-after"] == "1"


def test_a_mistake_of_ours_tells_the_client_nothing_and_the_log_everything(client: Client) -> None:
    client.gateway.tasks["tickets"].rung = None  # type: ignore[assignment]
    with capture_logs() as lines:
        status, found = problem(client, {"input": CONFIDENT}, x_request_id="r-1")
    assert (status, found["code"]) == (500, "internal")
    assert "NoneType" not in json.dumps(found)
    (line,) = lines
    assert (line["request_id"], line["path"]) == ("r-1", "/v1/predict")
    assert "NoneType" in str(line["exc_info"])


def test_a_mistake_on_another_page_is_a_bare_problem_too(client: Client) -> None:
    client.gateway.figures = None  # type: ignore[assignment]
    reply = client.get("/v1/stats")
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")
    assert "NoneType" not in reply.text


def test_refusals_are_counted_by_status_and_task(client: Client) -> None:
    problem(client, b"{")
    problem(client, {"input": ""})
    client.end_student()
    problem(client, {"input": "a"})
    shown = client.get("/metrics").text
    assert 'understudy_requests_total{code="400",route="none",task="other"} 1.0' in shown
    assert 'understudy_requests_total{code="422",route="none",task="other"} 1.0' in shown
    assert 'understudy_requests_total{code="503",route="none",task="tickets"} 1.0' in shown
    assert "understudy_inflight_requests 0.0" in shown


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StudentFailed("x"), 503, "student_failed"),
        (Draining("x"), 503, "draining"),
        (TeacherTimeout("x"), 503, "teacher_timeout"),
        (DataError("a secret path"), 500, "internal"),
        (KeyError("a secret key"), 500, "internal"),
    ],
)
def test_every_error_has_a_status(error: Exception, status: int, code: str) -> None:
    found = problem_of(error)
    assert (found.status, found.code) == (status, code)
    assert "secret" not in found.detail


def test_a_client_that_leaves_half_way_is_malformed() -> None:
    messages: Iterator[Message] = iter(
        [
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Message:
        return next(messages)

    with pytest.raises(Malformed, match="left"):
        asyncio.run(read_body({"headers": []}, receive, limit=10))


def test_a_body_is_refused_by_its_headers_before_it_is_read() -> None:
    async def receive() -> Message:
        raise AssertionError("the body was read")

    long = {"headers": [(b"content-length", b"11")]}
    with pytest.raises(TooLarge):
        asyncio.run(read_body(long, receive, limit=10))
    packed = {"headers": [(b"content-encoding", b"br")]}
    with pytest.raises(UnsupportedMedia):
        asyncio.run(read_body(packed, receive, limit=10))

"""OpenAI's shapes on a real gateway: chats are classified, texts moderated, tasks are models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.api import shapes
from gateway.api.auth import new_key
from gateway.contract.manifest import Head, HeadKind, Task
from tests.conftest import Client, Opener
from tests.factories import CONFIDENT, UNSURE, tiny_bundle

CHAT = "/v1/chat/completions"
MODERATE = "/v1/moderations"
WORDS = ("refund", "fraud", "other", "urgent", "legal")  # the logits of the tiny model
CATEGORY = Task(name="mail", heads=(Head(name="category", kind=HeadKind.CHOICE, labels=WORDS),))
WATCH = Task(
    name="watch",
    heads=(
        Head(name="topic", kind=HeadKind.FLAGS, labels=WORDS[:3]),
        Head(name="tone", kind=HeadKind.FLAGS, labels=WORDS[3:]),
    ),
)


def chat(content: Any, **more: Any) -> dict[str, Any]:
    """A request with one message."""
    return {"model": "tickets", "messages": [{"role": "user", "content": content}], **more}


def completion(client: Client, body: dict[str, Any]) -> shapes.Completion:
    """The answer to a chat."""
    reply = client.post(CHAT, json=body)
    assert reply.status_code == 200, reply.text
    return shapes.Completion.model_validate(reply.json())


def said(client: Client, body: dict[str, Any]) -> str:
    """What the assistant says."""
    return completion(client, body).choices[0].message.content


def events(reply: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which ends as it should."""
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    *lines, done, nothing = reply.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def error(reply: Any, status: int) -> shapes.OpenAiProblem:
    """What an error says."""
    assert reply.status_code == status, reply.text
    return shapes.OpenAiError.model_validate(reply.json()).error


@pytest.fixture
def three(serve: Opener, tmp_path: Path) -> Client:
    """Three tasks: a choice with flags, one choice alone, two heads of flags."""
    bundles = {
        "tickets": tiny_bundle(tmp_path / "bundles"),
        "mail": tiny_bundle(tmp_path / "bundles", task=CATEGORY),
        "watch": tiny_bundle(tmp_path / "bundles", task=WATCH),
    }
    return serve(
        tasks={
            name: {
                "student": {"bundle": str(path), "workers": 1, "run_in": "threads"},
                "teacher": {"scripted": {}},
            }
            for name, path in bundles.items()
        }
    )


def test_a_task_of_one_choice_says_its_label(three: Client) -> None:
    assert said(three, chat("a refund, please", model="mail")) == "refund"


def test_a_task_of_several_heads_says_them_as_json(client: Client) -> None:
    found = completion(client, chat("urgent: fraud"))
    assert json.loads(found.choices[0].message.content) == {"intent": "fraud", "flags": ["urgent"]}
    assert (found.model, found.id) == ("tickets", f"chatcmpl-{found.understudy.id}")
    assert (found.understudy.route, found.understudy.reason) == ("student", "confident")
    student = client.gateway.tasks["tickets"].rung.student.student
    assert found.understudy.bundle == found.system_fingerprint == student.bundle.id


@pytest.mark.parametrize(
    "wanted", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "x"}}]
)
def test_json_is_given_where_it_is_asked_for(three: Client, wanted: dict[str, Any]) -> None:
    body = chat("fraud", model="mail", response_format=wanted)
    assert json.loads(said(three, body)) == {"category": "fraud"}
    assert said(three, body | {"response_format": {"type": "text"}}) == "fraud"


def test_the_last_message_of_the_user_counts(three: Client) -> None:
    messages = [
        {"role": "system", "content": "You are fraud."},
        {"role": "user", "content": "fraud"},
        {"role": "user", "content": "refund"},
        {"role": "assistant", "content": "fraud"},
    ]
    assert said(three, {"model": "mail", "messages": messages}) == "refund"


def test_parts_of_text_are_read_one_after_the_other(client: Client) -> None:
    parts = [{"type": "text", "text": "urgent"}, {"type": "text", "text": "fraud"}]
    assert json.loads(said(client, chat(parts))) == {"intent": "fraud", "flags": ["urgent"]}


def test_usage_counts_what_the_student_reads(three: Client) -> None:
    usage = completion(three, chat("a refund, please", model="mail")).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 1, 5)
    long = completion(three, chat("word " * 30, model="mail")).usage
    assert long.prompt_tokens == 16


def test_the_teacher_is_asked_where_the_student_is_not_sure_or_the_caller_wants_it(
    client: Client,
) -> None:
    assert completion(client, chat(UNSURE)).understudy.route == "teacher"
    asked = completion(client, chat(CONFIDENT, understudy={"route": "teacher"}))
    assert (asked.understudy.reason, asked.system_fingerprint) == ("requested", "scripted")


def test_cost_is_said_in_usd_and_unknown_is_null(serve: Opener) -> None:
    prices = {"teacher_usd_per_1000": "2.50", "instance_usd_per_hour": "0.001"}
    client = serve(tickets={"prices": prices})
    assert completion(client, chat(UNSURE)).understudy.cost_usd == 0.0025
    assert completion(client, chat(CONFIDENT)).understudy.cost_usd == 0.0


def test_a_stream_says_who_speaks_then_what_then_that_it_ends(three: Client) -> None:
    first, second, last = events(three.post(CHAT, json=chat("fraud", model="mail", stream=True)))
    assert first["object"] == "chat.completion.chunk"
    assert first["id"] == second["id"] == last["id"]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert second["choices"][0]["delta"] == {"content": "fraud"}
    assert last["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert last["understudy"]["route"] == "student"
    assert "usage" not in last


def test_a_stream_ends_with_usage_where_it_is_asked_for(client: Client) -> None:
    body = chat("fraud", stream=True, stream_options={"include_usage": True})
    *chunks, last = events(client.post(CHAT, json=body))
    assert [chunk["usage"] for chunk in chunks] == [None, None, None]
    assert (last["choices"], last["usage"]["prompt_tokens"]) == ([], 1)


def test_settings_of_sampling_are_ignored(three: Client) -> None:
    settings = {
        "temperature": 0.7, "top_p": 0.1, "max_tokens": 1, "max_completion_tokens": 1, "seed": 7,
        "user": "u", "presence_penalty": 1, "stop": ["x"], "metadata": {"a": "b"}, "n": 1,
        "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto",
        "logprobs": False, "store": False, "modalities": ["text"], "logit_bias": {},
    }  # fmt: skip
    assert said(three, chat("fraud", model="mail", **settings)) == "fraud"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": "json"}, "response_format"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"understudy": {"route": "nobody"}}, "understudy.route"),
        ({"understudy": {"rout": "teacher"}}, "understudy.rout"),
        ({"understudy": {"priority": "audit"}}, "understudy.priority"),
        ({"understudy": {"deadline_ms": True}}, "understudy.deadline_ms"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": ["a"]}, "messages[0].role"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
    ],
)
def test_what_would_change_the_meaning_or_cannot_be_read_is_refused_and_named(
    client: Client, more: dict[str, Any], param: str
) -> None:
    found = error(client.post(CHAT, json=chat("a") | more), 400)
    assert (found.type, found.param, found.code) == ("invalid_request_error", param, "invalid")


def test_a_body_that_is_no_json_or_no_object_is_refused(client: Client) -> None:
    assert error(client.post(CHAT, content=b"{"), 400).code == "malformed"
    assert error(client.post(CHAT, json=[]), 400).code == "invalid"
    kind = {"content-type": "text/plain"}
    assert error(client.post(CHAT, content=b"{}", headers=kind), 415).code == "unsupported_media"


def test_a_deadline_that_has_passed_is_said_before_a_stream_begins(client: Client) -> None:
    body = chat("a", stream=True, understudy={"deadline_ms": 0.0001, "priority": "high"})
    found = error(client.post(CHAT, json=body), 504)
    assert (found.type, found.code) == ("server_error", "deadline_passed")


def test_what_nobody_answered_is_unavailable(serve: Opener) -> None:
    client = serve(teacher={"scripted": {"fail_every": 1}}, policy={"on_unavailable": "abstain"})
    for path, body in ((CHAT, chat(UNSURE, stream=True)), (MODERATE, {"input": [UNSURE, "a"]})):
        reply = client.post(path, json=body)
        found = error(reply, 503)
        assert (found.type, found.code) == ("server_error", "unanswered")
        assert "teacher_unavailable" in found.message
        assert reply.headers["retry-after"] == "1"


def test_a_model_is_a_task_and_another_one_is_not_found(three: Client) -> None:
    found = shapes.OpenAiModels.model_validate(three.get("/v1/models").json())
    assert [model.id for model in found.data] == ["tickets", "mail", "watch"]
    assert three.get("/v1/models/mail").json() == found.data[1].model_dump()
    assert found.data[1].created == 1767225600  # 2026-01-01T00:00:00Z, of the tiny bundle
    for reply in (
        three.get("/v1/models/gpt-4"),
        three.post(CHAT, json=chat("a", model="gpt-4")),
        three.post(MODERATE, json={"model": "omni-moderation-latest", "input": "a"}),
    ):
        said = error(reply, 404)
        assert said.code == "model_not_found"
        assert "name one of: tickets, mail, watch" in said.message


def test_flags_are_categories_with_scores(client: Client) -> None:
    reply = client.post(MODERATE, json={"model": "tickets", "input": ["urgent", "refund"]})
    found = shapes.Moderations.model_validate(reply.json())
    first, second = found.results
    assert (first.flagged, second.flagged) == (True, False)
    assert first.categories == {"urgent": True, "legal": False}
    assert first.category_scores["urgent"] == pytest.approx(0.9997, abs=1e-4)
    assert first.category_applied_input_types == {"urgent": ["text"], "legal": ["text"]}
    assert second.understudy.route == "student"
    assert reply.headers["x-understudy-route"] == "student, student"


def test_one_text_may_come_alone_or_in_parts(client: Client) -> None:
    parts = [{"type": "text", "text": "urgent"}, {"type": "text", "text": "lawyer"}]
    for value in ("urgent lawyer", parts):
        found = client.post(MODERATE, json={"input": value}).json()
        (result,) = found["results"]
        assert result["categories"] == {"urgent": True, "legal": True}


def test_several_heads_of_flags_have_categories_by_head(three: Client) -> None:
    body = {"model": "watch", "input": "fraud or refund"}
    (result,) = three.post(MODERATE, json=body).json()["results"]
    assert result["categories"] == {
        "topic/refund": True,
        "topic/fraud": True,
        "topic/other": True,
        "tone/urgent": False,
        "tone/legal": False,
    }


def test_moderation_without_flags_names_the_tasks_that_have_them(three: Client) -> None:
    found = error(three.post(MODERATE, json={"model": "mail", "input": "a"}), 400)
    assert found.param == "model"
    assert "name a task that has: tickets, watch" in found.message
    unnamed = error(three.post(MODERATE, json={"input": "a"}), 404)
    assert unnamed.code == "model_not_found"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 5]}, "input[1]"),
        ({"input": [{"type": "image_url", "image_url": {"url": "x"}}]}, "input[0]"),
        ({"input": [{"type": "text", "text": "a"}, "b"]}, "input[1]"),
        ({"input": "a", "understudy": 5}, "understudy"),
    ],
)
def test_a_moderation_that_cannot_be_read_is_refused_and_named(
    client: Client, body: dict[str, Any], param: str
) -> None:
    assert error(client.post(MODERATE, json=body), 400).param == param


def test_more_texts_than_allowed_are_too_large(client: Client) -> None:
    found = error(client.post(MODERATE, json={"input": ["a"] * 257}), 413)
    assert (found.param, found.code) == ("input", "too_large")


def test_without_a_key_nothing_is_shown(serve: Opener) -> None:
    key, digest = new_key("shop")
    client = serve(keys=[{"name": "shop", "sha256": digest}])
    found = error(client.get("/v1/models"), 401)
    assert (found.code, found.type) == ("invalid_api_key", "invalid_request_error")
    assert error(client.post(CHAT, json=chat("a")), 401).code == "invalid_api_key"
    known = {"authorization": f"Bearer {key}"}
    assert client.get("/v1/models", headers=known).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/nothing", "/v1/models/a/b"])
def test_a_path_that_is_not_there_is_an_error_of_the_protocol(client: Client, path: str) -> None:
    assert error(client.get(path), 404).code == "not_found"


def test_a_mistake_of_ours_tells_the_client_nothing(client: Client) -> None:
    client.gateway.tasks["tickets"].rung = None  # type: ignore[assignment]
    found = error(client.post(CHAT, json=chat("a")), 500)
    assert (found.type, found.code) == ("server_error", "internal")
    assert "NoneType" not in found.message


def test_requests_and_refusals_are_counted(client: Client) -> None:
    client.post(CHAT, json=chat(CONFIDENT))
    client.post(CHAT, json=chat(" "))
    shown = client.get("/metrics").text
    assert 'understudy_requests_total{code="200",route="student",task="tickets"} 1.0' in shown
    assert 'understudy_requests_total{code="400",route="none",task="other"} 1.0' in shown


def test_a_bundle_that_does_not_say_when_it_was_made_is_a_model_without_an_age(
    client: Client,
) -> None:
    student = client.gateway.tasks["tickets"].rung.student.student
    said = student.bundle.manifest.provenance
    object.__setattr__(said, "created_at", "long ago")
    assert client.get("/v1/models/tickets").json()["created"] == 0

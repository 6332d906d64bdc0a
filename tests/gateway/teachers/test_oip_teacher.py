"""A teacher behind the Open Inference Protocol: what its tensors say, and which say nothing."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import orjson
import pytest

from gateway.errors import SettingsError, TeacherError, TeacherGarbled, TeacherUnavailable
from gateway.teachers.oip import OipTeacher
from gateway.teachers.upstream import Upstream
from gateway.types import Instance, Prediction
from tests.factories import TASK
from tests.gateway.teachers.raw import Raw, reply, says, serving

SOON = 30.0  # seconds; far beyond what any call here takes


def tensor(name: str, *data: Any, **more: Any) -> dict[str, Any]:
    """A tensor of one row; its datatype follows from its data."""
    kind = "BYTES" if isinstance(data[0], str) else "FP32"
    return {"name": name, "datatype": kind, "shape": [1, len(data)], "data": list(data), **more}


INTENT = tensor("intent", "fraud")
FLAGS = tensor("flags", '["legal"]')


async def _asked(body: Any, **more: Any) -> tuple[Prediction, Raw]:
    sent = body if isinstance(body, bytes) else orjson.dumps(body)
    async with serving(says(reply(sent))) as raw:
        way = Upstream(raw.url, headers={}, timeout_s=SOON)
        teacher = OipTeacher(way, TASK, **({"model": "tickets"} | more))
        try:
            said = await teacher.answer(Instance("mein Geld \u20ac"))
            assert said.cost is None
            return said.prediction, raw
        finally:
            await teacher.close()


def said_by(*outputs: Any, **more: Any) -> Prediction:
    """What the teacher says, where the server sends these outputs."""
    return asyncio.run(_asked({"model_name": "tickets", "outputs": list(outputs)}, **more))[0]


def error_of(body: Any, **more: Any) -> TeacherError:
    """Its error, where the server sends this body."""
    with pytest.raises(TeacherError) as raised:
        asyncio.run(_asked(body, **more))
    return raised.value


def test_labels_alone_are_certain() -> None:
    said = said_by(INTENT, FLAGS)
    assert [head.labels for head in said.heads] == [("fraud",), ("legal",)]
    assert said.heads[0].probabilities.tolist() == [0.0, 1.0, 0.0]
    assert said.score == 1.0


def test_a_confidence_beside_a_label_counts() -> None:
    said = said_by(
        INTENT, FLAGS, tensor("confidence.intent", 0.8), tensor("confidence.flags", 0.25)
    )
    assert said.heads[0].probabilities.tolist() == pytest.approx([0.1, 0.8, 0.1])
    assert said.heads[1].probabilities.tolist() == pytest.approx([0.5, 0.5])
    assert said.score == pytest.approx(0.2)
    assert said_by(INTENT, FLAGS, tensor("score", 0.75)).score == 0.75


def test_logits_become_probabilities() -> None:
    said = said_by(tensor("intent", 0.0, math.log(2), 0.0), tensor("flags", 0.0, -math.log(3)))
    assert said.heads[0].probabilities.tolist() == pytest.approx([0.25, 0.5, 0.25])
    assert said.heads[1].probabilities.tolist() == pytest.approx([0.5, 0.25])
    assert [head.labels for head in said.heads] == [("fraud",), ("urgent",)]


def test_probabilities_are_taken_as_they_are() -> None:
    said = said_by(
        tensor("intent", 0.2, 0.7, 0.101), tensor("flags", 0.9, 0.1), scores="probabilities"
    )
    assert said.heads[0].probabilities.sum() == pytest.approx(1.0)
    assert said.heads[0].confidence == pytest.approx(0.7 / 1.001)
    assert said.heads[1].probabilities.tolist() == pytest.approx([0.9, 0.1])


def test_heads_may_have_tensors_of_other_names_and_shapes() -> None:
    said = said_by(
        tensor("out_0", 1.0, 0.0, 0.0, datatype="FP64", data=[[9, 0, 0]]),
        tensor("flags", "[]", shape=[1]),
        tensor("embedding", 0.5, 0.5),
        outputs={"intent": "out_0"},
    )
    assert [head.labels for head in said.heads] == [("refund",), ()]


def test_one_text_goes_out_as_a_tensor_of_bytes() -> None:
    outputs = {"outputs": [INTENT, FLAGS]}
    _, raw = asyncio.run(_asked(outputs, input_name="TEXT", version="3"))
    assert raw.heads[0].startswith("POST /v2/models/tickets/versions/3/infer HTTP/1.1")
    assert orjson.loads(raw.bodies[0]) == {
        "inputs": [
            {"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": ["mein Geld \u20ac"]}
        ]
    }
    _, raw = asyncio.run(_asked(outputs))
    assert raw.heads[0].startswith("POST /v2/models/tickets/infer HTTP/1.1")


@pytest.mark.parametrize("route", ["student", "teacher"])
def test_what_another_gateway_answered_counts(route: str) -> None:
    assert said_by(INTENT, FLAGS, tensor("route", route)).heads[0].labels == ("fraud",)


@pytest.mark.parametrize("route", ["abstain", "fallback"])
def test_what_another_gateway_did_not_answer_by_its_best_is_no_answer(route: str) -> None:
    nothing = [tensor("intent", ""), tensor("flags", ""), tensor("route", route)]
    error = error_of({"outputs": nothing})
    assert type(error) is TeacherUnavailable
    assert f"route {route}" in error.message


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"outputs": None},
        {"outputs": {}},
        {"outputs": []},
        {"outputs": ["intent"]},
        {"outputs": [{"datatype": "BYTES"}]},
        {"outputs": [INTENT, FLAGS] * 200},
        {"error": "no model"},
        {"outputs": [INTENT]},
        {"outputs": [INTENT, INTENT, FLAGS]},
        {"outputs": [tensor("intent", "Fraud"), FLAGS]},
        {"outputs": [tensor("intent", " fraud"), FLAGS]},
        {"outputs": [tensor("intent", ""), FLAGS]},
        {"outputs": [tensor("intent", "fraud", "other"), FLAGS]},
        {"outputs": [tensor("intent", "fraud", datatype="INT64"), FLAGS]},
        {"outputs": [tensor("intent", "fraud", datatype=["BYTES"]), FLAGS]},
        {"outputs": [tensor("intent", "fraud", data=[5]), FLAGS]},
        {"outputs": [tensor("intent", "fraud", data=[None]), FLAGS]},
        {"outputs": [tensor("intent", "fraud", data="fraud"), FLAGS]},
        {"outputs": [tensor("intent", "fraud", shape=None), FLAGS]},
        {"outputs": [tensor("intent", "fraud", shape=[2]), FLAGS]},
        {"outputs": [{"name": "intent", "datatype": "BYTES", "shape": [1]}, FLAGS]},
        {"outputs": [INTENT, tensor("flags", "legal")]},
        {"outputs": [INTENT, tensor("flags", '"legal"')]},
        {"outputs": [INTENT, tensor("flags", '{"legal": true}')]},
        {"outputs": [INTENT, tensor("flags", '["legal", "legal"]')]},
        {"outputs": [INTENT, tensor("flags", '["loud"]')]},
        {"outputs": [INTENT, tensor("flags", '[["legal"]]')]},
        {"outputs": [tensor("intent", 1.0, 2.0), FLAGS]},
        {"outputs": [tensor("intent", 1.0, 2.0, 3.0, 4.0), FLAGS]},
        {"outputs": [tensor("intent", 1.0, 2.0, 3.0, shape=[3, 1]), FLAGS]},
        {"outputs": [tensor("intent", 1.0, 2.0, 3.0, data=[1.0, 2.0, None]), FLAGS]},
        {"outputs": [tensor("intent", 1.0, 2.0, 3.0, data=[1.0, True, 2.0]), FLAGS]},
        {"outputs": [tensor("intent", 1.0, 2.0, 3.0, data=[1.0, "2", 2.0]), FLAGS]},
        {"outputs": [tensor("intent", 1.0, 2.0, 1e300), FLAGS]},
        {"outputs": [INTENT, FLAGS, tensor("confidence.intent", 1.5)]},
        {"outputs": [INTENT, FLAGS, tensor("confidence.intent", -0.5)]},
        {"outputs": [INTENT, FLAGS, tensor("score", 2.0)]},
        {"outputs": [INTENT, FLAGS, tensor("route", 2.0)]},
    ],
)
def test_a_reply_that_leaves_anything_to_guess_is_garbled(body: Any) -> None:
    error = error_of(body)
    assert type(error) is TeacherGarbled
    assert "the reply of tickets@" in error.message


@pytest.mark.parametrize(
    "numbers", [(1.0, 2.0, 3.0), (-0.1, 0.6, 0.5), (0.2, 0.2, 0.2), (1.0, 1.0, 1.0)]
)
def test_logits_are_not_taken_for_probabilities(numbers: tuple[float, ...]) -> None:
    body = {"outputs": [tensor("intent", *numbers), FLAGS]}
    assert "are they logits?" in error_of(body, scores="probabilities").message


def test_a_name_tells_the_model_and_how_it_is_asked() -> None:
    way = Upstream("http://host", headers={}, timeout_s=1.0)
    names = {
        OipTeacher(way, TASK, model="m" * 100).name,
        OipTeacher(way, TASK, model="m" * 100, version="2").name,
        OipTeacher(way, TASK, model="m" * 100, scores="probabilities").name,
        OipTeacher(way, TASK, model="m" * 100, outputs={"intent": "a"}).name,
    }
    assert len(names) == 4
    assert {len(name) for name in names} == {61}  # a record has room for 64
    assert OipTeacher(way, TASK, model="m").name == OipTeacher(way, TASK, model="m").name


def test_a_tensor_for_a_head_that_the_task_has_not_is_a_mistake() -> None:
    way = Upstream("http://host", headers={}, timeout_s=1.0)
    with pytest.raises(SettingsError, match="the task has no head 'topic'"):
        OipTeacher(way, TASK, model="m", outputs={"topic": "a"})

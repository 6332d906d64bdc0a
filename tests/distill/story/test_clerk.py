"""The clerk: he knows what he has met, is wrong as often as he says, and is asked over HTTP."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path

import httpx2
import orjson

from distill.demo.tickets import generate
from distill.story.clerk import HEAD, MODEL, Clerk
from gateway.contract import examples

TICKETS = generate(2000, seed=1)


def test_he_says_nothing_of_what_he_has_not_met() -> None:
    assert Clerk().label("good morning") is None


def test_he_is_wrong_on_the_share_that_he_states_and_always_on_the_same_texts() -> None:
    clerk = Clerk(wrong=0.1)
    assert list(clerk.meet(TICKETS)) == TICKETS
    said = [clerk.label(each.text) for each in TICKETS]
    wrong = [a != b.intent for a, b in zip(said, TICKETS, strict=True)]
    assert 150 < sum(wrong) < 250  # 200 expected, with a deviation of 13
    assert set(said) <= set(HEAD.labels)
    assert said == [clerk.label(each.text) for each in TICKETS]


def test_one_who_is_never_wrong_says_gold() -> None:
    clerk = Clerk(wrong=0.0)
    assert all(clerk.label(each.text) == each.intent for each in clerk.meet(TICKETS))


def test_his_log_is_of_a_teacher(tmp_path: Path) -> None:
    assert Clerk(wrong=0.0).log(tmp_path / "log.jsonl", TICKETS[:3]) == 3
    read = list(examples.read(tmp_path / "log.jsonl"))
    assert [(each.text, each.labels[HEAD.name], each.source) for each in read] == [
        (each.text, each.intent, "teacher") for each in TICKETS[:3]
    ]


def test_he_answers_as_a_chat_model_does() -> None:
    clerk = Clerk(wrong=0.0)
    (ticket,) = islice(clerk.meet(TICKETS), 1)
    question = orjson.dumps({"text": ticket.text}).decode()
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}]}

    async def asked() -> str:
        async with clerk.served() as server, httpx2.AsyncClient(timeout=60) as client:
            reply = await client.post(f"{server.url}/chat/completions", json=body)
            content: str = reply.json()["choices"][0]["message"]["content"]
            return content

    assert orjson.loads(asyncio.run(asked())) == {HEAD.name: ticket.intent}

"""The reply of a chat endpoint: what was written, its tokens, and its price."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import orjson
import pytest

from gateway.errors import TeacherGarbled
from gateway.teachers.completion import Completion, TokenPrices, Usage
from tests.gateway.teachers.chat_server import completion

HALF = math.log(0.5)


def read(reply: tuple[int, Any]) -> Completion:
    return Completion.read(orjson.dumps(reply[1]))


def usage(read: int, written: int) -> Usage:
    return Usage(prompt_tokens=read, completion_tokens=written)


def test_a_reply_in_the_shape_of_the_openai_package_is_read() -> None:
    found = read(completion("hello"))
    assert found.content() == "hello"
    assert found.usage == usage(100, 10)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (completion(None, refusal="I cannot help with s3cret"), "the model refused to answer"),
        (completion("{", finish="length"), r"was cut off \(length\)"),
        (completion("", finish="content_filter"), r"held back .* \(content_filter\)"),
        (completion(None), "no content"),
        (completion(""), "no content"),
        ((200, {"choices": []}), "no choices"),
    ],
)
def test_a_reply_without_an_answer_is_garbled_and_says_why(reply: Any, says: str) -> None:
    with pytest.raises(TeacherGarbled, match=says) as garbled:
        read(reply).content()
    assert "s3cret" not in str(garbled.value)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"choices": {}}',
        b'{"choices": [{"message": "fraud"}]}',
        b'{"choices": [{"message": {"content": ["fraud"]}}]}',
        b'{"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 1}}',
        b'{"choices": [], "usage": {"prompt_tokens": 1e9, "completion_tokens": 1}}',
        b'{"choices": [], "usage": {"prompt_tokens": 9999999999, "completion_tokens": 1}}',
        b'{"choices": [], "usage": {"prompt_tokens": 1}}',
    ],
)
def test_a_body_of_another_shape_is_garbled(body: bytes) -> None:
    with pytest.raises(TeacherGarbled, match="not the shape of a chat completion") as garbled:
        Completion.read(body)
    assert "/v1" in garbled.value.mend


def test_what_a_server_adds_is_passed_over() -> None:
    body = {"choices": [{"message": {"content": "x", "reasoning": "y"}, "logprobs": 7}], "more": 1}
    found = Completion.read(orjson.dumps(body))
    assert (found.content(), found.usage, found.tokens()) == ("x", None, None)


def test_the_probability_of_a_stretch_is_the_product_over_the_tokens_that_reach_into_it() -> None:
    # Tokens: {"a | ": " | ré | fund"| }
    logs = [('{"a', HALF), ('": "', HALF), ("ré", HALF), ('fund"', HALF / 2), ("}", HALF)]
    tokens = read(completion('{"a": "réfund"}', logs=logs)).tokens()
    assert tokens is not None
    place = '{"a": "réfund"}'.index("réfund")
    assert tokens.probability((place, place + 7)) == pytest.approx(0.5**1.5)
    assert tokens.probability((place, place + 2)) == pytest.approx(0.5)
    assert tokens.probability((0, 15)) == pytest.approx(0.5**4.5)


def test_tokens_may_begin_before_the_text_and_go_on_behind_it() -> None:
    logs = [(" \n", HALF), ("yes", 0.0), ("<end>", HALF)]
    tokens = read(completion("yes", logs=logs)).tokens()
    assert tokens is not None
    assert tokens.probability((0, 3)) == 1.0


def test_a_logarithm_above_zero_counts_as_certain() -> None:
    tokens = read(completion("yes", logs=[("yes", 1e-6)])).tokens()
    assert tokens is not None
    assert tokens.probability((0, 3)) == 1.0


def test_a_letter_that_two_tokens_share_is_put_together_from_their_bytes() -> None:
    status, body = completion("é", logs=[("x", HALF), ("x", HALF)])
    entries = body["choices"][0]["logprobs"]["content"]
    entries[0]["bytes"], entries[1]["bytes"] = [0xC3], [0xA9]
    tokens = read((status, body)).tokens()
    assert tokens is not None
    assert tokens.probability((0, 1)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"tokens": ["yes"], "token_logprobs": [-0.1]},  # as of completions that are no chats
        {"content": [{"token": "yes"}]},
        {"content": [{"token": "yes", "logprob": "high"}]},
        {"content": [{"token": "yes", "logprob": -0.1, "bytes": [300]}]},
        {"content": [{"token": "no", "logprob": -0.1}]},
    ],
)
def test_tokens_that_do_not_make_up_the_text_are_not_used(logprobs: Any) -> None:
    status, body = completion("yes")
    body["choices"][0]["logprobs"] = logprobs
    assert read((status, body)).tokens() is None


def test_a_cost_is_exact_and_rounded_once() -> None:
    prices = TokenPrices(Decimal("0.15"), Decimal("0.60"))
    # 0.15 and 0.60 micro-USD a token: 7 read and 1 written are 1.65, three such calls 4.95
    assert prices.cost([usage(7, 1)]) == 2
    assert prices.cost([usage(7, 1)] * 3) == 5
    assert prices.cost([usage(1_000_000, 1_000_000)]) == 750_000
    assert TokenPrices(Decimal(0), Decimal(0)).cost([usage(7, 1)]) == 0


def test_a_cost_of_which_a_part_is_not_known_is_not_known() -> None:
    assert TokenPrices().cost([usage(1, 1)]) is None
    assert TokenPrices(Decimal(1), None).cost([usage(1, 0)]) is None
    assert TokenPrices(None, Decimal(1)).cost([usage(0, 1)]) is None
    assert TokenPrices(Decimal(1), Decimal(1)).cost([usage(1, 1), None]) is None

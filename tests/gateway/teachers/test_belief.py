"""What stands for the probabilities of a model that gives none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gateway.contract.manifest import Head, HeadKind, Task
from gateway.teachers import belief
from gateway.teachers.completion import Tokens
from gateway.teachers.prompt import Prompt, Reading, TaskCard
from gateway.types import Prediction
from tests.factories import TASK

PROMPT = Prompt(TASK, TaskCard())


def read(intent: str, *flags: str) -> Reading:
    said = ", ".join(f'"{flag}"' for flag in flags)
    return PROMPT.read(f'{{"intent": "{intent}", "flags": [{said}]}}')


def shown(prediction: Prediction) -> list[tuple[tuple[str, ...], Any, Any]]:
    return [
        (head.labels, pytest.approx(head.confidence), pytest.approx(head.probabilities.tolist()))
        for head in prediction.heads
    ]


def weighed(*parts: tuple[str, float]) -> Prediction:
    """The belief in a reply that is made of these tokens, each with its probability."""
    content = "".join(part for part, _ in parts)
    tokens = Tokens(
        content, 0, [part.encode() for part, _ in parts], [math.log(p) for _, p in parts]
    )
    return belief.weighed(TASK, PROMPT.read(content), tokens, "m")


def test_what_is_only_said_has_probability_one() -> None:
    said = belief.stated(TASK, read("fraud", "legal"), "m")
    assert shown(said) == [
        (("fraud",), 1.0, [0.0, 1.0, 0.0]),
        (("legal",), 1.0, [0.0, 1.0]),
    ]
    assert (said.score, said.bundle, said.truncated, said.asked) == (1.0, "m", False, TASK.heads)
    assert all(head.probabilities.dtype == np.float32 for head in said.heads)


def test_tokens_weigh_what_was_said_and_the_rest_is_spread_evenly() -> None:
    said = weighed(
        ('{"intent": "', 0.1),  # no part of any label
        ("refund", 0.8),
        ('"', 0.9),  # closes the label: it is refund and no longer word
        (', "flags": [', 0.1),
        ('"legal"', 0.9),
        ("]", 0.5),  # closes the list: no other flag
        ("}", 0.1),
    )
    # refund 0.8 * 0.9 = 0.72, the others 0.14 each; the list 0.9 * 0.5 = 0.45, what it leaves 0.55
    assert shown(said) == [
        (("refund",), 0.72, [0.72, 0.14, 0.14]),
        (("legal",), 0.45, [0.55, 0.9]),
    ]
    assert said.score == pytest.approx(0.72 * 0.45)


def test_an_empty_list_is_as_sure_as_its_end() -> None:
    said = weighed(('{"intent": "other"', 1.0), (', "flags": [', 0.2), ("]}", 0.6))
    assert shown(said)[1] == ((), 0.6, [0.2, 0.2])


def test_a_list_of_all_flags_leaves_nothing_to_spread() -> None:
    said = weighed(('{"intent": "other", "flags": [', 1.0), ('"urgent", "legal"]}', 0.25))
    assert shown(said)[1] == (("urgent", "legal"), 0.25, [0.25, 0.25])


def test_votes_become_shares() -> None:
    replies = [
        read("refund", "urgent"),
        read("fraud", "urgent"),
        read("fraud"),
        read("fraud", "urgent", "legal"),
    ]
    said = belief.voted(TASK, replies, "m")
    # flags: urgent said by 3 of 4, legal not said by 3 of 4
    assert shown(said) == [
        (("fraud",), 0.75, [0.25, 0.75, 0.0]),
        (("urgent",), 0.75 * 0.75, [0.75, 0.25]),
    ]
    assert said.score == pytest.approx(0.75**3)


def test_of_equal_votes_the_first_decides() -> None:
    one, two = read("other", "legal"), read("fraud", "urgent")
    first, second = belief.voted(TASK, [one, two], "m"), belief.voted(TASK, [two, one], "m")
    assert [head.labels for head in first.heads] == [("other",), ("legal",)]
    assert [head.labels for head in second.heads] == [("fraud",), ("urgent",)]
    assert first.heads[1].confidence == 0.25


def test_a_task_of_one_head_is_weighed_too() -> None:
    task = Task(name="yes", heads=(Head(name="a", kind=HeadKind.CHOICE, labels=("y", "n")),))
    reading = Prompt(task, TaskCard()).read('{"a":"y"}')
    tokens = Tokens('{"a":"y"}', 0, [b'{"a":"', b'y"', b"}"], [-1.0, math.log(0.75), -1.0])
    said = belief.weighed(task, reading, tokens, "m")
    assert shown(said) == [(("y",), 0.75, [0.75, 0.25])]

"""Under load, every answer is the one that its text gets alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import pytest

from gateway.contract.bundle import open_bundle
from gateway.settings import load
from gateway.students.student import Student
from loadtests import closed_loop
from tests.acceptance.conftest import Served
from tests.acceptance.process import Process

pytestmark = pytest.mark.acceptance

SCORE = 0.01  # what batch mates may move a score by
SIZES = (1, 1, 1, 1, 2, 3, 8, 32)  # texts of a request, by turns
WAIT_MS = 600_000  # that a text may: none is refused or given up, however slow the machine is


@dataclass(frozen=True, slots=True)
class Alone:
    """What a text is answered when it is the only one."""

    labels: object
    route: str
    score: float


@dataclass(frozen=True, slots=True)
class SameAsAlone:
    """A check of whole replies; by the number of the request's body."""

    expected: Sequence[Sequence[Alone]]

    def __call__(self, number: int, body: bytes) -> bool:
        """Whether every text of the reply is answered as it is alone."""
        reply = orjson.loads(body)
        said = reply.get("results", [reply])
        return len(said) == len(self.expected[number]) and all(
            each["labels"] == alone.labels
            and each["route"] == alone.route
            and math.isclose(each["score"], alone.score, abs_tol=SCORE)
            for each, alone in zip(said, self.expected[number], strict=True)
        )


def test_answers_do_not_depend_on_the_load(served: Served) -> None:
    _compare(served, requests=600)


@pytest.mark.soak
def test_twenty_thousand_answers_do_not_depend_on_the_load(served: Served) -> None:
    _compare(served, requests=20_000)


def _compare(served: Served, *, requests: int) -> None:
    source = random.Random(11)
    groups = [
        [source.choice(served.texts) for _ in range(SIZES[number % len(SIZES)])]
        for number in range(min(requests, 4000))
    ]
    process = served.start(
        student={"max_wait_ms": WAIT_MS},
        teacher={"scripted": {"labels": {}}, "timeout_s": WAIT_MS / 1000},
    )
    alone = _answers(process, {text for group in groups for text in group})
    result = closed_loop.run(
        f"{process.url}/v1/predict",
        [
            orjson.dumps({"input": group[0]} if len(group) == 1 else {"inputs": group})
            for group in groups
        ],
        connections=32,
        seconds=600.0,
        count=requests,
        processes=1,
        check=SameAsAlone([[alone[text] for text in group] for group in groups]),
        timeout_s=WAIT_MS / 1000,
    )
    assert result.statuses == {200: requests}
    assert result.wrong == 0
    routes = {each.route for each in alone.values()}
    assert routes == {"student", "teacher"}  # both sides of the threshold were met


def _answers(process: Process, texts: set[str]) -> dict[str, Alone]:
    """Each text by itself: labels and score by the student in this process, where it answers."""
    (task,) = load(process.config).tasks.values()
    assert task.student.bundle is not None
    student = Student(open_bundle(task.student.bundle))
    found = {}
    for text in texts:
        reply = process.ask(text)
        if reply["route"] == "student":
            (said,) = student.predict([text])
            assert reply["score"] == pytest.approx(said.score, abs=1e-6)
        found[text] = Alone(reply["labels"], reply["route"], reply["score"])
    return found

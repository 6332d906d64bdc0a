"""A teacher that is asked: what failed tries cost, how long limits are borne, what is kept.

The teacher is a real server of `/v1/chat/completions` that fails on demand; pauses are noted and
not waited for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distill import interview, recipe
from distill.data.sources import Corpus
from distill.interview import Interview
from distill.progress import Narrator
from distill.workspace import Workspace
from gateway.contract.examples import Example
from gateway.contract.manifest import Head, HeadKind, Task
from gateway.errors import RecipeError, StageFailed
from tests.gateway.teachers.chat_server import Body, ChatServer, Reply, completion

TASK = Task(
    name="tickets", heads=(Head(name="intent", kind=HeadKind.CHOICE, labels=("login", "refund")),)
)
ROWS = tuple(Example(text) for text in ("one", "two", "three"))
PER_MILLION = {"input_usd_per_million": 2, "output_usd_per_million": 2}
COST = 220  # micro-USD of an answer: 110 tokens at 2 USD a million
DOWN: Reply = (503, {"error": {"message": "down"}})
LIMITED: Reply = (429, {"error": {"message": "too many"}})


@dataclass
class Teacher:
    """A chat model that says `refund`, after the replies that it is told to give first."""

    server: ChatServer
    first: list[Reply] = field(default_factory=list)
    always: Reply | None = None
    garbage: str | None = None  # a text of which it says nothing usable

    @property
    def asked(self) -> int:
        """The requests that came."""
        return len(self.server.bodies)

    def reply(self, body: Body) -> Reply:
        """What it says next."""
        if self.first:
            return self.first.pop(0)
        if self.always is not None:
            return self.always
        text = json.loads(body["messages"][-1]["content"])["text"]
        return completion("well" if text == self.garbage else {"intent": "refund"})


def _teacher() -> Iterator[Teacher]:
    def reply(body: Body) -> Reply:
        return found.reply(body)

    found = Teacher(ChatServer(reply))
    with found.server.running():
        yield found


teacher = pytest.fixture(_teacher)
other = pytest.fixture(_teacher)


@dataclass
class Asking:
    """The project that asks, with what it told and how long it paused."""

    folder: Path
    told: io.StringIO = field(default_factory=io.StringIO)
    pauses: list[float] = field(default_factory=list)

    def hold(
        self,
        teacher: Teacher,
        rows: Sequence[Example] = ROWS,
        *,
        openai: dict[str, Any] | None = None,
        retries: int = 0,
        max_usd: float | None = None,
        price: float | None = None,
    ) -> tuple[Interview, Corpus]:
        """Ask for all rows, one after the other."""
        chat = {"url": teacher.server.url, "model": "large"} | (openai or {})
        ask = {"openai": chat, "concurrency": 1, "retries": retries, "retry_share": 1.0}
        ask["timeout_s"] = 120.0  # a slow machine is no teacher that fails
        orders = recipe.parse(
            {
                "version": 1,
                "task": "tickets",
                "data": {
                    "path": "rows.csv",
                    "heads": {"intent": {"kind": "choice", "column": "intent"}},
                },
                "teacher": {"ask": ask, "max_usd": max_usd},
                "prices": {"teacher_usd_per_1000": price},
            },
            path=self.folder / "recipe.yaml",
        )

        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        narrator = Narrator(Console(file=self.told, width=200))
        corpus = Corpus(tuple(rows), (), TASK, {})
        held = interview.hold(orders, corpus, Workspace(self.folder), narrator, sleep=sleep)
        return held, held.taught(corpus)


@pytest.fixture
def asking(tmp_path: Path) -> Asking:
    return Asking(tmp_path)


@pytest.mark.parametrize("retries", [0, 1])  # by the session, and by the guard before it
def test_a_failed_try_of_unknown_cost_ends_no_run_that_knows_what_answers_cost(
    asking: Asking, teacher: Teacher, retries: int
) -> None:
    teacher.first = [DOWN]
    held, _ = asking.hold(teacher, openai=PER_MILLION, retries=retries, max_usd=1)
    assert {each.labels and each.labels["intent"] for each in held.answers.values()} == {"refund"}
    assert "so far cost $0.0007, and 1 calls of unknown cost" in asking.told.getvalue()


def test_a_call_of_unknown_cost_counts_as_the_dearest_one(asking: Asking, teacher: Teacher) -> None:
    """Two answers and a failure are 660 of 800 micro-USD: the failed text is not asked again."""
    answer = completion({"intent": "refund"})
    teacher.first = [answer, answer, DOWN]
    with pytest.raises(StageFailed, match=r"so far cost \$0\.0004, and 1 calls of unknown cost"):
        asking.hold(teacher, openai=PER_MILLION, max_usd=0.0008)
    assert teacher.asked == 3


def test_an_answer_that_does_not_say_what_it_cost_cannot_keep_a_limit(
    asking: Asking, teacher: Teacher
) -> None:
    with pytest.raises(RecipeError, match=r"teacher\.max_usd cannot be kept"):
        asking.hold(teacher, max_usd=1)
    assert teacher.asked == 1


def test_what_failed_tries_cost_is_booked_before_a_run_ends(
    asking: Asking, teacher: Teacher
) -> None:
    """Nine tries at a price of 0.001 USD; the next run knows them, and has no money for more."""
    teacher.always = DOWN
    with pytest.raises(StageFailed, match="the teacher stays down"):
        asking.hold(teacher, price=1)
    assert (teacher.asked, asking.pauses) == (9, [1, 2, 4, 8, 16, 30, 30, 30])
    with pytest.raises(StageFailed, match=r"what was asked so far cost \$0\.0090"):
        asking.hold(teacher, price=1, max_usd=0.0095)
    assert teacher.asked == 9


def test_the_limit_is_looked_at_between_the_tries_of_one_text(
    asking: Asking, teacher: Teacher
) -> None:
    teacher.always = DOWN
    with pytest.raises(StageFailed, match=r"max_usd is \$0\.0035, .* so far cost \$0\.0030"):
        asking.hold(teacher, price=1, max_usd=0.0035)
    assert teacher.asked == 3


def test_a_key_that_is_refused_ends_it_with_what_was_spent_before(
    asking: Asking, teacher: Teacher
) -> None:
    teacher.first = [completion({"intent": "refund"}), DOWN]
    teacher.always = (401, {"error": {"message": "no such key"}})
    with pytest.raises(StageFailed, match="key"):
        asking.hold(teacher, openai=PER_MILLION)
    (path,) = asking.folder.glob(f"runs/answers-*/{interview.ANSWERS}")
    with interview.Book(path.parent) as book:
        assert (book.cost, book.unknown, len(book.answers)) == (COST, 1, 1)


def test_limits_are_no_tries_while_texts_are_answered(asking: Asking, teacher: Teacher) -> None:
    """Twelve of them are more than a teacher that is down would have got."""
    teacher.first = [LIMITED] * 12
    held, _ = asking.hold(teacher)
    assert len(held.answers) == 3
    assert asking.pauses == [1, 2, 4, 8, 16, *[30] * 7]


def test_a_teacher_that_says_come_back_tomorrow_is_believed_for_a_minute_and_given_up_after_ten(
    asking: Asking, teacher: Teacher
) -> None:
    teacher.always = LIMITED
    teacher.server.headers["retry-after"] = "86400"
    with pytest.raises(StageFailed, match="the teacher takes no more"):
        asking.hold(teacher)
    assert max(asking.pauses) == 60
    assert 600 <= sum(asking.pauses) < 660
    assert teacher.asked == 1  # the guard asks nothing before the minute is over


def test_a_teacher_that_says_now_is_still_not_asked_without_a_pause(
    asking: Asking, teacher: Teacher
) -> None:
    teacher.first = [LIMITED] * 3
    teacher.server.headers["retry-after"] = "0"
    asking.hold(teacher)
    assert asking.pauses == [1, 1, 1]


def test_gold_labels_stay_where_the_teacher_says_nothing_usable(
    asking: Asking, teacher: Teacher
) -> None:
    gold = [Example(each.text, {"intent": "login"}) for each in ROWS]
    teacher.garbage = "two"
    _, taught = asking.hold(teacher, gold)
    assert [(row.text, dict(row.labels), row.source) for row in taught.examples] == [
        (each.text, {"intent": "login"}, "gold") for each in ROWS
    ]
    assert [bool(row.scores) for row in taught.examples] == [True, False, True]
    assert "1 of them unusable, whose gold labels stay" in asking.told.getvalue()


def test_without_gold_labels_an_unusable_text_is_left_out(asking: Asking, teacher: Teacher) -> None:
    teacher.garbage = "two"
    _, taught = asking.hold(teacher)
    assert [(row.text, row.source) for row in taught.examples] == [
        ("one", "teacher"), ("three", "teacher"),
    ]  # fmt: skip
    assert "1 of them unusable, and left out" in asking.told.getvalue()


def test_another_server_is_another_teacher(
    asking: Asking, teacher: Teacher, other: Teacher
) -> None:
    asking.hold(teacher)
    asking.hold(other)
    asking.hold(teacher)
    assert (teacher.asked, other.asked) == (3, 3)

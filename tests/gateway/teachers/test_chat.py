"""A chat model as a teacher: asked over real HTTP, by the book, and priced."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from gateway.errors import (
    TeacherError,
    TeacherGarbled,
    TeacherLimited,
    TeacherRefused,
    TeacherUnavailable,
)
from gateway.teachers import upstream
from gateway.teachers.base import Said
from gateway.teachers.chat import Asking, ChatTeacher
from gateway.teachers.completion import TokenPrices
from gateway.teachers.faults import OK, Fault, FaultServer, turns
from gateway.teachers.garbage import GARBAGE
from gateway.teachers.prompt import Prompt, TaskCard
from gateway.teachers.upstream import Upstream
from gateway.types import Instance
from tests.factories import TASK
from tests.gateway.teachers.chat_server import Body, ChatServer, Reply, completion
from tests.gateway.telemetry.clock import Clock
from tests.patience import eventually

FRAUD = {"intent": "fraud", "flags": ["urgent"]}
PRICES = TokenPrices(Decimal(2), Decimal(10))  # 100 tokens read and 10 written: 300 micro-USD
ASKED = Instance("hello")
SOON = 100.0  # seconds; far beyond what any call here takes, and no limit of a part of one
ENDLESS = {"endless-continue", "endless-head"}  # which only a limit of time ends

Told = TypeVar("Told")
Serve = Callable[[Callable[[Body], Reply]], ChatServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that answers by a function."""
    with ExitStack() as stack:
        yield lambda reply: stack.enter_context(ChatServer(reply).running())


def with_teacher(
    server: ChatServer,
    work: Callable[[ChatTeacher], Coroutine[Any, Any, Told]],
    clock: Callable[[], float] = time.monotonic,
    **asking: Any,
) -> Told:
    async def run() -> Told:
        teacher = ChatTeacher(
            Prompt(TASK, TaskCard()),
            Upstream(server.url, headers={"Authorization": "Bearer k"}, timeout_s=SOON),
            asking=Asking(model="m", **asking),
            prices=PRICES,
            clock=clock,
        )
        try:
            return await work(teacher)
        finally:
            await teacher.close()

    return asyncio.run(run())


def ask(server: ChatServer, **asking: Any) -> Said:
    return with_teacher(server, lambda teacher: teacher.answer(ASKED), **asking)


def ask_three_times(server: ChatServer, **asking: Any) -> list[Said | TeacherError]:
    async def thrice(teacher: ChatTeacher) -> list[Said | TeacherError]:
        found: list[Said | TeacherError] = []
        for _ in range(3):
            try:
                found.append(await teacher.answer(ASKED))
            except TeacherError as error:
                found.append(error)
        return found

    return with_teacher(server, thrice, **asking)


def forms(server: ChatServer) -> list[str]:
    return [body.get("response_format", {"type": "none"})["type"] for body in server.bodies]


def only(*known: str) -> Callable[[Body], Reply]:
    """A server that refuses every other response_format."""

    def reply(body: Body) -> Reply:
        if body.get("response_format", {"type": "none"})["type"] in known:
            return completion(FRAUD)
        return 400, {"error": {"message": "Invalid parameter: response_format"}}

    return reply


def test_an_answer_is_asked_for_by_the_book_and_read(serve: Serve) -> None:
    server = serve(lambda _: completion(FRAUD))
    options = {"temperature": 0.0, "max_tokens": 64, "seed": 7}
    said = ask(server, options=options)
    assert [head.labels for head in said.prediction.heads] == [("fraud",), ("urgent",)]
    assert (said.prediction.score, said.cost) == (1.0, 300)
    (body,) = server.bodies
    prompt = Prompt(TASK, TaskCard())
    assert body == {
        "model": "m",
        "messages": prompt.messages(ASKED),
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": prompt.schema},
        },
        **options,
    }
    assert server.keys == ["Bearer k"]


def test_a_server_that_knows_no_schema_is_asked_for_less_and_that_is_remembered(
    serve: Serve,
) -> None:
    server = serve(only("json_object", "none"))
    assert all(isinstance(said, Said) for said in ask_three_times(server))
    assert forms(server) == ["json_schema", "json_object", "json_object", "json_object"]


def test_a_server_that_knows_no_format_at_all_is_asked_without_one(serve: Serve) -> None:
    server = serve(only("none"))
    assert all(isinstance(said, Said) for said in ask_three_times(server))
    assert forms(server) == ["json_schema", "json_object", "none", "none", "none"]


@pytest.mark.parametrize("form", ["json_schema", "json_object", "none"])
def test_a_form_that_is_named_is_the_only_one(serve: Serve, form: str) -> None:
    server = serve(only())
    refused = ask_three_times(server, structured=form)
    assert [isinstance(each, TeacherRefused) and each.lasting for each in refused] == [False] * 3
    assert [type(each) for each in refused] == [TeacherRefused] * 3
    assert forms(server) == [form] * 3


def test_a_form_that_was_taken_once_is_not_blamed_for_a_later_refusal(serve: Serve) -> None:
    replies = iter([completion(FRAUD), (400, {"error": "too long"}), completion(FRAUD)])
    server = serve(lambda _: next(replies))
    first, second, third = ask_three_times(server)
    assert isinstance(first, Said)
    assert isinstance(second, TeacherRefused)
    assert not second.lasting
    assert isinstance(third, Said)
    assert forms(server) == ["json_schema"] * 3


def test_a_request_that_is_refused_in_every_form_settles_none(serve: Serve) -> None:
    replies = iter([*[(422, {"error": "too long"})] * 3, completion(FRAUD), completion(FRAUD)])
    server = serve(lambda _: next(replies))
    first, second, _ = ask_three_times(server)
    assert isinstance(first, TeacherRefused)
    assert isinstance(second, Said)
    assert forms(server)[3:] == ["none", "json_schema"]


def test_where_every_form_is_refused_the_last_alone_is_asked_for_a_while(serve: Serve) -> None:
    clock, server = Clock(), serve(only())

    async def work(teacher: ChatTeacher) -> None:
        for seconds in (0.0, 0.0, 29.0, 1.0):
            clock.now += seconds
            with pytest.raises(TeacherRefused) as refused:
                await teacher.answer(ASKED)
            assert refused.value.lasting

    with_teacher(server, work, clock)
    ladder = ["json_schema", "json_object", "none"]
    assert forms(server) == [*ladder, "none", "none", *ladder]


@pytest.mark.parametrize(
    ("status", "error", "cost"),
    [
        (401, TeacherRefused, 0),
        (404, TeacherRefused, 0),
        (429, TeacherLimited, 0),
        (503, TeacherUnavailable, None),
    ],
)
def test_other_failures_are_told_at_once(
    serve: Serve, status: int, error: type[TeacherError], cost: int | None
) -> None:
    server = serve(lambda _: (status, {"error": {"message": "no"}}))
    with pytest.raises(error) as failed:
        ask(server)
    assert failed.value.cost == cost
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("before", "samples"),
    [((400, {"error": "no such format"}), 1), (completion(FRAUD), 2)],
    ids=["another form", "another sample"],
)
def test_a_failure_is_not_free_where_another_request_may_have_cost_something(
    serve: Serve, before: Reply, samples: int
) -> None:
    replies = iter([before, (429, {"error": "slow down"})])
    with pytest.raises(TeacherLimited) as limited:
        ask(serve(lambda _: next(replies)), samples=samples)
    assert limited.value.cost is None


def test_log_probabilities_become_probabilities(serve: Serve) -> None:
    logs = [
        ('{"intent":"', -1.0),
        ('fraud"', math.log(0.8)),
        (',"flags":[', -1.0),
        ("]}", math.log(0.5)),
    ]
    server = serve(lambda _: completion({"intent": "fraud", "flags": []}, logs=logs))
    intent, flags = ask(server, logprobs=True).prediction.heads
    assert intent.confidence == pytest.approx(0.8)
    assert intent.probabilities.tolist() == pytest.approx([0.1, 0.8, 0.1])
    assert flags.confidence == pytest.approx(0.5)
    assert server.bodies[0]["logprobs"] is True


def test_a_server_that_returns_no_log_probabilities_is_taken_at_its_word(serve: Serve) -> None:
    server = serve(lambda _: completion(FRAUD))
    assert ask(server, logprobs=True).prediction.score == 1.0


def test_samples_vote_and_all_of_them_are_paid_for(serve: Serve) -> None:
    other = {"intent": "other", "flags": []}
    replies = iter([completion(FRAUD), completion(other), completion(FRAUD)])
    server = serve(lambda _: next(replies))
    said = ask(server, samples=3)
    intent, flags = said.prediction.heads
    assert (intent.labels, flags.labels) == (("fraud",), ("urgent",))
    assert intent.probabilities.tolist() == pytest.approx([0.0, 2 / 3, 1 / 3])
    assert said.cost == 900


def test_a_garbled_sample_has_no_vote_and_is_paid_for(serve: Serve) -> None:
    replies = iter([completion(FRAUD), completion("well"), completion(FRAUD)])
    said = ask(serve(lambda _: next(replies)), samples=3)
    assert (said.prediction.score, said.cost) == (1.0, 900)


def test_an_answer_of_the_lesser_part_of_the_samples_is_none(serve: Serve) -> None:
    replies = iter([completion(FRAUD), completion("well"), completion(FRAUD), completion("well")])
    with pytest.raises(TeacherGarbled, match="is not JSON") as garbled:
        ask(serve(lambda _: next(replies)), samples=4)
    assert garbled.value.cost == 1200


def test_a_sample_that_fails_ends_the_others(serve: Serve) -> None:
    server = serve(lambda _: (429, {"error": {"message": "slow down"}}))
    with pytest.raises(TeacherLimited):
        ask(server, samples=5)


@pytest.mark.parametrize(
    "reply",
    [
        completion("s3cret"),
        completion({"intent": "s3cret", "flags": []}),
        completion("{", finish="length"),
        completion(None, refusal="s3cret"),
    ],
)
def test_a_reply_that_cannot_be_used_is_garbled_and_was_paid_for(
    serve: Serve, reply: Reply
) -> None:
    with pytest.raises(TeacherGarbled) as garbled:
        ask(serve(lambda _: reply))
    assert garbled.value.cost == 300
    assert garbled.value.mend
    assert "s3cret" not in str(garbled.value)


class Limit:
    """In place of asyncio.timeout: that of a call ends when a test says so."""

    def __init__(self) -> None:
        self._limit = asyncio.Timeout(None)

    def __call__(self, seconds: float) -> asyncio.Timeout:
        """The limit of another call."""
        assert seconds == SOON
        self._limit = asyncio.Timeout(None)
        return self._limit

    def end(self) -> None:
        """The time of the call is up."""
        self._limit.reschedule(asyncio.get_running_loop().time())


@pytest.mark.parametrize("fault", GARBAGE, ids=lambda fault: fault.name)
def test_no_garbage_of_any_server_becomes_an_answer(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = Limit()
    if fault.name in ENDLESS:
        timeless = SimpleNamespace(**{**vars(asyncio), "timeout": limit})
        monkeypatch.setattr(upstream, "asyncio", timeless)

    async def work() -> None:
        async with FaultServer(turns(OK, fault), say=lambda _: FRAUD) as server:
            teacher = ChatTeacher(
                Prompt(TASK, TaskCard()),
                Upstream(server.url, headers={}, timeout_s=SOON),
                asking=Asking(model="m"),
                prices=PRICES,
            )
            said = await teacher.answer(ASKED)
            assert [head.labels for head in said.prediction.heads] == [("fraud",), ("urgent",)]
            call = asyncio.create_task(teacher.answer(ASKED))
            await eventually(lambda: server.calls[fault.name] > 0)
            if fault.name in ENDLESS:
                await asyncio.wait({call}, timeout=0.2)  # let it come for a while
                limit.end()
            with pytest.raises(TeacherError) as failed:
                await call
            assert failed.value.asked
            assert server.calls == {"ok": 1, fault.name: 1}
            await teacher.close()

    asyncio.run(work())


def test_without_a_count_of_tokens_the_cost_is_not_known(serve: Serve) -> None:
    assert ask(serve(lambda _: completion(FRAUD, usage=None))).cost is None


def test_a_teacher_is_named_by_its_model_and_by_how_it_is_asked() -> None:
    def name(card: TaskCard, **asking: Any) -> str:
        upstream = Upstream("http://127.0.0.1:1", headers={"Authorization": "k"}, timeout_s=1.0)
        asked = Asking(**{"model": "some/model", **asking})
        return ChatTeacher(Prompt(TASK, card), upstream, asking=asked, prices=PRICES).name

    plain = name(TaskCard())
    assert plain.startswith("some/model@")
    assert plain == name(TaskCard())
    others = {
        name(TaskCard(instructions="Be brief.")),
        name(TaskCard(), samples=3),
        name(TaskCard(), options={"temperature": 1.0}),
        name(TaskCard(), model="other"),
    }
    assert len(others | {plain}) == 5
    assert len(name(TaskCard(), model="x" * 500)) <= 64

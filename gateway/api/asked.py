"""What a request asks, whichever protocol carries it: texts within their limits, on which terms.

One rule for all protocols that other people wrote; each finds the values in its own shapes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar
from urllib.parse import parse_qs

import orjson
from starlette.types import Scope

from gateway.assembly import Gateway
from gateway.errors import Invalid, Malformed, TooLarge, Unanswered
from gateway.routing.cascade import Cascade
from gateway.settings import ServerSettings
from gateway.types import Answer, Instance, Prediction, Priority, Reply, Terms, Wish

_MS = 1000.0  # milliseconds in a second
_LATEST = 3_600_000  # milliseconds: an hour; whoever waits longer wants no deadline
TERMS = frozenset({"route", "priority", "deadline_ms"})  # what `terms` reads

_LONGEST_NAME = 128  # characters: of no task, head, model or request is it longer
_MOST_NAMED = 16  # answers that are named one by one; proxies bound a header to 8 KB and less
_WISHES = {wish.value: wish for wish in Wish}
_PRIORITIES = {"high": Priority.HIGH, "normal": Priority.NORMAL}  # the others are ours
_Kind = TypeVar("_Kind")


def content(body: bytes, what: str) -> dict[str, Any]:
    """The JSON object of a body. Raises Malformed, or Invalid that says `what` to send."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}", mend=f"send {what}") from error
    if type(found) is not dict:
        raise Invalid("the body is no object", mend=f"send {what}")
    return found


def instances(texts: Sequence[Any], place: str, limits: ServerSettings) -> list[Instance]:
    """Texts -> instances. Raises Invalid or TooLarge, naming the place."""
    if not texts:
        raise Invalid(f"{place}: no texts", mend="send one at least")
    if len(texts) > limits.max_inputs:
        raise TooLarge(
            f"{place}: {len(texts)} texts, {limits.max_inputs} are allowed",
            mend="send them in several requests",
        )
    return [Instance(text(each, f"{place}[{number}]", limits)) for number, each in enumerate(texts)]


def text(value: Any, place: str, limits: ServerSettings) -> str:
    """A text within the limits. Raises Invalid, naming the place."""
    if type(value) is not str:
        raise Invalid(f"{place}: not a text", mend="send a string")
    if len(value) > limits.max_characters:
        raise Invalid(
            f"{place}: {len(value)} characters, {limits.max_characters} are allowed",
            mend="send a shorter text, or raise server.max_characters",
        )
    if not value or value.isspace():
        raise Invalid(f"{place}: empty", mend="send a text with something in it")
    return value


def flag(content: Mapping[str, Any], key: str, place: str = "") -> bool:
    """True or false; an absent or null one is false. Raises Invalid."""
    value = content.get(key)
    if value is not None and type(value) is not bool:
        raise Invalid(f"{place}{key}: not true or false", mend="send true, or leave it out")
    return bool(value)


def name(content: Mapping[str, Any], key: str, place: str = "") -> str | None:
    """A string with something in it; None where it is absent or null. Raises Invalid."""
    value = content.get(key)
    if value is not None and (type(value) is not str or not 0 < len(value) <= _LONGEST_NAME):
        raise Invalid(
            f"{place}{key}: not a name",
            mend=f"send a string of up to {_LONGEST_NAME} characters, or leave it out",
        )
    return value


def check_known(content: Mapping[str, Any], keys: AbstractSet[str], place: str = "") -> None:
    """Raises Invalid, with its name, for a key that none reads."""
    if unknown := sorted(content.keys() - keys):
        raise Invalid(
            f"{place}{unknown[0][:60]}: unknown key",
            mend=f"the known keys are {', '.join(sorted(keys))}",
        )


def query(scope: Scope) -> dict[str, str]:
    """The keys behind the path's question mark, the last of each."""
    if not scope["query_string"]:
        return {}
    found = parse_qs(scope["query_string"].decode("latin-1"))
    return {key: values[-1] for key, values in found.items()}


def terms(wishes: Mapping[str, Any], place: str, now: float) -> Terms:
    """`route`, `priority` and `deadline_ms` of a protocol's own parameters.

    `now` is when the request came, as time.perf_counter gives it. Raises Invalid.
    """
    deadline = wishes.get("deadline_ms")
    if deadline is not None and (type(deadline) not in {int, float} or not 0 < deadline <= _LATEST):
        raise Invalid(
            f"{place}deadline_ms: not a time", mend=f"send milliseconds above 0, up to {_LATEST}"
        )
    return Terms(
        wish=_one_of(_WISHES, wishes.get("route"), f"{place}route", Wish.AUTO),
        priority=_one_of(_PRIORITIES, wishes.get("priority"), f"{place}priority", Priority.NORMAL),
        deadline=None if deadline is None else now + deadline / _MS,
    )


async def reply(
    gateway: Gateway, cascade: Cascade, instances: Sequence[Instance], terms: Terms, scope: Scope
) -> Reply:
    """The answers of one request. An error from here on is counted under the task."""
    scope["state"]["task"] = cascade.task
    return await gateway.answer(cascade.task, instances, terms)


def said(answer: Answer) -> Prediction:
    """What was answered. Raises Unanswered where nobody did."""
    if answer.prediction is None:
        raise Unanswered(
            f"nobody answered: the request went to the teacher ({answer.decision.reason}), which "
            f"could not ({answer.failure})",
            mend="send the request again later",
        )
    return answer.prediction


def headers(reply: Reply, started: float) -> tuple[tuple[bytes, bytes], ...]:
    """Who answered each text and why; where the time went; what was recorded."""
    answers = reply.answers
    routes = _named([answer.route for answer in answers])
    reasons = _named([answer.decision.reason for answer in answers])
    return (
        (b"server-timing", timing(answers, started)),
        (b"understudy-record", reply.record.encode()),
        (b"x-understudy-route", routes.encode()),
        (b"x-understudy-reason", reasons.encode()),
    )


def _named(words: Sequence[str]) -> str:
    """A word for each answer, in their order; of many answers, how often each word is said."""
    if len(words) <= _MOST_NAMED:
        return ", ".join(words)
    return ", ".join(f"{word};n={count}" for word, count in Counter(words).most_common())


def timing(answers: Sequence[Answer], started: float) -> bytes:
    """Server-Timing (W3C): the longest of each stage, and the whole time in the gateway, in ms."""
    stages = answers[0].stages
    queue, student, teacher = stages.queue, stages.student, stages.teacher
    for each in answers[1:]:
        queue = max(queue, each.stages.queue)
        student = max(student, each.stages.student)
        teacher = max(teacher, each.stages.teacher)
    return b"queue;dur=%.3f, student;dur=%.3f, teacher;dur=%.3f, total;dur=%.3f" % (
        queue * _MS,
        student * _MS,
        teacher * _MS,
        (time.perf_counter() - started) * _MS,
    )


def _one_of(known: Mapping[str, _Kind], value: Any, place: str, usual: _Kind) -> _Kind:
    if value is None:
        return usual
    found = known.get(value) if type(value) is str else None
    if found is None:
        raise Invalid(f"{place}: not one", mend=f"send one of: {', '.join(known)}")
    return found

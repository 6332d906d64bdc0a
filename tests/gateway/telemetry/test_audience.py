"""One observer's failure stays its own."""

from __future__ import annotations

from structlog.testing import capture_logs

from gateway.telemetry.audience import Audience
from gateway.types import Answer, Audit
from tests.gateway.telemetry.answers import audit, confident, prediction


class _Broken:
    def answered(self, answer: Answer) -> None:
        raise RuntimeError(f"cannot look at {answer.id}")

    def audited(self, audit: Audit) -> None:
        raise RuntimeError(f"cannot look at {audit.answer.id}")


class _Sound:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.audits: list[Audit] = []

    def answered(self, answer: Answer) -> None:
        self.answers.append(answer)

    def audited(self, audit: Audit) -> None:
        self.audits.append(audit)


def test_an_observer_that_raises_is_logged_and_the_next_is_still_told() -> None:
    sound = _Sound()
    audience = Audience([_Broken(), sound])
    answer = confident()
    second = audit(answer, prediction())
    with capture_logs() as logged:
        audience.answered(answer)
        audience.audited(second)
    assert sound.answers == [answer]
    assert sound.audits == [second]
    assert [line["event"] for line in logged] == ["observer_failed", "observer_failed"]

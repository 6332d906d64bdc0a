"""The out-of-domain gate: its place, its edges, its setting, and a gateway that has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from gateway.assembly import open_gateway
from gateway.contract.bundle import open_bundle
from gateway.errors import SettingsError
from gateway.routing.policy import EscalationPolicy
from gateway.students.student import Student
from gateway.succession.policies import fingerprint, policy_of
from gateway.types import Answer, Instance, Prediction, Reason, Route, Terms, Wish
from tests.factories import settings_file, tiny_bundle
from tests.familiar import KNOWN, STRANGE, familiar_bundle

POLICY = EscalationPolicy(threshold=0.9, min_familiarity=0.01)
TEXT = Instance("a text")


def said(familiarity: float | None, *, score: float = 1.0, truncated: bool = False) -> Prediction:
    """A prediction of that familiarity."""
    return Prediction(
        heads=(), score=score, truncated=truncated, bundle="b" * 64, familiarity=familiarity
    )


@pytest.mark.parametrize(
    ("familiarity", "escalated"),
    [(1.0, False), (0.01, False), (0.0099, True), (float("nan"), True), (None, True)],
)
def test_a_text_below_the_least_familiarity_goes_to_the_teacher(
    familiarity: float | None, *, escalated: bool
) -> None:
    decision = POLICY.decide(TEXT, said(familiarity))
    assert decision.escalate is escalated
    assert decision.reason is (Reason.OUT_OF_DOMAIN if escalated else Reason.CONFIDENT)


def test_without_a_least_familiarity_no_text_is_strange() -> None:
    assert not EscalationPolicy(threshold=0.9).decide(TEXT, said(0.0)).escalate


def test_it_comes_after_the_hard_gates_and_before_low_confidence() -> None:
    strange = said(0.001, score=0.1, truncated=True)
    assert POLICY.decide(TEXT, strange).reasons == (
        Reason.TRUNCATED, Reason.OUT_OF_DOMAIN, Reason.LOW_CONFIDENCE,
    )  # fmt: skip


def test_a_caller_who_asks_for_the_student_gets_it_and_is_told() -> None:
    decision = POLICY.decide(TEXT, said(0.001), Wish.STUDENT)
    assert not decision.escalate
    assert decision.reasons == (Reason.REQUESTED, Reason.OUT_OF_DOMAIN)


def least(folder: Path, student: Path, **policy: Any) -> float | None:
    """The least familiarity of a policy with these settings, for that student."""
    read = settings.load(settings_file(folder, student=student, policy=policy))
    task = read.tasks["tickets"]
    model = Student(open_bundle(student))
    return policy_of("tickets", task, model, teacher="scripted").min_familiarity


def test_left_alone_it_is_one_in_a_hundred_where_the_bundle_can_tell(tmp_path: Path) -> None:
    tiny = tiny_bundle(tmp_path / "bundles")
    familiar = familiar_bundle(tiny)
    assert least(tmp_path, tiny) is None
    assert least(tmp_path, familiar) == 0.01
    assert least(tmp_path, familiar, out_of_domain=0.05) == 0.05
    assert least(tmp_path, familiar, out_of_domain=None) is None


def test_a_certificate_is_bound_to_what_is_strange_and_not_to_how_it_was_said() -> None:
    auto, named = settings.PolicySettings(), settings.PolicySettings(out_of_domain=0.01)
    assert fingerprint(auto, None, 0.01) == fingerprint(named, None, 0.01)
    assert len({fingerprint(auto, None, least) for least in (None, 0.01, 0.05)}) == 3


def test_a_share_that_the_bundle_cannot_keep_is_refused(tmp_path: Path) -> None:
    tiny = tiny_bundle(tmp_path / "bundles")
    with pytest.raises(SettingsError, match=r"policy\.out_of_domain: tickets-.* cannot tell"):
        least(tmp_path, tiny, out_of_domain=0.05)
    # Of 199 known distances the least p-value is 1/200.
    with pytest.raises(SettingsError, match=r"no p-value of tickets-.* is below 0\.005") as caught:
        least(tmp_path, familiar_bundle(tiny), out_of_domain=0.005)
    assert "above 0.005" in (caught.value.mend or "")


def test_a_gateway_sends_a_strange_text_to_the_teacher(tmp_path: Path) -> None:
    student = familiar_bundle(tiny_bundle(tmp_path / "bundles", threshold=0.0))
    read = settings.load(settings_file(tmp_path, student=student))

    async def asked() -> tuple[Sequence[Answer], str]:
        async with open_gateway(read) as gateway:
            reply = await gateway.answer("tickets", [Instance(KNOWN), Instance(STRANGE)], Terms())
            return reply.answers, gateway.metrics.render().decode()

    (known, strange), rendered = asyncio.run(asked())
    assert (known.route, known.decision.reason) == (Route.STUDENT, Reason.CONFIDENT)
    assert (strange.route, strange.decision.reason) == (Route.TEACHER, Reason.OUT_OF_DOMAIN)
    assert strange.student is not None
    assert strange.student.familiarity == 1 / 200
    assert 'understudy_escalations_total{reason="out_of_domain",task="tickets"} 1.0' in rendered

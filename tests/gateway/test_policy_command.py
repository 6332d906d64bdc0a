"""`understudy policy`: one decision explained, traffic replayed, the whole policy certified."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from gateway.api.schemas import in_words
from gateway.contract import bundle, certificate, examples
from gateway.contract.examples import Example, Label
from gateway.contract.measures import upper_bound
from tests.conftest import Client, Opener
from tests.factories import CONFIDENT, UNSURE, settings_file, tiny_bundle
from tests.gateway.contract.test_certificate import issued as certificate_of
from tests.gateway.test_cli import Command

PRICES = {"prices": {"teacher_usd_per_1000": 2}}
SEVERITY = {"costs": {"intent": {"fraud": {"refund": 10}}}, "usd_per_unit": 0.5}
CRITICAL = {"labels": {"intent": ["fraud"]}}
RULES = [{"name": "large", "field": "amount", "above": 1000}]

REFUND = {"intent": "refund", "flags": []}
FRAUD = {"intent": "fraud", "flags": []}
TAUGHT = {"intent": ["refund"], "flags": []}


@pytest.fixture
def understudy(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def labelled(path: Path, *, right: int, wrong: int = 0, unsure: int = 0) -> Path:
    """Rows of which the student is sure and right, sure and wrong, unsure and wrong."""
    sure = {"text": CONFIDENT, "labels": REFUND}
    return lines(
        path,
        *[sure] * right,
        *[sure | {"labels": FRAUD}] * wrong,
        *[{"text": UNSURE, "labels": FRAUD}] * unsure,
    )


def explained(understudy: Command, config: Path, *arguments: str) -> Any:
    ran = understudy("policy", "explain", *arguments, "--config", config, "--json")
    assert ran.status == 0, ran.err
    return json.loads(ran.out)


def test_a_confident_decision_is_explained(understudy: Command, tmp_path: Path) -> None:
    found = explained(understudy, settings_file(tmp_path), CONFIDENT)
    assert (found["route"], found["reasons"], found["threshold"]) == ("student", ["confident"], 0.9)
    assert found["score"] == pytest.approx(0.9968, abs=1e-3)
    intent = found["heads"][0]
    assert (intent["head"], intent["labels"]) == ("intent", ["refund"])
    assert intent["probabilities"]["other"] == pytest.approx(0.0025, abs=1e-3)
    assert found["call_usd"] is None
    assert [gate["gate"] for gate in found["gates"] if gate["holds"]] == []


def test_every_gate_is_shown_with_its_number_and_its_limit(
    understudy: Command, tmp_path: Path
) -> None:
    chosen = {"rules": RULES, "severity": SEVERITY, "critical": CRITICAL | {"threshold": 0.5}}
    config = settings_file(tmp_path, policy=chosen, tickets=PRICES)
    found = explained(understudy, config, UNSURE, "--field", "amount=1200", "--field", "tier=gold")
    gates = {(gate["gate"], gate["detail"]): gate for gate in found["gates"]}
    assert list(gates) == [
        ("requested", ""),
        ("truncated", ""),
        ("student_failed", ""),
        ("high_risk", "large"),
        ("severity", "critical"),
        ("severity", "flags"),
        ("no_certificate", ""),
        ("low_confidence", ""),
    ]
    assert gates["high_risk", "large"]["holds"]
    assert gates["severity", "critical"]["limit"] == 0.5
    assert not gates["severity", "critical"]["holds"]
    # A call costs 0.002 USD, a unit of loss 0.5: it pays from 0.004 units on.
    assert gates["severity", "flags"]["limit"] == pytest.approx(0.004)
    assert gates["severity", "flags"]["value"] == pytest.approx(
        sum(loss["student"] - loss["teacher"] for loss in found["losses"]), rel=1e-3
    )
    assert gates["low_confidence", ""]["value"] == found["score"]
    assert found["reasons"] == ["high_risk", "severity", "low_confidence"]
    assert (found["route"], found["detail"], found["call_usd"]) == ("teacher", "large", 0.002)


def test_a_decision_is_told_to_people_too(understudy: Command, tmp_path: Path) -> None:
    config = settings_file(tmp_path, policy={"severity": SEVERITY}, tickets=PRICES)
    ran = understudy("policy", "explain", UNSURE, "--config", config, "--task", "tickets")
    assert ran.status == 0
    assert "Expected losses" in ran.out
    assert "a call of the teacher costs 0.002 USD" in ran.out
    assert "teacher answers, scripted: severity, low_confidence (flags)" in ran.out


def test_severity_sends_to_the_teacher_what_the_threshold_would_not(serve: Opener) -> None:
    """Of `please refund my order` 0.25 % is something else; at 10 units a call pays from 0.1 on."""
    dear = {"costs": {"intent": {"other": {"refund": 100}}}, "usd_per_unit": 0.02}
    client = serve(policy={"severity": dear}, tickets=PRICES)
    found = client.post("/v1/predict", json={"input": CONFIDENT}).json()
    assert (found["route"], found["reason"], found["detail"]) == ("teacher", "severity", "intent")


def test_costs_may_stand_in_a_file_beside_the_settings(serve: Opener, tmp_path: Path) -> None:
    (tmp_path / "severity.csv").write_text("true,refund\nother,100\n")
    dear = {"costs": {"intent": "severity.csv"}, "usd_per_unit": 0.02}
    client = serve(policy={"severity": dear}, tickets=PRICES)
    found = client.post("/v1/predict", json={"input": CONFIDENT}).json()
    assert (found["reason"], found["detail"]) == ("severity", "intent")


def test_critical_labels_without_a_threshold_escalate_whatever_does_not_name_them(
    serve: Opener,
) -> None:
    client = serve(policy={"critical": CRITICAL})
    asked = {"inputs": [{"text": CONFIDENT}, {"text": "this is fraud"}]}
    refund, fraud = client.post("/v1/predict", json=asked).json()["results"]
    assert (refund["route"], refund["reason"], refund["detail"]) == (
        "teacher",
        "severity",
        "critical",
    )
    assert (fraud["route"], fraud["reason"]) == ("student", "confident")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"severity": {"costs": {"mood": {}}, "usd_per_unit": 1}}, "has no head 'mood'"),
        ({"severity": SEVERITY}, "what a call of the teacher costs is not known"),
        ({"critical": {"labels": {"intent": ["theft"]}}}, "there is no 'theft' there"),
    ],
)
def test_a_policy_that_this_student_cannot_have_is_refused(
    understudy: Command, tmp_path: Path, policy: dict[str, Any], message: str
) -> None:
    ran = understudy("check", "--config", settings_file(tmp_path, policy=policy))
    assert ran.status == 2
    assert message in ran.err


@pytest.mark.parametrize("given", ["amount", "=3"])
def test_a_field_that_is_none_is_refused(understudy: Command, tmp_path: Path, given: str) -> None:
    config = settings_file(tmp_path)
    ran = understudy("policy", "explain", "a", "--field", given, "--config", config)
    assert (ran.status, "not name=value" in ran.err) == (2, True)


def test_a_task_that_is_not_there_is_named_with_those_that_are(
    understudy: Command, tmp_path: Path
) -> None:
    config = settings_file(tmp_path)
    ran = understudy("policy", "explain", "a", "--task", "mail", "--config", config)
    assert ran.status == 2
    assert "give --task with one of: tickets" in ran.err


def simulated(understudy: Command, config: Path, data: Path, *arguments: object) -> Any:
    shared = ["--data", data, "--config", config, "--json"]
    ran = understudy("policy", "simulate", *shared, *arguments)
    assert ran.status == 0, ran.err
    return json.loads(ran.out)


def test_a_replay_says_escalation_undetected_error_and_cost(
    understudy: Command, tmp_path: Path
) -> None:
    config = settings_file(tmp_path, tickets=PRICES)
    found = simulated(understudy, config, labelled(tmp_path / "d", right=15, wrong=1, unsure=4))
    assert found["rows"] == found["labelled"] == 20
    assert found["escalation"] == 0.2
    assert found["by_reason"] == {"low_confidence": 0.2}
    assert (found["undetected_errors"], found["undetected_error"]) == (1, 0.05)
    assert found["upper_bound"] == pytest.approx(upper_bound(1, 20, 0.05))
    assert found["usd_per_1000"] == pytest.approx(0.4)  # a fifth of 2 USD
    assert found["frontier"][-1] == {
        "threshold": 0.0,
        "escalation": 0.0,
        "undetected_error": 0.25,
        "usd_per_1000": 0.0,
    }


def test_a_replay_tries_another_threshold_or_another_policy(
    understudy: Command, tmp_path: Path
) -> None:
    config = settings_file(tmp_path)
    data = labelled(tmp_path / "d", right=6, unsure=4)
    assert simulated(understudy, config, data)["escalation"] == 0.4
    assert simulated(understudy, config, data, "--threshold", 0.5)["escalation"] == 0.0
    other = tmp_path / "other.yaml"
    other.write_text("rules: [{name: refunds, head: intent, labels: [refund]}]\n")
    found = simulated(understudy, config, data, "--policy", other)
    assert found["by_reason"] == {"high_risk": 1.0}
    assert found["usd_per_1000"] is None


def test_a_replay_draws_its_frontier_in_the_terminal_and_into_a_file(
    understudy: Command, tmp_path: Path
) -> None:
    data = labelled(tmp_path / "d", right=6, unsure=4)
    config, plot = settings_file(tmp_path, tickets=PRICES), tmp_path / "plot.svg"
    ran = understudy("policy", "simulate", "--data", data, "--config", config, "--plot", plot)
    assert ran.status == 0
    assert "requests without an undetected error  (● this policy)" in ran.out
    assert "USD for the teacher, 1,000 requests" in ran.out
    svg = ET.parse(plot).getroot()  # noqa: S314  our own file
    (line,) = svg.iter("{http://www.w3.org/2000/svg}polyline")
    assert len(line.attrib["points"].split()) >= 2


def test_a_frontier_without_labels_is_not_drawn(understudy: Command, tmp_path: Path) -> None:
    config, data = settings_file(tmp_path), lines(tmp_path / "d", {"text": CONFIDENT})
    found = simulated(understudy, config, data)
    assert (found["labelled"], found["undetected_error"], found["escalation"]) == (0, None, 0.0)
    plot = tmp_path / "plot.svg"
    ran = understudy("policy", "simulate", "--data", data, "--config", config, "--plot", plot)
    assert (ran.status, "no row is labelled" in ran.err, plot.exists()) == (2, True, False)


def test_a_replay_of_records_says_what_their_labels_leave_out(
    understudy: Command, tmp_path: Path
) -> None:
    record = {
        "text": UNSURE,
        "route": "teacher",
        "teacher_labels": {"intent": ["other"], "flags": []},
    }
    data = lines(tmp_path / "d", record, {"text": CONFIDENT, "route": "student"})
    config = settings_file(tmp_path)
    assert simulated(understudy, config, data)["labelled"] == 1
    ran = understudy("policy", "simulate", "--data", data, "--config", config)
    assert "note: rows have labels where they were escalated" in ran.out
    assert "undetected error │ - (0)" in " ".join(ran.out.split())
    assert "at most, with 95% confidence │ -" in " ".join(ran.out.split())
    assert "requests without an undetected error" not in ran.out
    plot = tmp_path / "plot.svg"
    ran = understudy("policy", "simulate", "--data", data, "--config", config, "--plot", plot)
    assert (ran.status, "only because they were escalated" in ran.err) == (2, True)


def test_a_replay_keeps_the_promised_threshold_of_critical_labels(
    understudy: Command, tmp_path: Path
) -> None:
    """It is 1, as nothing is missed; without one, whatever is not said to be fraud is escalated."""
    fraud = {"text": "this is fraud", "labels": FRAUD}
    data = lines(tmp_path / "d", *[{"text": CONFIDENT, "labels": REFUND}, fraud] * 200)
    config = settings_file(tmp_path, policy={"critical": CRITICAL})
    path = tmp_path / "c.json"
    assert certify(understudy, config, data, path, "--alpha-critical", 0.05).status == 0
    chosen = {"critical": CRITICAL, "certificate": path.name}
    config = settings_file(tmp_path, policy=chosen)
    assert simulated(understudy, config, data, "--threshold", 0.5)["escalation"] == 0.0
    other = tmp_path / "other.yaml"
    for said, escalation in (
        ("critical: {labels: {intent: [fraud]}}", 0.0),
        ("{critical: {labels: {intent: [fraud, other]}}, certificate: c.json}", 0.0),
        ("critical: {labels: {intent: [fraud, other]}}", 0.5),
        ("critical: {labels: {intent: [fraud]}, threshold: 0.0}", 0.5),
    ):
        other.write_text(said)
        assert simulated(understudy, config, data, "--policy", other)["escalation"] == escalation


def certify(understudy: Command, config: Path, data: Path, out: Path, *more: object) -> Any:
    return understudy(
        "policy", "certify", "--data", data, "--labels", "gold", "--out", out,
        "--config", config, *more,
    )  # fmt: skip


def test_a_certificate_is_issued_and_then_holds(
    understudy: Command, tmp_path: Path, serve: Opener
) -> None:
    """500 rows, a fifth of which only make the sequence: 400 are left, and none is wrong."""
    student = tiny_bundle(tmp_path / "bundles", threshold=None)  # nothing else certifies it
    config = settings_file(tmp_path, student=student)
    data = labelled(tmp_path / "d", right=500)
    ran = certify(understudy, config, data, tmp_path / "certificate.json")
    assert ran.status == 0, ran.err
    assert (
        "with 95% confidence, at most 2% of requests are answered by the student and wrong"
        in ran.out
    )
    issued = certificate.read(tmp_path / "certificate.json")
    assert issued is not None
    assert (issued.rows, issued.undetected_errors, issued.threshold) == (400, 0, 0.0)
    assert issued.upper_bound == pytest.approx(upper_bound(0, 400, 0.05))

    client = serve(student=student, policy={"certificate": "certificate.json"})
    found = client.post("/v1/predict", json={"input": CONFIDENT}).json()
    assert (found["route"], found["reason"]) == ("student", "confident")
    serving = client.get("/v1/stats").json()["tasks"]["tickets"]["serving"]
    assert serving["certificate_void"] is None
    assert (serving["threshold"], serving["certificate"]["rows"]) == (0.0, 400)
    assert serving["certificate"]["expires_at"] == issued.expires_at.isoformat()


def test_what_was_handed_over_of_escalations_proves_nothing(
    understudy: Command, tmp_path: Path
) -> None:
    """500 escalated texts, all labelled as the student has them: no error of its own is there."""
    labels: dict[str, Label] = {"intent": "refund", "flags": ()}
    data = tmp_path / "handed.jsonl"
    rows = [Example(f"{CONFIDENT} {n}", labels, source="teacher", chosen=True) for n in range(500)]
    examples.write(data, rows)
    config = settings_file(tmp_path)
    ran = certify(understudy, config, data, tmp_path / "certificate.json")
    assert (ran.status, "only because they were escalated" in ran.err) == (2, True)
    assert not (tmp_path / "certificate.json").exists()
    found = simulated(understudy, config, data)
    assert (found["labelled"], found["chosen_rows"]) == (500, True)
    assert (found["undetected_error"], found["upper_bound"]) == (None, None)


def test_all_claims_are_proven_on_the_same_policy(understudy: Command, tmp_path: Path) -> None:
    fraud = {"text": "this is fraud", "labels": FRAUD}
    data = lines(tmp_path / "d", *[{"text": CONFIDENT, "labels": REFUND}, fraud] * 300)
    chosen = {"critical": CRITICAL, "severity": SEVERITY}
    config = settings_file(
        tmp_path, policy=chosen, tickets={"prices": {"teacher_usd_per_1000": 90}}
    )
    more = ["--alpha-critical", 0.05, "--alpha-severity", 0.5]
    ran = certify(understudy, config, data, tmp_path / "c.json", *more, "--json")
    found = json.loads(ran.out)
    assert found["critical"]["missed"] == 0
    assert 200 < found["critical"]["rows"] < 280  # about half of 480
    assert found["critical"]["threshold"] == 1.0  # nothing is missed, so nothing need be kept back
    assert (found["severity"]["mean"], found["severity"]["largest"]) == (0.0, 12.0)
    assert 0.0 < found["severity"]["upper_bound"] < 0.5
    ran = certify(understudy, config, data, tmp_path / "c.json", *more)
    assert "each with 95% confidence: at most 2% of requests are answered by" in ran.out
    assert "at most 5% of critical requests are answered by the student and missed" in ran.out


def test_thresholds_of_the_settings_are_tested_as_they_are_on_all_rows(
    understudy: Command, tmp_path: Path
) -> None:
    config = settings_file(tmp_path, policy={"threshold": 0.9})
    data = labelled(tmp_path / "d", right=190, unsure=10)
    ran = certify(understudy, config, data, tmp_path / "c.json", "--json")
    found = json.loads(ran.out)
    assert (found["rows"], found["threshold"]) == (200, 0.9)
    assert found["escalation"] == pytest.approx(0.05)


def test_rare_dear_losses_at_the_end_of_the_file_are_not_overlooked(
    understudy: Command, tmp_path: Path
) -> None:
    """A mean loss of 0.2: more rows than these would be needed to prove that it is below 0.22."""
    chosen = {"threshold": 0.5, "severity": SEVERITY}
    config = settings_file(
        tmp_path, policy=chosen, tickets={"prices": {"teacher_usd_per_1000": 90}}
    )
    data = labelled(tmp_path / "d", right=980, wrong=20)
    more = ["--alpha", 0.5, "--alpha-severity"]
    ran = certify(understudy, config, data, tmp_path / "c.json", *more, 0.22)
    assert (ran.status, "keeps what is asked on 1000 rows" in ran.err) == (1, True)
    ran = certify(understudy, config, data, tmp_path / "c.json", *more, 0.5, "--json")
    found = json.loads(ran.out)["severity"]
    assert found["mean"] == pytest.approx(0.2)
    assert 0.2 < found["upper_bound"] < 0.5


def test_a_file_that_the_student_was_made_from_certifies_nothing(
    understudy: Command, tmp_path: Path
) -> None:
    data = labelled(tmp_path / "d", right=200)
    tiny = tiny_bundle(tmp_path / "bundles")
    manifest = bundle.open_bundle(tiny).manifest
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    made = manifest.provenance.model_copy(update={"data": {"train.jsonl": digest}})
    files = {entry.name: (tiny / entry.name).read_bytes() for entry in manifest.files}
    student = bundle.write(
        manifest.model_copy(update={"provenance": made}), files, tmp_path / "bundles"
    )
    config = settings_file(tmp_path, student=student)
    ran = certify(understudy, config, data, tmp_path / "c.json")
    assert (ran.status, "was made from, and certifies nothing" in ran.err) == (2, True)
    fresh = labelled(tmp_path / "fresh", right=201)
    assert certify(understudy, config, fresh, tmp_path / "c.json").status == 0


def test_no_certificate_holds_for_more_than_ten_years(understudy: Command, tmp_path: Path) -> None:
    data, out = labelled(tmp_path / "d", right=200), tmp_path / "c.json"
    config = settings_file(tmp_path)
    assert certify(understudy, config, data, out, "--valid-days", 3651).status == 2
    assert certify(understudy, config, data, out, "--valid-days", 3650).status == 0


def test_words_promise_no_more_than_the_numbers() -> None:
    said = in_words(certificate_of(alpha=0.00049, delta=0.000004))
    assert said.startswith("with 99.9996% confidence, at most 0.049% of requests")
    claim = {"alpha": 0.01234, "rows": 50, "missed": 0, "upper_bound": 0.01, "threshold": 1.0}
    loss = {"alpha": 0.12345, "largest": 1.0, "mean": 0.1, "upper_bound": 0.12}
    said = in_words(certificate_of(critical=claim, severity=loss))
    assert said.startswith("each with 95% confidence: at most 2% of requests")
    assert "at most 1.234% of critical requests" in said
    assert "at most 0.12345 units of loss" in said


@pytest.mark.parametrize(
    ("rows", "arguments", "status", "message"),
    [
        ([{"text": CONFIDENT, "labels": REFUND}] * 40, [], 1, "keeps what is asked on 32 rows"),
        ([{"text": CONFIDENT}], [], 2, "certify nothing"),
        (
            [{"text": CONFIDENT, "route": "teacher", "teacher_labels": TAUGHT}],
            [],
            2,
            "certify nothing",
        ),
        (
            [{"text": CONFIDENT, "labels": REFUND, "propensity": share} for share in (0.5, 1.0)],
            [],
            2,
            "not all drawn with the same propensity",
        ),
        ([{"text": CONFIDENT}], ["--alpha-severity", 1], 2, "nothing says what a mistake costs"),
        ([{"text": CONFIDENT}], ["--labels", "silver"], 2, "'silver': no such one"),
    ],
)  # fmt: skip
def test_nothing_is_certified_without_the_rows_for_it(
    understudy: Command,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    arguments: list[object],
    status: int,
    message: str,
) -> None:
    data, out = lines(tmp_path / "d", *rows), tmp_path / "c.json"
    ran = certify(understudy, settings_file(tmp_path), data, out, *arguments)
    assert (ran.status, out.exists()) == (status, False)
    assert message in ran.err


def answered_under(client: Client) -> tuple[str, str, str]:
    found = client.post("/v1/predict", json={"input": CONFIDENT}).json()
    return found["route"], found["reason"], found.get("detail", "")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"valid_days": 1.0, "issued_at": datetime.now(UTC) - timedelta(days=2)}, "expired"),
        ({"student": "0" * 64}, "other student"),
        ({"teacher": "larger"}, "other teacher"),
        ({"policy": "0" * 64}, "other policy"),
    ],
)
def test_a_certificate_that_does_not_hold_escalates_everything_and_says_why(
    understudy: Command, tmp_path: Path, serve: Opener, change: dict[str, Any], fault: str
) -> None:
    path = tmp_path / "certificate.json"
    certify(understudy, settings_file(tmp_path), labelled(tmp_path / "d", right=200), path)
    issued = certificate.read(path)
    assert issued is not None
    certificate.write(path, issued.model_copy(update=change))
    client = serve(policy={"certificate": path.name})
    assert answered_under(client) == ("teacher", "no_certificate", fault)
    serving = client.get("/v1/stats").json()["tasks"]["tickets"]["serving"]
    assert (serving["certificate"], serving["certificate_void"]) == (None, fault)
    config = tmp_path / "understudy.yaml"
    ran = understudy("doctor", "--port", 0, "--config", config)
    assert f"certificate tickets │ {fault}" in " ".join(ran.out.split())
    ran = understudy("check", "--config", config)
    assert f"does not hold ({fault}), so everything goes to the teacher" in ran.out


def test_a_student_may_have_a_certificate_of_its_own_beside_that_of_another(
    understudy: Command, tmp_path: Path, serve: Opener
) -> None:
    path = tmp_path / "certificate.json"
    certify(understudy, settings_file(tmp_path), labelled(tmp_path / "d", right=200), path)
    issued = certificate.read(path)
    assert issued is not None
    certificate.write(path, issued.model_copy(update={"student": "0" * 64}))
    name = tiny_bundle(tmp_path / "bundles").name
    certificate.write(tmp_path / f"certificate.{name}.json", issued)
    client = serve(policy={"certificate": path.name})
    assert answered_under(client)[:2] == ("student", "confident")


def test_a_certificate_that_is_not_there_escalates_everything(serve: Opener) -> None:
    client = serve(policy={"certificate": "nowhere.json"})
    assert answered_under(client) == ("teacher", "no_certificate", "missing")


def test_what_happens_after_an_escalation_voids_no_certificate(
    understudy: Command, tmp_path: Path, serve: Opener
) -> None:
    path = tmp_path / "certificate.json"
    certify(understudy, settings_file(tmp_path), labelled(tmp_path / "d", right=200), path)
    chosen = {"certificate": path.name, "on_unavailable": "abstain"}
    assert answered_under(serve(policy=chosen))[0] == "student"
    ruled = chosen | {"rules": RULES}
    assert answered_under(serve(policy=ruled)) == ("teacher", "no_certificate", "other policy")


def test_a_certificate_that_is_issued_while_it_serves_holds_from_the_reload_on(
    understudy: Command, tmp_path: Path, serve: Opener
) -> None:
    path = tmp_path / "certificate.json"
    client = serve(policy={"certificate": path.name})
    assert answered_under(client)[2] == "missing"
    config = tmp_path / "understudy.yaml"
    certify(understudy, config, labelled(tmp_path / "d", right=200), path)
    assert answered_under(client)[2] == "missing"
    assert client.post("/admin/v1/reload").status_code == 200
    assert answered_under(client) == ("student", "confident", "")


def test_doctor_says_until_when_a_certificate_holds(understudy: Command, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    certify(understudy, settings_file(tmp_path), labelled(tmp_path / "d", right=200), path)
    config = settings_file(tmp_path, policy={"certificate": path.name})
    issued = certificate.read(path)
    assert issued is not None
    ran = understudy("doctor", "--port", 0, "--config", config)
    assert f"holds until {issued.expires_at.isoformat()}" in " ".join(ran.out.split())


def test_doctor_tells_of_settings_that_are_wrong(understudy: Command, tmp_path: Path) -> None:
    config = tmp_path / "understudy.yaml"
    config.write_text("version: 2\n")
    ran = understudy("doctor", "--port", 0, "--config", config)
    assert ran.status == 0
    assert "tasks: this key is required" in " ".join(ran.out.split())

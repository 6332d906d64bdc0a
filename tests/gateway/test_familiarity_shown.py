"""How familiar a text is to the student: in the reply, in its record, explained and replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.api.schemas import Result
from tests.conftest import Opener
from tests.factories import CONFIDENT, settings_file, tiny_bundle
from tests.familiar import KNOWN, NEAR, STRANGE, familiar_bundle
from tests.gateway.test_cli import Command

P_VALUES = {KNOWN: 1.0, NEAR: 10 / 200, STRANGE: 1 / 200}  # see tests/familiar.py
TEXTS = list(P_VALUES)


@pytest.fixture
def understudy(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def familiar(tmp_path: Path) -> Path:
    """A student that is sure of all, and can tell which texts are strange."""
    return familiar_bundle(tiny_bundle(tmp_path / "bundles", threshold=0.0))


def ran(understudy: Command, *arguments: object) -> str:
    done = understudy(*arguments)
    assert done.status == 0, done.err
    return done.out


def test_a_reply_says_how_familiar_its_text_is_whoever_answered(
    serve: Opener, familiar: Path
) -> None:
    found = serve(student=familiar).post("/v1/predict", json={"inputs": TEXTS}).json()["results"]
    assert [each["familiarity"] for each in found] == list(P_VALUES.values())
    assert [each["route"] for each in found] == ["student", "student", "teacher"]
    for each in found:
        Result.model_validate(each)


def test_where_the_student_cannot_tell_it_is_null(serve: Opener) -> None:
    reply = serve().post("/v1/predict", json={"input": CONFIDENT}).json()
    assert reply["familiarity"] is None


def test_records_keep_it_and_a_replay_of_them_tries_another_limit(
    serve: Opener, familiar: Path, understudy: Command, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {"student": familiar, "records": {"path": "r.db", "text": "full"}}
    client = serve(**sections)
    assert client.post("/v1/predict", json={"inputs": TEXTS}).status_code == 200
    assert client.gateway.writer is not None
    client.gateway.writer.close(120.0)
    config, data = tmp_path / "understudy.yaml", tmp_path / "records.jsonl"
    ran(understudy, "records", "export", "--config", config, "--output", data)
    kept = [json.loads(line) for line in data.read_text().splitlines()]
    assert {each["text"]: each["familiarity"] for each in kept} == P_VALUES

    replay = ("policy", "simulate", "--data", data, "--config", config)
    now = json.loads(ran(understudy, *replay, "--json"))
    assert (now["min_familiarity"], now["escalation"]) == (0.01, pytest.approx(1 / 3))
    stricter = json.loads(ran(understudy, *replay, "--out-of-domain", "0.06", "--json"))
    assert stricter["by_reason"] == {"out_of_domain": pytest.approx(2 / 3)}
    tried = {each["min_familiarity"]: each for each in now["out_of_domain"]}
    # One p-value is 0.005, one 0.05: neither is below a limit that it is equal to.
    strange = [tried[least]["strange"] * 3 for least in (0.005, 0.01, 0.05, 0.1)]
    assert strange == pytest.approx([0, 1, 1, 2])
    assert tried[0.1]["escalation"] == pytest.approx(2 / 3)
    assert tried[0.1]["undetected_error"] is None  # labelled by their escalation
    assert "With another least familiarity" in ran(understudy, *replay)


def test_an_explanation_shows_it_against_its_limit(
    understudy: Command, familiar: Path, tmp_path: Path
) -> None:
    config = settings_file(tmp_path, student=familiar)
    asked = ("policy", "explain", STRANGE, "--config", config)
    found = json.loads(ran(understudy, *asked, "--json"))
    assert (found["familiarity"], found["min_familiarity"]) == (1 / 200, 0.01)
    (gate,) = [each for each in found["gates"] if each["gate"] == "out_of_domain"]
    assert (gate["value"], gate["limit"], gate["holds"]) == (1 / 200, 0.01, True)
    assert "familiarity 0.005, at least 0.01" in ran(understudy, *asked)
    plain = settings_file(tmp_path / "plain")
    said = ran(understudy, "policy", "explain", CONFIDENT, "--config", plain)
    assert "familiarity not known" in said

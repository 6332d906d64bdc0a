"""Day zero: a real process before a chat model, without a student, driven by OpenAI's own client.

What the model answers becomes records with its probabilities, then examples; the first student is
added to the process that runs, answers, and goes again.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import pytest
from anyio.from_thread import start_blocking_portal

from gateway.contract import examples
from gateway.teachers import faults
from gateway.teachers.faults import Call, Fault, FaultServer
from tests.acceptance.command import understudy
from tests.acceptance.process import TIMEOUT_S, Process
from tests.factories import CONFIDENT, TASK, UNSURE, settings_file, tiny_bundle
from tests.patience import until

pytestmark = pytest.mark.acceptance

FRAUD = "somebody used my card"
# What the model writes, token by token, with the probability of each: sure at 0.8 of the intent,
# and at 0.9 that no flag applies.
TOKENS = (('{"intent": "', 1.0), ('%s"', 0.8), (', "flags": ', 1.0), ("[]", 0.9), ("}", 1.0))
HEADS = {head.name: {"kind": head.kind.value, "labels": list(head.labels)} for head in TASK.heads}
NO_STUDENT = {"route": "teacher", "reason": "no_student"}
# The rest of 1 is spread evenly over what was not said.
SCORES = {
    "refund": {"refund": 0.8, "fraud": 0.1, "other": 0.1},
    "fraud": {"refund": 0.1, "fraud": 0.8, "other": 0.1},
}
FLAGS = {"urgent": 0.05, "legal": 0.05}


async def _reply(call: Call) -> None:
    label = str(call.said["intent"])
    tokens = [(token.replace("%s", label), share) for token, share in TOKENS]
    content = "".join(token for token, _ in tokens)
    completion = call.completion(content)
    entries = [{"token": token, "logprob": math.log(share)} for token, share in tokens]
    completion["choices"][0]["logprobs"] = {"content": entries}
    await call.respond(orjson.dumps(completion))


def _say(text: str) -> dict[str, Any]:
    return {"intent": "fraud" if "card" in text else "refund", "flags": []}


@pytest.fixture(scope="module")
def model() -> Iterator[FaultServer]:
    """A chat model that is a script and shows its tokens."""
    server = FaultServer(faults.turns(Fault("weighed", _reply)), say=_say)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(server):
        yield server


def _settings(folder: Path, model: FaultServer, **sections: Any) -> Path:
    """A task without a student, in threads as soon as one comes."""
    path = settings_file(
        folder,
        teacher={
            "openai": {"url": model.url, "model": faults.MODEL, "logprobs": True},
            "timeout_s": 60,
        },
        **{"records": {"path": "records.db", "text": "full"}, **sections},
    )
    content = path.read_text().replace(f"bundle: {folder}", f"# bundle: {folder}")
    path.write_text(content.replace("    policy:", f"    heads: {json.dumps(HEADS)}\n    policy:"))
    return path


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, model: FaultServer) -> Iterator[Process]:
    """The process on its first day."""
    path = _settings(tmp_path_factory.mktemp("day"), model)
    with closing(Process(path)) as process:
        yield process


def test_an_openai_client_gets_the_teachers_answers_from_the_first_day_on(day: Process) -> None:
    client = openai.OpenAI(base_url=f"{day.url}/v1", api_key="none", timeout=TIMEOUT_S)
    with client:
        assert [each.id for each in client.models.list()] == [TASK.name]
        for text, label in ((UNSURE, "refund"), (FRAUD, "fraud"), (FRAUD, "fraud")):
            said = client.chat.completions.create(
                model=TASK.name, messages=[{"role": "user", "content": text}]
            )
            assert json.loads(said.choices[0].message.content or "") == {
                "intent": label,
                "flags": [],
            }
            assert said.usage is None  # nothing is there that counts tokens
            told = said.model_dump()["understudy"]
            assert {name: told[name] for name in NO_STUDENT} == NO_STUDENT
        flagged = client.moderations.create(model=TASK.name, input=UNSURE).results[0]
        assert flagged.flagged is False
    _stored(day)
    found = {row.text: row for row in day.records()}
    assert found[FRAUD].teacher_scores == {"intent": SCORES["fraud"], "flags": FLAGS}
    assert (found[FRAUD].failure, found[FRAUD].student_labels) == ("", None)
    stats = day.stats()["tasks"][TASK.name]
    assert stats["serving"]["student"] == "no_student"
    series = f'understudy_escalations_total{{reason="no_student",task="{TASK.name}"}}'
    assert day.metric(series) == len(day.records()) == 4


def test_every_protocol_shows_a_task_without_a_student(day: Process) -> None:
    (task,) = _get(day, "/v1/tasks")["tasks"]
    assert [head["name"] for head in task["heads"]] == ["intent", "flags"]
    assert (task["bundle"], task["limits"]["read_tokens"]) == ("no_student", None)
    assert _get(day, "/readyz")
    about = _get(day, f"/v2/models/{TASK.name}")
    assert about["versions"] == ["no_student"]
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [FRAUD]}]}
    said = _post(day, f"/v2/models/{TASK.name}/infer", body)
    assert said["model_version"] == "no_student"
    assert {each["name"]: each["data"] for each in said["outputs"]}["intent"] == ["fraud"]
    info = _get(day, "/info?head=intent")
    assert (info["model_sha"], info["model_dtype"]) == (None, "no_student")
    (first, *_rest) = _post(day, "/predict", {"inputs": FRAUD, "head": "intent"})
    assert (first["label"], round(first["score"], 3)) == ("fraud", 0.8)


def _stored(day: Process) -> None:
    """Wait until every record is in the database, which no reply waits for."""
    until(lambda: day.stats()["records"]["waiting"] == 0)


def _get(day: Process, path: str) -> Any:
    return httpx2.get(f"{day.url}{path}", timeout=TIMEOUT_S).raise_for_status().json()


def _post(day: Process, path: str, body: Any) -> Any:
    return httpx2.post(f"{day.url}{path}", json=body, timeout=TIMEOUT_S).raise_for_status().json()


def test_the_first_student_comes_and_goes_while_requests_do(day: Process, tmp_path: Path) -> None:
    day.ask(FRAUD)
    _stored(day)
    out = tmp_path / "first.jsonl"
    config = ("--config", day.config)
    said = understudy("handover", *config, "--task", TASK.name, "--since", "1d", "--out", out)
    assert f"examples of {TASK.name} in {out}" in said.out
    rows = {row.text: row for row in examples.read(out)}
    assert rows[FRAUD].labels == {"intent": "fraud", "flags": ()}
    assert rows[FRAUD].scores == {"intent": SCORES["fraud"], "flags": FLAGS}
    assert (rows[FRAUD].source, rows[FRAUD].propensity, rows[FRAUD].chosen) == (
        "teacher",
        1.0,
        False,
    )

    bundle = tiny_bundle(tmp_path)
    admin = ("--admin", day.url)
    assert "is added to" in understudy("students", "add", bundle, *admin).out
    assert "previous: no_student" in understudy("students", "swap", bundle.name, *admin).out
    assert day.ask(CONFIDENT)["route"] == "student"
    assert day.ask(UNSURE)["reason"] == "low_confidence"
    assert "no_student serves" in understudy("students", "rollback", *admin).out
    told = day.ask(CONFIDENT)
    assert {name: told[name] for name in NO_STUDENT} == NO_STUDENT
    assert "no_student" in understudy("students", "list", *admin).out


def test_a_restart_keeps_the_student_that_was_added_and_a_drain_loses_nothing(
    tmp_path: Path, model: FaultServer
) -> None:
    path = _settings(tmp_path, model)
    bundle = tiny_bundle(tmp_path)
    with closing(Process(path)) as process:
        understudy("students", "add", bundle, "--admin", process.url)
        understudy("students", "swap", bundle.name, "--admin", process.url)
        assert process.leave(signal.SIGTERM) == 0
    with closing(Process(path)) as process:
        assert process.ask(CONFIDENT)["route"] == "student"
        understudy("students", "rollback", "--admin", process.url)
        assert process.leave(signal.SIGTERM) == 0
    with closing(Process(path)) as process:
        assert process.ask(CONFIDENT)["reason"] == "no_student"
        assert process.leave(signal.SIGTERM) == 0

"""One turn of the flywheel: records of a gateway, and a candidate beside its student.

The records are written as a gateway writes them; the gateway that takes the candidate is a process,
and the student is trained in earnest from a tiny network of random weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import yaml

from distill import improve
from distill.demo import tickets
from gateway.contract import examples
from gateway.contract.bundle import open_bundle
from gateway.contract.manifest import Head, HeadKind
from gateway.store.database import open_database, writing
from gateway.store.intake import keep
from gateway.types import Answer, Audit, HeadPrediction, Instance, Prediction, Reason
from tests.acceptance import shop as shops
from tests.acceptance.command import Ran, understudy
from tests.acceptance.process import Process
from tests.gateway.telemetry.answers import confident, escalated

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.xdist_group("pipeline")]

OWN = {each.text: each.urgency for each in tickets.generate(240, seed=3)}
LIVE = {each.text: each.urgency for each in tickets.generate(500, seed=5) if each.text not in OWN}
URGENCY = Head(name="urgency", kind=HeadKind.CHOICE, labels=tuple(sorted(set(OWN.values()))))
AUDITED = 0.25  # of what a student was sure of
TRAINING = {
    "epochs": 2,
    "batch": 16,
    "learning_rate": 1.0e-3,
    "head_learning_rate": 1.0e-2,
    "losses": [{"name": "kl", "temperature": 1.0}],
}


def said(label: str) -> Prediction:
    sure = np.array([each == label for each in URGENCY.labels], np.float32)
    return Prediction(
        heads=(HeadPrediction("urgency", (label,), 1.0, sure),),
        score=1.0,
        truncated=False,
        bundle="large",
        asked=(URGENCY,),
    )


def record(database: Path) -> None:
    """Every second text went to the teacher, of the rest every fourth was audited."""
    answers: list[Answer] = []
    audits: list[Audit] = []
    for number, (text, label) in enumerate(LIVE.items()):
        about = Instance(text)
        if number % 2:
            sent = escalated(number, teacher=said(label), reason=Reason.LOW_CONFIDENCE)
            answers.append(replace(sent, task="urgency", instance=about))
            continue
        sure = confident(number, task="urgency", audit_propensity=AUDITED)
        answers.append(replace(sure, instance=about, student=said(label), prediction=said(label)))
        if number % 8 == 0:
            audits.append(Audit(answers[-1], said(label), 10, 0.1))
    engine = open_database(database)
    with writing(engine).begin() as connection:
        keep(connection, answers, audits, text="full")
    engine.dispose()


@dataclass(frozen=True)
class Turn:
    """What was said without a gateway, beside one that compares nobody, and beside one that does.

    `more` is a round after these.
    """

    folder: Path
    url: str
    lost: Ran
    idle: Ran
    done: Ran
    more: Ran
    students: dict[str, Any]


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turn]:
    folder = tmp_path_factory.mktemp("flywheel")
    shops.pretrain(folder / "base")
    own = "".join(
        json.dumps({"text": text, "urgency": label}) + "\n" for text, label in OWN.items()
    )
    (folder / "own.jsonl").write_text(own)
    content = {
        "version": 1,
        "task": "urgency",
        "data": {
            "path": "own.jsonl",
            "heads": {"urgency": {"kind": "choice", "column": "urgency"}},
        },
        "teacher": {"base": "base"},
        "student": {"layers": [0], "augment": 0, "training": TRAINING},
        "certificate": {"alpha": 0.6},
    }
    recipe, config = folder / "recipe.yaml", folder / "understudy.yaml"
    recipe.write_text(yaml.safe_dump(content))
    task = {
        "heads": {"urgency": {"kind": "choice", "labels": list(URGENCY.labels)}},
        "student": {"run_in": "threads", "workers": 1},
        "teacher": {"scripted": {"labels": {"urgency": URGENCY.labels[0]}}},
    }
    settings = {"version": 1, "tasks": {"urgency": task}, "records": {"text": "full"}}
    config.write_text(yaml.safe_dump(settings))
    record(folder / "understudy.db")
    command = ("improve", "--recipe", recipe, "--config", config)
    with shops.one_thread():
        lost = understudy(*command, "--admin", "http://127.0.0.1:9")
        quiet = {"urgency": task | {"shadow": {"share": 0}}}
        (folder / "quiet.yaml").write_text(yaml.safe_dump(settings | {"tasks": quiet}))
        with closing(Process(folder / "quiet.yaml")) as process:
            idle = understudy(*command, "--admin", process.url)
        with closing(Process(config)) as process:
            done = understudy(*command, "--admin", process.url)
            students = httpx2.get(f"{process.url}/admin/v1/students", timeout=60).json()
            more = understudy(*command, "--admin", process.url, "--since", "1m")
        yield Turn(folder, process.url, lost, idle, done, more, students)


def test_a_round_ends_with_a_candidate_and_says_what_to_watch(turn: Turn) -> None:
    assert turn.done.status == 0, turn.done.err
    bundle = open_bundle(turn.folder / "bundles" / "student")
    assert f"round 1: {bundle.name} is a candidate at {turn.url}" in turn.done.out
    assert "understudy shadow status" in turn.done.out
    (task,) = turn.students["tasks"]
    roles = {each["name"]: each["role"] for each in task["bundles"]}
    assert roles[bundle.name] == "candidate"
    added = json.loads((turn.folder / improve.ROUNDS / "1" / improve.ADDED).read_text())
    assert added == {"bundle": bundle.name, "id": bundle.id, "urls": [turn.url]}


def test_the_student_learns_own_rows_and_traffic_and_is_certified_on_traffic(turn: Turn) -> None:
    provenance = open_bundle(turn.folder / "bundles" / "student").manifest.provenance
    assert set(provenance.data) == {"data: own.jsonl", "handover: handover.jsonl"}
    told = "rows of the traffic that was handed over, each of which had the same chance, 0.25"
    assert told in turn.lost.err
    rows = provenance.rows
    # Half of the texts were escalated and an eighth audited: the even sample has a quarter of all,
    # and a good part of the numbered ones are known to the own data.
    assert 10 < rows["certification"] < 0.4 * len(LIVE) / 4 * 1.5
    assert rows["train"] > len(OWN) + len(LIVE) / 4
    (point,) = open_bundle(turn.folder / "bundles" / "student").manifest.operating_points
    assert point.certificate is not None
    assert (point.certificate.labels, point.certificate.rows) == ("teacher", rows["certification"])


def test_a_round_that_was_interrupted_goes_on_with_what_it_has(turn: Turn) -> None:
    assert turn.lost.status == 1
    assert "4/4 add it as a candidate" in turn.lost.err
    assert "train: kept from an earlier start" not in turn.lost.err
    for step in ("handover.jsonl", "train: kept from an earlier start"):
        assert step in turn.done.err
    assert f"kept from an earlier start: {turn.folder}" in turn.done.err


def test_a_student_that_is_not_compared_is_no_candidate_and_the_round_goes_on(turn: Turn) -> None:
    assert turn.idle.status == 1
    assert "is not compared there: " in turn.idle.err
    assert "shadow.share is 0" in turn.idle.err


def test_a_student_that_traffic_has_taught_is_not_linked_in_the_place_of_another(
    turn: Turn,
) -> None:
    before = (turn.folder / "bundles" / "student").resolve()
    content = yaml.safe_load((turn.folder / "recipe.yaml").read_text())
    (turn.folder / "bolder.yaml").write_text(
        yaml.safe_dump(content | {"certificate": {"alpha": 0.5}})
    )
    file = turn.folder / improve.ROUNDS / "1" / improve.HANDOVER
    other = understudy("distill", "--recipe", turn.folder / "bolder.yaml", "--from-handover", file)
    assert other.status == 0, other.err
    assert (turn.folder / "bundles" / "student").resolve() == before
    (added,) = [line for line in other.out.splitlines() if "understudy students add" in line]
    name = added.split("/")[-1]
    assert name != before.name
    assert open_bundle(turn.folder / "bundles" / name).name == name


def test_the_next_round_begins_anew_and_leaves_nothing_that_it_cannot_use(turn: Turn) -> None:
    assert turn.more.status == 2
    assert "there is nothing to hand over" in turn.more.err
    assert list((turn.folder / improve.ROUNDS / "2").iterdir()) == []


def test_the_same_is_distilled_from_a_handover_by_name(turn: Turn) -> None:
    recipe = turn.folder / "recipe.yaml"
    file = turn.folder / improve.ROUNDS / "1" / improve.HANDOVER
    bundle = open_bundle(turn.folder / "bundles" / "student")
    again = understudy("distill", "--recipe", recipe, "--from-handover", file)
    assert again.status == 0, again.err
    assert f"/{bundle.name}  (" in again.out
    assert "train: kept from an earlier start" in again.err

    hard = turn.folder / "hard.jsonl"
    examples.write(hard, [row for row in examples.read(file) if row.chosen])
    biased = understudy("distill", "--recipe", recipe, "--from-handover", hard)
    assert biased.status == 2
    assert "were escalated by a student, and none was audited" in biased.err
    no_lines = understudy("distill", "--recipe", recipe, "--from-handover", recipe)
    assert (no_lines.status, "no Example lines" in no_lines.err) == (2, True)


def test_a_recipe_of_another_task_is_refused(turn: Turn) -> None:
    recipe = turn.folder / "recipe.yaml"
    other = understudy("improve", "--recipe", recipe, "--task", "mail")
    assert (other.status, "is of the task urgency" in other.err) == (2, True)
    config = turn.folder / "understudy.yaml"
    content = yaml.safe_load(config.read_text())
    content["tasks"] = {"mail": content["tasks"]["urgency"]}
    (turn.folder / "other.yaml").write_text(yaml.safe_dump(content))
    strange = understudy("improve", "--recipe", recipe, "--config", turn.folder / "other.yaml")
    assert (strange.status, "there is no task 'urgency'" in strange.err) == (2, True)

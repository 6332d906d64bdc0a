"""The rounds of the flywheel: what a resumed one goes on with, and what it takes anew.

The records are real, and so is the check of the new student; what is distilled is a tiny bundle,
for here it does not matter how it was taught.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from distill import improve, pipeline
from distill.improve import Gateways
from distill.pipeline import Sealed
from distill.progress import Narrator
from distill.recipe import DataPlan, HeadPlan, Recipe
from gateway.contract import certificate
from gateway.contract.bundle import open_bundle
from gateway.contract.manifest import HeadKind
from gateway.errors import StageFailed, UnderstudyError, UsageError
from gateway.store.database import open_database, writing
from gateway.store.intake import keep
from gateway.types import HeadPrediction, Instance, Prediction, Reason
from tests.factories import TASK, settings_file, tiny_bundle
from tests.gateway.contract.test_certificate import issued
from tests.gateway.telemetry.answers import escalated

NOWHERE = ["http://127.0.0.1:9"]  # no gateway listens there


@dataclass
class Rounds:
    """A project whose next student is the bundle `next`, and what was said of the last try."""

    folder: Path
    next: Path
    policy: dict[str, object]
    said: str = ""

    def go(self, *, since: str | None = None, fresh: bool = False) -> UnderstudyError:
        """One try; it ends at the latest where the candidate would be sent to a gateway."""
        config = settings_file(
            self.folder,
            student=self.folder / "serving",
            policy=self.policy,
            records={"text": "full", "path": "records.db"},
        )
        plan = DataPlan(
            path=self.folder / "own.jsonl",
            heads={"intent": HeadPlan(kind=HeadKind.CHOICE, column="intent")},
        )
        recipe = Recipe(version=1, task=TASK.name, data=plan, folder=self.folder)
        told = io.StringIO()
        narrator = Narrator(Console(file=told, width=400))
        with pytest.raises(UnderstudyError) as ended:
            improve.improve(recipe, Gateways(config, NOWHERE), narrator, since=since, fresh=fresh)
        self.said = told.getvalue()
        return ended.value

    @property
    def handovers(self) -> list[str]:
        """The rounds that have examples."""
        files = (self.folder / improve.ROUNDS).glob(f"*/{improve.HANDOVER}")
        return sorted(each.parent.name for each in files)


@pytest.fixture
def rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rounds:
    (tmp_path / "own.jsonl").write_text(json.dumps({"text": "a", "intent": "refund"}) + "\n")
    (tmp_path / "serving").symlink_to(tiny_bundle(tmp_path / "bundles"))
    said = Prediction(
        heads=tuple(
            HeadPrediction(head.name, labels, 1.0, np.zeros(len(head.labels), np.float32))
            for head, labels in zip(TASK.heads, (("refund",), ()), strict=True)
        ),
        score=1.0,
        truncated=False,
        bundle="large",
        asked=TASK.heads,
    )
    answers = [
        replace(
            escalated(number, teacher=said, reason=Reason.REQUESTED),
            instance=Instance(f"text {number}"),
        )
        for number in range(5)
    ]
    engine = open_database(tmp_path / "records.db")
    with writing(engine).begin() as connection:
        keep(connection, answers, [], text="full")
    engine.dispose()
    found = Rounds(tmp_path, tiny_bundle(tmp_path / "made", seed=1), policy={})

    def distilled(*_: object) -> Sealed:
        return Sealed(open_bundle(found.next), tmp_path / "report.html", {})

    monkeypatch.setattr(pipeline, "distill", distilled)
    return found


def test_a_resumed_round_refuses_examples_since_another_time(rounds: Rounds) -> None:
    assert not isinstance(rounds.go(since="1970-01-01"), (StageFailed, UsageError))
    assert rounds.handovers == ["1"]
    refused = rounds.go(since="7d")
    assert isinstance(refused, UsageError)
    assert refused.message == "--since 7d: this round has the examples since 1970-01-01"
    assert refused.mend == "leave --since out to go on with it, or begin a new round with --fresh"
    for since in (None, "1970-01-01"):
        rounds.go(since=since)
        assert "kept from an earlier start" in rounds.said
    rounds.go(fresh=True)
    assert rounds.handovers == ["1", "2"]
    assert "since the beginning" in rounds.go(since="1d").message


def test_what_could_not_be_handed_over_is_not_remembered(rounds: Rounds) -> None:
    assert "nothing to hand over" in rounds.go(since="1m").message
    assert list((rounds.folder / improve.ROUNDS / "1").iterdir()) == []
    rounds.go(since="1970-01-01")
    assert rounds.handovers == ["1"]


def test_a_student_that_would_answer_nothing_costs_its_examples(rounds: Rounds) -> None:
    good, rounds.next = rounds.next, tiny_bundle(rounds.folder / "worse", threshold=None)
    failed = rounds.go()
    assert isinstance(failed, StageFailed)
    assert "has no certified threshold" in failed.message
    assert rounds.handovers == []
    rounds.next = good
    rounds.go(since="1970-01-01")  # other examples may be taken: the round has none
    assert "kept from an earlier start" not in rounds.said
    assert "answers from a score of 0.9 on" in rounds.said


def test_a_try_after_that_takes_examples_since_the_same_time(rounds: Rounds) -> None:
    """None of the records is of the last minute."""
    rounds.next = tiny_bundle(rounds.folder / "worse", threshold=None)
    assert isinstance(rounds.go(since="1970-01-01"), StageFailed)
    assert rounds.handovers == []
    assert "nothing to hand over" in rounds.go(since="1m").message
    rounds.go()  # as it is told to
    noted = rounds.folder / improve.ROUNDS / "1" / improve.SINCE
    exactly = "1970-01-01T00:00:00+00:00"
    assert json.loads(noted.read_text()) == {"since": "1970-01-01", "exactly": exactly}


def test_the_new_student_is_checked_without_the_certificate_of_another(rounds: Rounds) -> None:
    """Under the serving student's certificate it would leave everything to the teacher."""
    rounds.policy = {"certificate": "certificate.json"}
    certificate.write(rounds.folder / "certificate.json", issued())
    rounds.go()
    assert "answers from a score of 0.9 on" in rounds.said
    due = "(5 in 500 rows); to serve it needs a certificate in the place of certificate.json"
    assert due in rounds.said
    rounds.policy = {}
    rounds.go()
    assert "to serve it needs" not in rounds.said

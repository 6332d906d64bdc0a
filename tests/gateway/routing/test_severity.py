"""What mistakes cost, and when that is worth a call: expected losses worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gateway.contract.manifest import Head, HeadKind
from gateway.errors import SettingsError
from gateway.routing import severity
from gateway.routing.severity import HeadCosts, Loss, Severity, Table
from gateway.types import HeadPrediction, Prediction

INTENT = Head(name="intent", kind=HeadKind.CHOICE, labels=("refund", "fraud", "other"))
FLAGS = Head(name="flags", kind=HeadKind.FLAGS, labels=("urgent", "legal"))


def choice(said: str, *probabilities: float) -> HeadPrediction:
    return HeadPrediction(
        "intent", (said,), max(probabilities), np.array(probabilities, np.float32)
    )


def flags(said: tuple[str, ...], *probabilities: float) -> HeadPrediction:
    return HeadPrediction("flags", said, 0.5, np.array(probabilities, np.float32))


def whole(*heads: HeadPrediction) -> Prediction:
    return Prediction(heads=heads, score=0.9, truncated=False, bundle="b" * 64)


def costs(
    head: Head,
    table: Table | None = None,
    taught: dict[str, float] | None = None,
    *,
    right_may_cost: bool = False,
) -> HeadCosts:
    return severity.costs_of(
        head, table or {}, taught or {}, where="here", right_may_cost=right_may_cost
    )


def test_without_a_table_the_expected_loss_is_the_chance_of_being_wrong() -> None:
    said = choice("refund", 0.75, 0.125, 0.125)
    assert costs(INTENT).student(said) == pytest.approx(0.25)
    assert costs(INTENT).teacher(said) == 0.0
    assert costs(INTENT).largest == 1.0


def test_the_expected_loss_weighs_what_is_true_against_what_was_said() -> None:
    """Said refund: 1/8 is fraud, which costs 40, and 1/8 other, which costs 1 as by default."""
    table = {"fraud": {"refund": 40.0}, "refund": {"fraud": 2.0}}
    dear = costs(INTENT, table)
    assert dear.student(choice("refund", 0.75, 0.125, 0.125)) == pytest.approx(5.125)
    assert dear.student(choice("fraud", 0.25, 0.5, 0.25)) == pytest.approx(0.75)
    assert dear.largest == 40.0


def test_the_gain_is_the_students_loss_less_the_teachers() -> None:
    dear = costs(INTENT, {"fraud": {"refund": 40.0}}, {"fraud": 4.0, "other": 8.0})
    said = choice("refund", 0.5, 0.25, 0.25)
    assert dear.student(said) == pytest.approx(10.25)
    assert dear.teacher(said) == pytest.approx(3.0)
    assert dear.gain(said) == pytest.approx(7.25)


def test_a_flag_costs_where_it_is_missed_and_where_it_is_raised_for_nothing() -> None:
    """Legal said at 3/4: raised for nothing in 1/4, at 2. Urgent unsaid at 1/8: missed, at 16."""
    table = {"urgent": {"missed": 16.0}, "legal": {"missed": 8.0, "raised": 2.0}}
    dear = costs(FLAGS, table, {"legal": 0.5})
    said = flags(("legal",), 0.125, 0.75)
    assert dear.student(said) == pytest.approx(16 * 0.125 + 2 * 0.25)
    assert dear.teacher(said) == pytest.approx(0.375)
    assert dear.gain(said) == pytest.approx(2.5 - 0.375)
    assert dear.largest == 24.0


def test_a_realised_loss_is_what_the_answer_cost() -> None:
    table = {"fraud": {"refund": 40.0}}
    assert costs(INTENT, table).realised(("refund",), ("fraud",)) == 40.0
    assert costs(INTENT, table).realised(("refund",), ("refund",)) == 0.0
    of_flags = costs(FLAGS, {"urgent": {"missed": 16.0}, "legal": {"raised": 2.0}})
    assert of_flags.realised(("legal",), ("urgent",)) == 18.0
    assert of_flags.realised((), ()) == 0.0


def test_one_call_answers_all_heads_so_their_gains_add_up() -> None:
    both = Severity((costs(INTENT), costs(FLAGS)), bar=0.5)
    said = whole(choice("refund", 0.75, 0.25, 0.0), flags((), 0.25, 0.125))
    assert both.gain(said) == pytest.approx(0.625)
    assert both.holds(said)
    assert both.losses(said) == (Loss("intent", 0.25, 0.0), Loss("flags", 0.375, 0.0))
    assert both.dearest(said) == "flags"
    assert both.largest == 3.0
    truth = {"intent": ("fraud",), "flags": ("urgent", "legal")}
    assert both.realised(said, truth) == 3.0


@pytest.mark.parametrize(
    ("bar", "holds"), [(0.25, False), (math.nextafter(0.25, 0.0), True), (math.inf, False)]
)
def test_a_gain_of_just_the_price_is_no_reason_to_call(bar: float, holds: bool) -> None:  # noqa: FBT001
    said = whole(choice("refund", 0.75, 0.25, 0.0))
    assert Severity((costs(INTENT),), bar=bar).holds(said) is holds


def test_a_gain_that_is_no_number_is_worth_a_call() -> None:
    assert Severity((costs(INTENT),), bar=9.0).holds(whole(choice("refund", math.nan, 0.0, 0.0)))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"theft": {"refund": 1.0}}, "there is no 'theft' there"),
        ({"fraud": {"theft": 1.0}}, "there is no 'theft' there"),
        ({"fraud": {"refund": -1.0}}, "fraud said as refund costs -1"),
        ({"fraud": {"refund": math.inf}}, "fraud said as refund costs inf"),
        ({"fraud": {"fraud": 1.0}}, "fraud said as fraud is right and costs 1"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(table: Table, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        costs(INTENT, table)


def test_a_right_answer_may_cost_something_where_that_is_said() -> None:
    dear = costs(INTENT, {"fraud": {"fraud": 2.0}}, right_may_cost=True)
    assert dear.realised(("fraud",), ("fraud",)) == 2.0


def test_a_teachers_loss_belongs_to_a_label_of_the_head() -> None:
    with pytest.raises(SettingsError, match="there is no 'theft'"):
        costs(INTENT, None, {"theft": 1.0})


def test_a_table_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "severity.csv"
    path.write_text("true,refund,fraud\nfraud,40,0\n\nother, 2 ,3.5\n")
    assert severity.read(path, where="here") == {
        "fraud": {"refund": 40.0, "fraud": 0.0},
        "other": {"refund": 2.0, "fraud": 3.5},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no table of costs"),
        ("true,refund\n", "is no table of costs"),
        ("true,refund\nfraud\n", "line 2: 1 cells for 2 columns"),
        ("true,refund\nfraud,1\nfraud,2\n", "line 3: 2 cells for 2 columns, or a label"),
        ('true,"refund\n', "severity.csv"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "severity.csv"
    path.write_text(content)
    with pytest.raises(SettingsError, match=message):
        severity.read(path, where="here")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"here: .*severity\.csv"):
        severity.read(tmp_path / "severity.csv", where="here")


def test_a_cell_that_is_no_number_is_refused_with_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "severity.csv"
    path.write_text("true,refund\nfraud,dear\n")
    with pytest.raises(SettingsError, match="fraud said as refund costs nan"):
        costs(INTENT, severity.read(path, where="here"))


def critical(threshold: float = 0.25) -> severity.Critical:
    named = {"intent": ["fraud"], "flags": ["legal"]}
    return severity.critical_of((INTENT, FLAGS), named, threshold, where="here")


@pytest.mark.parametrize(
    ("intent", "said", "mass"),
    [
        (choice("refund", 0.75, 0.125, 0.125), flags((), 0.5, 0.25), 0.375),
        (choice("fraud", 0.25, 0.5, 0.25), flags((), 0.5, 0.25), 0.25),  # fraud is said
        (choice("refund", 0.75, 0.125, 0.125), flags(("legal",), 0.0, 0.75), 0.125),
        (choice("fraud", 0.25, 0.5, 0.25), flags(("legal",), 0.0, 0.75), 0.0),
    ],
)
def test_critical_labels_that_are_not_said_add_up(
    intent: HeadPrediction, said: HeadPrediction, mass: float
) -> None:
    assert critical().mass(whole(intent, said)) == mass
    assert critical().holds(whole(intent, said)) is (mass >= 0.25)


@pytest.mark.parametrize(
    ("intent", "flagged", "concerned", "missed"),
    [
        ("fraud", (), True, True),
        ("refund", (), False, False),
        ("refund", ("legal", "urgent"), True, True),
        ("refund", ("urgent",), False, False),
    ],
)
def test_a_critical_label_is_missed_where_it_is_so_and_was_not_said(
    intent: str, flagged: tuple[str, ...], *, concerned: bool, missed: bool
) -> None:
    said = whole(choice("refund", 0.75, 0.125, 0.125), flags((), 0.5, 0.25))
    truth = {"intent": (intent,), "flags": flagged}
    assert critical().concerns(truth) is concerned
    assert critical().missed(said, truth) is missed


def test_where_all_critical_labels_are_said_no_threshold_escalates() -> None:
    said = whole(choice("fraud", 0.25, 0.5, 0.25), flags(("legal",), 0.0, 0.75))
    assert not critical(threshold=0.0).holds(said)
    unsaid = whole(choice("refund", 1.0, 0.0, 0.0), flags((), 0.0, 0.0))
    assert not critical(threshold=0.0).holds(unsaid)  # as sure as can be that there is none
    assert critical(threshold=0.0).holds(whole(choice("refund", 0.9, 0.1, 0.0), flags((), 0, 0)))


def test_of_a_choice_any_critical_label_that_is_said_will_do() -> None:
    both = severity.critical_of((INTENT,), {"intent": ["fraud", "other"]}, 0.0, where="here")
    said = whole(choice("other", 0.0, 0.5, 0.5))
    assert both.mass(said) == 0.0
    assert not both.missed(said, {"intent": ("fraud",)})


@pytest.mark.parametrize("named", [{"mood": ["bad"]}, {"intent": ["theft"]}])
def test_a_critical_label_that_the_task_has_not_is_refused(named: dict[str, list[str]]) -> None:
    with pytest.raises(SettingsError, match=r"there is no '(mood|theft)' there"):
        severity.critical_of((INTENT, FLAGS), named, 0.0, where="here")

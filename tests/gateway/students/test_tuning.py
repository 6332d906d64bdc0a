"""Tuning: what is measured is chosen, and holds for that bundle on such a host only."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import orjson
import pytest

from gateway import cli, cores
from gateway.contract.bundle import Bundle, open_bundle
from gateway.errors import StudentFailed
from gateway.settings import TaskSettings
from gateway.students import tuning
from gateway.students.student import Session, Student
from gateway.students.tuning import Trial, Tuning
from gateway.succession.students import open_batcher, open_student, start_workers
from gateway.telemetry.metrics import Metrics
from gateway.types import Prediction
from tests.factories import CONFIDENT, UNSURE, settings_file, tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(tiny_bundle(tmp_path))


def task(bundle: Bundle, **student: object) -> TaskSettings:
    """Settings that serve this bundle."""
    told = {"bundle": bundle.path, **student}
    return TaskSettings.model_validate({"student": told, "teacher": {"scripted": {}}})


class Clockwork:
    """A session whose calls take 6 ms and 2 ms a token, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0

    def run(self, rows: Sequence[Sequence[int]]) -> None:
        """Let the time of a call pass."""
        self.now += 0.006 + 0.002 * len(rows) * len(rows[0])


def test_a_call_costs_what_the_line_through_its_times_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clockwork()
    monkeypatch.setattr("gateway.students.tuning.time.perf_counter", lambda: clock.now)
    assert tuning.fit_call_tokens(cast("Session", clock)) == pytest.approx(3.0)


def test_the_fastest_way_is_chosen() -> None:
    trials = [Trial(1, 1, 500.0), Trial(1, 2, 700.0), Trial(2, 1, 900.0)]
    assert tuning.chosen(trials) == Trial(2, 1, 900.0)
    assert tuning.chosen([Trial(2, 1, 500.0), Trial(1, 2, 700.0)]) == Trial(1, 2, 700.0)


def test_more_threads_have_to_be_worth_it() -> None:
    assert tuning.chosen([Trial(2, 1, 900.0), Trial(1, 2, 920.0)]) == Trial(2, 1, 900.0)


def test_every_way_that_fits_the_cores_is_tried(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "available", lambda: 2)
    start = functools.partial(start_workers, "one", task(bundle, run_in="threads"))
    choice, trials = asyncio.run(tuning.measure(bundle, [CONFIDENT, UNSURE], start, seconds=0.03))
    assert [(each.workers, each.threads) for each in trials] == [(1, 1), (1, 2), (2, 1)]
    assert all(each.texts_per_second > 0 for each in trials)
    assert (choice.workers, choice.threads) in {(1, 1), (1, 2), (2, 1)}
    assert choice.call_tokens >= 0.0


def deaf(_student: Student, texts: Sequence[str]) -> list[Prediction]:
    """In place of Student.predict: the student of this process answers nothing."""
    raise RuntimeError(f"{len(texts)} texts were run in the process of the event loop")


def test_a_student_that_serves_in_processes_is_measured_in_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cores, "available", lambda: 1)
    monkeypatch.setattr(Student, "predict", deaf)
    path = settings_file(tmp_path, run_in="processes")
    with pytest.raises(SystemExit) as leaving:
        cli.main(["tune", "--config", str(path), "--seconds", "0.1", "--json"])
    assert leaving.value.code in {0, None}
    found = orjson.loads(capsys.readouterr().out)["tickets"]
    (trial,) = found["trials"]
    assert (trial["workers"], trial["threads"]) == (1, 1)
    assert trial["texts_per_second"] > 0
    kept = orjson.loads((tmp_path / "understudy.tuned.json").read_bytes())["bundles"]
    assert list(kept.values()) == [found["choice"]]


def test_texts_of_ones_own_are_measured_and_the_choice_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cores, "available", lambda: 1)
    (tmp_path / "texts.txt").write_text(f"{CONFIDENT}\n\n{UNSURE}\n")
    path = settings_file(tmp_path)
    told = ["tune", "--config", str(path), "--seconds", "0.1", "--texts"]
    with pytest.raises(SystemExit):
        cli.main([*told, str(tmp_path / "texts.txt")])
    said = capsys.readouterr().out
    assert f"next: understudy serve --config {path}" in said
    (tmp_path / "texts.txt").write_text("\n")
    for name, problem in (("texts.txt", "no text in it"), ("none.txt", "No such file")):
        with pytest.raises(SystemExit) as leaving:
            cli.main([*told, str(tmp_path / name)])
        assert leaving.value.code == 2
        assert problem in capsys.readouterr().err


def test_a_text_that_cannot_be_answered_ends_the_measuring(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "available", lambda: 1)
    monkeypatch.setattr(Student, "predict", deaf)
    start = functools.partial(start_workers, "one", task(bundle, run_in="threads"))
    with pytest.raises(StudentFailed, match="RuntimeError: 1 texts were run"):
        asyncio.run(tuning.measure(bundle, [CONFIDENT], start, seconds=0.03))


def test_a_choice_is_kept_beside_those_of_other_bundles(bundle: Bundle, tmp_path: Path) -> None:
    path, other = tmp_path / "tuned.json", open_bundle(tiny_bundle(tmp_path, seed=1))
    tuning.save(path, bundle, Tuning(1, 2, 3.5))
    tuning.save(path, other, Tuning(2, 1, 4.5))
    assert tuning.load(path, bundle) == Tuning(1, 2, 3.5)
    assert tuning.load(path, other) == Tuning(2, 1, 4.5)
    assert list(tmp_path.glob("tmp*")) == []


def test_a_student_is_run_as_it_was_tuned_where_the_settings_say_auto(
    bundle: Bundle, tmp_path: Path
) -> None:
    tuning.save(tmp_path / "understudy.tuned.json", bundle, Tuning(3, 2, 1.5))
    tuned = tmp_path / "understudy.tuned.json"

    async def workers(**student: object) -> int:
        settings = task(bundle, run_in="threads", tuning=tuned, **student)
        opened = open_student(settings, bundle)
        batcher = await open_batcher("one", settings, opened, Metrics([opened.task]))
        await batcher.close()
        return len(batcher._places)

    assert asyncio.run(workers()) == 3
    assert asyncio.run(workers(workers=1)) == 1


@pytest.mark.parametrize("part", ["bundle", "host", "workers", "all"])
def test_what_was_measured_elsewhere_is_not_used(bundle: Bundle, tmp_path: Path, part: str) -> None:
    path = tmp_path / "tuned.json"
    tuning.save(path, bundle, Tuning(7, 2, 3.5))
    content = orjson.loads(path.read_bytes())
    if part == "bundle":
        content["bundles"] = {"0" * 64: content["bundles"][bundle.id]}
    elif part == "host":
        content["host"]["cores"] += 1
    elif part == "workers":
        content["bundles"][bundle.id]["workers"] = "many"
    else:
        content = []
    path.write_bytes(orjson.dumps(content))
    assert tuning.load(path, bundle) == Tuning(workers=cores.available())


def test_a_new_host_starts_a_new_file(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_bytes(orjson.dumps({"host": {}, "bundles": {"old": {}}}))
    tuning.save(path, bundle, Tuning(1))
    assert orjson.loads(path.read_bytes())["bundles"].keys() == {bundle.id}


def test_without_a_file_the_cores_decide(bundle: Bundle, tmp_path: Path) -> None:
    assert tuning.load(tmp_path / "none.json", bundle) == tuning.untuned()

"""The story around its acts: settings that a gateway takes, and what an earlier telling leaves."""

from __future__ import annotations

from pathlib import Path

from distill.story import cast, performance
from distill.story.clerk import Clerk
from distill.story.performance import Plan
from gateway import settings


def test_its_settings_are_what_a_gateway_takes(tmp_path: Path) -> None:
    bundle = tmp_path / "first" / "bundles" / "tickets-1"
    performance._write_settings(Plan(tmp_path), {cast.FIRST: bundle}, "http://127.0.0.1:9/v1")
    task = settings.load(tmp_path / settings.FILE).tasks["tickets"]
    assert task.student.bundle == bundle
    assert task.teacher.openai is not None
    assert task.teacher.openai.url == "http://127.0.0.1:9/v1"
    assert [step.share for step in task.promotion.steps] == [0.01, 0.05, 0.25, 1.0]
    assert task.alarms.action == "rollback"


def test_what_was_served_is_forgotten_and_what_was_learnt_is_kept(tmp_path: Path) -> None:
    cast.write(tmp_path, Clerk(), cast.School(tickets=20), seed=0)
    for name in ("understudy.db", "understudy.db-wal", "commands.log", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "students").mkdir()
    (tmp_path / "better" / "runs").mkdir()
    performance._forget(tmp_path, trained=False)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"worse", "first", "equal", "better", "notes.txt"}
    assert (tmp_path / "better" / "runs").is_dir()
    performance._forget(tmp_path, trained=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

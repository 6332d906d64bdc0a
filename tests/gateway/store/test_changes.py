"""The log of changes on real databases: chained, exact over processes, open about what is gone."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ColumnElement, Engine, delete, insert, literal_column, update

from gateway.cli import main
from gateway.errors import LogUnavailable, UsageError
from gateway.store.changes import Anchor, Changes, Entry, Fault, What, latest, verify
from gateway.store.database import open_database
from gateway.store.tables import changes, changes_end
from tests.factories import settings_file
from tests.gateway.store.conftest import PATIENT_S, SOON

NOON = 1_700_049_600.0  # 2023-11-15 12:00:00 UTC
NOTHING = "0" * 64
NOTER = Path(__file__).with_name("noter.py")


@pytest.fixture
def log(database: str | Path) -> Iterator[Engine]:
    """A database of each kind that is waited for."""
    engine = open_database(database, busy_s=PATIENT_S)
    yield engine
    engine.dispose()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Engine]:
    """A database where its kind makes no difference."""
    engine = open_database(tmp_path / "kept.db")
    yield engine
    engine.dispose()


def fill(engine: Engine, rows: int = 5) -> Anchor:
    """Add so many rows, each of them another student's."""
    written = Changes(engine, clock=lambda: NOON)
    for number in range(rows):
        written.append(
            Entry(
                what=What.SWAP,
                who="ops",
                task="tickets",
                old=f"tickets-{number}",
                new=f"tickets-{number + 1}",
                why="it knows “refunds” better",
                evidence={"threshold": 0.1 + 0.2, "gates": ["G1", "G2"]},
            )
        )
    return verify(engine).end


def alter(engine: Engine, *statements: object) -> None:
    """Do to the tables what no gateway does."""
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def test_a_row_holds_the_hash_of_the_one_before_and_its_own(log: Engine) -> None:
    fill(log, 2)
    second, first = latest(log, 10)
    assert (first.number, first.previous) == (1, NOTHING)
    said = {
        "number": 2, "at": NOON, "task": "tickets", "who": "ops", "what": "swap",
        "old": "tickets-1", "new": "tickets-2", "why": "it knows “refunds” better",
        "evidence": {"threshold": 0.1 + 0.2, "gates": ["G1", "G2"]}, "previous": first.hash,
    }  # fmt: skip
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert second.hash == hashlib.sha256(canonical.encode()).hexdigest()
    assert verify(log).end == Anchor(2, second.hash)


def test_a_log_that_nobody_touched_fits_and_so_does_an_empty_one(kept: Engine) -> None:
    assert verify(kept).flaw is None
    assert verify(kept).end == Anchor(0, NOTHING)
    early = fill(kept, 2)
    end = fill(kept, 3)
    assert end.number == 5
    assert verify(kept, early).flaw is None


@pytest.mark.parametrize(
    "altered",
    [
        {"who": "nobody"}, {"at": NOON + 1.0}, {"new": "tickets-9"}, {"why": ""},
        {"task": None}, {"evidence": {"gates": []}}, {"hash": "f" * 64}, {"previous": "f" * 64},
    ],
    ids=lambda altered: next(iter(altered)),
)  # fmt: skip
def test_a_row_that_was_edited_is_named(kept: Engine, altered: dict[str, object]) -> None:
    fill(kept)
    alter(kept, update(changes).where(changes.c.number == 3).values(**altered))
    flaw = verify(kept).flaw
    assert flaw is not None
    assert (flaw.number, flaw.fault) == (3, Fault.EDITED)


UNREADABLE: Mapping[str, ColumnElement[Any]] = {
    "evidence": literal_column("'{no json'"), "who": literal_column("CAST(x'6f70ff' AS TEXT)"),
    "why": literal_column("x'ff00'"), "task": literal_column("x'c3'"),
}  # fmt: skip


@pytest.mark.parametrize("column", UNREADABLE)
def test_a_row_whose_edit_is_no_json_or_no_utf_8_is_named_and_shown(
    kept: Engine, column: str
) -> None:
    fill(kept)
    third = update(changes).where(changes.c.number == 3)
    alter(kept, third.values({column: UNREADABLE[column]}))
    flaw = verify(kept).flaw
    assert flaw is not None
    assert (flaw.number, flaw.fault) == (3, Fault.EDITED)
    shown = [getattr(row, column) for row in latest(kept, 3)]
    assert shown[:2] == [getattr(row, column) for row in latest(kept, 2)]
    assert shown[2] is None if column == "evidence" else "\ufffd" in shown[2]


def test_of_replicas_that_start_at_once_one_notes_it(log: Engine) -> None:
    begun = threading.Event()

    def second() -> None:
        begun.set()
        Changes(log).start("tickets", "tickets-1", who="start")

    other = threading.Thread(target=second)

    def amid() -> float:  # the log is locked, and what the first has compared is not written yet
        other.start()
        assert begun.wait(SOON)
        return NOON

    Changes(log, clock=amid).start("tickets", "tickets-1", who="start")
    other.join(SOON)
    Changes(log).start("mails", "no_student", who="start")
    Changes(log).start("tickets", "tickets-2", who="start")
    told = [(row.number, row.task, row.old, row.new) for row in latest(log, 9)]
    assert told == [
        (3, "tickets", "tickets-1", "tickets-2"),
        (2, "mails", None, "no_student"),
        (1, "tickets", None, "tickets-1"),
    ]


def test_a_row_that_was_withdrawn_does_not_say_who_serves(log: Engine) -> None:
    changes = Changes(log)

    def note(what: What, old: str, new: str) -> None:
        changes.append(Entry(what=what, who="ann", task="tickets", old=old, new=new))

    changes.start("tickets", "one", who="start")
    note(What.SWAP, "one", "two")
    note(What.WITHDRAWN, "two", "one")
    changes.start("tickets", "one", who="start")
    assert [row.what for row in latest(log, 9)] == ["withdrawn", "swap", "start"]
    note(What.SWAP, "one", "two")
    note(What.SWAP, "two", "three")
    note(What.ROLLBACK, "two", "one")  # it was faster, and its row too
    note(What.WITHDRAWN, "three", "two")
    changes.start("tickets", "one", who="start")
    assert latest(log, 1)[0].what == "withdrawn"


def test_rows_that_are_gone_are_named_wherever_they_stood(kept: Engine) -> None:
    fill(kept)
    alter(kept, delete(changes).where(changes.c.number == 5))
    last = verify(kept).flaw
    alter(kept, delete(changes).where(changes.c.number == 3))
    middle = verify(kept).flaw
    alter(kept, delete(changes).where(changes.c.number == 1))
    first = verify(kept).flaw
    alter(kept, delete(changes))
    assert [(each.number, each.fault) for each in (last, middle, first) if each] == [
        (5, Fault.DELETED),
        (3, Fault.DELETED),
        (1, Fault.DELETED),
    ]
    everything = verify(kept).flaw
    assert everything is not None
    assert everything.words == "row 1 is missing: the log ends at row 5"


def test_a_row_that_no_gateway_added_is_named(kept: Engine) -> None:
    fill(kept)
    last = latest(kept, 1)[0]
    forged = replace(last, number=6, previous=last.hash)
    forged = replace(forged, hash=forged.computed())
    alter(kept, insert(changes).values(**forged.content(), hash=forged.hash))
    added = verify(kept).flaw
    assert added is not None
    assert (added.number, added.fault) == (6, Fault.INSERTED)
    alter(kept, update(changes).where(changes.c.number == 6).values(number=0))
    before = verify(kept).flaw
    assert before is not None
    assert (before.number, before.fault) == (0, Fault.INSERTED)


def test_a_row_that_was_replaced_with_its_hash_no_longer_has_its_successor(kept: Engine) -> None:
    fill(kept)
    third = next(row for row in latest(kept, 5) if row.number == 3)
    forged = replace(third, who="nobody")
    there = update(changes).where(changes.c.number == 3)
    alter(kept, there.values(who="nobody", hash=forged.computed()))
    flaw = verify(kept).flaw
    assert flaw is not None
    assert (flaw.number, flaw.fault) == (4, Fault.UNLINKED)


def test_a_last_row_that_was_replaced_is_not_the_one_with_which_the_log_ended(kept: Engine) -> None:
    fill(kept)
    forged = replace(latest(kept, 1)[0], who="nobody")
    there = update(changes).where(changes.c.number == 5)
    alter(kept, there.values(who="nobody", hash=forged.computed()))
    flaw = verify(kept).flaw
    assert flaw is not None
    assert (flaw.number, flaw.fault) == (5, Fault.REWRITTEN)


def test_who_rewrites_the_end_too_is_found_by_an_anchor_and_by_nothing_else(log: Engine) -> None:
    anchor = fill(log)
    fourth = next(row for row in latest(log, 5) if row.number == 4)
    cut = update(changes_end).values(number=4, hash=fourth.hash)
    alter(log, delete(changes).where(changes.c.number == 5), cut)
    assert verify(log).flaw is None
    missing = verify(log, anchor).flaw
    assert missing is not None
    assert (missing.number, missing.fault) == (5, Fault.DELETED)
    Changes(log).append(Entry(what=What.ROLLBACK, who="ops"))
    assert verify(log).flaw is None
    other = verify(log, anchor).flaw
    assert other is not None
    assert (other.number, other.fault) == (5, Fault.REWRITTEN)


def test_without_its_end_the_log_takes_no_row_and_says_why(log: Engine) -> None:
    fill(log, 2)
    alter(log, delete(changes_end))
    flaw = verify(log).flaw
    assert flaw is not None
    assert (flaw.number, flaw.fault) == (3, Fault.DELETED)
    with pytest.raises(LogUnavailable, match="has lost the row"):
        Changes(log).append(Entry(what=What.SWAP, who="ops"))
    assert len(latest(log, 10)) == 2


def test_several_entries_are_noted_all_or_none(kept: Engine) -> None:
    written = Changes(kept)
    written.append(Entry(what=What.RELOAD, who="ops"), Entry(what=What.RELOAD, who="ops", task="a"))
    assert verify(kept).end.number == 2
    with pytest.raises(TypeError):
        written.append(
            Entry(what=What.RELOAD, who="ops"),
            Entry(what=What.RELOAD, who="ops", evidence={"x": object()}),
        )
    assert verify(kept).end.number == 2


def started(database: str | Path, wish: str, number: int) -> subprocess.Popen[str]:
    """A process that says when it is ready to note, and begins when it is told a line."""
    return subprocess.Popen(
        [sys.executable, NOTER, str(database), wish, str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env={"PYTHONPATH": "."},
    )


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_add_to_one_chain_and_one_that_is_killed_leaves_nothing_half(
    database: str | Path, log: Engine
) -> None:
    writers = [started(database, "note", 10 + number) for number in range(2)]
    killed = started(database, "hold", 1)
    assert [heard(each) for each in (*writers, killed)] == ["ready"] * 3
    tell(killed)
    assert heard(killed) == "held"  # it has the log locked
    for each in writers:
        tell(each)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=SOON)
    for each in writers:
        each.communicate(timeout=SOON)
        assert each.returncode == 0
    assert verify(log).flaw is None
    rows = latest(log, 100)
    assert sorted(row.number for row in rows) == list(range(1, 22))
    assert {row.who for row in rows} == {"note-10", "note-11"}


def test_a_database_that_is_locked_takes_no_row(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    engine, other = open_database(path, busy_s=0.01), open_database(path)
    with (
        other.execution_options(understudy_begin="BEGIN EXCLUSIVE").begin(),
        pytest.raises(LogUnavailable, match="locked"),
    ):
        Changes(engine).append(Entry(what=What.SWAP, who="ops"))
    assert verify(engine).end.number == 0
    engine.dispose()
    other.dispose()


@pytest.mark.parametrize("given", ["", "5", "five:" + NOTHING, "5:" + "0" * 63, "5:" + "G" * 64])
def test_what_is_no_anchor_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="no anchor"):
        Anchor.parse(given)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings whose database has five changes."""
    path = settings_file(tmp_path)
    engine = open_database(tmp_path / "records.db")
    fill(engine)
    engine.dispose()
    return path


def run(*arguments: object) -> int:
    """Run a command in this process; returns its exit status."""
    with pytest.raises(SystemExit) as leaving:
        main([str(each) for each in arguments])
    return int(leaving.value.code or 0)


def test_the_command_lists_the_newest_changes(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("changes", "list", "--config", config, "--limit", 2) == 0
    shown = capsys.readouterr().out
    assert "tickets-5" in shown
    assert "2023-11-15 12:00:00+00:00" in shown
    assert run("changes", "list", "--config", config, "--task", "other", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run("changes", "list", "--config", config, "--since", "2023-11-16", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run("changes", "list", "--config", config, "--json") == 0
    numbers = [row["number"] for row in json.loads(capsys.readouterr().out)]
    assert numbers == [5, 4, 3, 2, 1]


def test_the_command_gives_an_anchor_and_names_the_first_row_that_does_not_fit(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("changes", "verify", "--config", config) == 0
    anchor = capsys.readouterr().out.split()[-1]
    assert run("changes", "verify", "--config", config, "--anchor", anchor, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 5, "anchor": anchor, "flaw": None}
    engine = open_database(tmp_path / "records.db")
    alter(engine, update(changes).where(changes.c.number == 3).values(who="nobody"))
    engine.dispose()
    assert run("changes", "verify", "--config", config) == 1
    assert "row 3 does not say what its hash was made of (edited)" in capsys.readouterr().err
    assert run("changes", "verify", "--config", config, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["flaw"]["number"], found["flaw"]["fault"]) == (2, 3, "edited")

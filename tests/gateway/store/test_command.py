"""`understudy records`: what it prints, writes, deletes, and refuses."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import cli
from gateway.store.database import open_database, writing
from gateway.store.intake import keep
from gateway.store.records import Selection, count
from gateway.store.writer import Account, RecordWriter
from tests.factories import settings_file
from tests.gateway.store.conftest import SOON
from tests.gateway.store.times import DAY, NOON, at
from tests.gateway.telemetry.answers import audit, confident, prediction
from tests.postgres import Cluster

DAYS = 5


class Desk:
    """A settings file whose database holds an audited answer for each of some days."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], where: str | Path) -> None:
        key = {"path": where.name} if isinstance(where, Path) else {"url": where}
        self.config = settings_file(folder, records=key)
        self._capsys = capsys
        self._where = where
        answers = [at(NOON + day * DAY, text=f"day {day}") for day in range(DAYS)]
        engine = open_database(where)
        with writing(engine).begin() as connection:
            keep(connection, answers, [audit(each, prediction()) for each in answers], text="full")
        engine.dispose()

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of a command."""
        with pytest.raises(SystemExit) as leaving:
            cli.main(
                [
                    "records",
                    *(str(each) for each in arguments),
                    *(["--config", str(self.config)] if arguments else []),
                ]
            )
        printed = self._capsys.readouterr()
        return int(leaving.value.code or 0), printed.out, printed.err

    def left(self) -> int:
        """How many records there are."""
        engine = open_database(self._where)
        try:
            return count(engine, Selection()).records
        finally:
            engine.dispose()


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], database: str | Path) -> Desk:
    """Five days of records, in each kind of database."""
    return Desk(tmp_path, capsys, database)


def texts(lines: str) -> list[str]:
    return [json.loads(line)["text"] for line in lines.splitlines()]


def test_alone_it_shows_its_commands(desk: Desk) -> None:
    _, out, err = desk.run()
    for name in ("query", "export", "purge"):
        assert name in out + err


@pytest.mark.parametrize(
    ("options", "days"),
    [
        ([], [4, 3, 2, 1, 0]),
        (["--limit", 2], [4, 3]),
        (["--since", "2026-01-03T12:00:00"], [4, 3, 2]),
        (["--since", "2026-01-03T13:00:00+01:00"], [4, 3, 2]),
        (["--until", "2026-01-02"], [0]),
        (["--task", "mail"], []),
        (["--route", "student", "--reason", "confident", "--limit", 1], [4]),
    ],
)
def test_records_are_chosen(desk: Desk, options: list[object], days: list[int]) -> None:
    _, out, _ = desk.run("query", "--json", *options)
    assert [each["text"] for each in json.loads(out)] == [f"day {day}" for day in days]


def test_an_export_is_json_lines_of_the_oldest_first(desk: Desk) -> None:
    status, out, _ = desk.run("export", "--since", "2026-01-04")
    assert (status, texts(out)) == (0, ["day 3", "day 4"])
    assert json.loads(out.splitlines()[0])["labels"] == {"intent": ["refund"], "risk": []}


def test_an_export_to_a_file_is_there_when_it_is_whole(desk: Desk, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    _, out, _ = desk.run("export", "--output", target)
    assert out == f"{DAYS} records in {target}\n"
    assert texts(target.read_text()) == [f"day {day}" for day in range(DAYS)]
    assert list(tmp_path.glob(".out*")) == []


def test_an_export_that_fails_leaves_the_file_that_was_there(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("of yesterday")

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    status, _, err = desk.run("export", "--output", target)
    assert status == 2
    assert "No space left on device" in err
    assert target.read_text() == "of yesterday"
    assert list(tmp_path.glob(".out*")) == []


def test_a_reader_that_has_seen_enough_ends_an_export_quietly(tmp_path: Path) -> None:
    config = settings_file(tmp_path)
    engine = open_database(tmp_path / "records.db")
    with writing(engine).begin() as connection:  # more than a pipe holds
        keep(connection, [confident(number) for number in range(2000)], [], text="hash")
    engine.dispose()
    command = [sys.executable, "-m", "gateway", "records", "export", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_purge_counts_and_deletes_nothing_without_yes(desk: Desk) -> None:
    status, out, _ = desk.run("purge", "--before", "2026-01-03")
    assert status == 0
    assert "2 records and 2 audits would go" in out
    assert "--yes" in out
    assert desk.left() == DAYS


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--before", "2026-01-03"], 3),
        (["--older-than", 0], 0),
        (["--text", "day 2"], 4),
        (["--text-sha256", hashlib.sha256(b"day 2").hexdigest()], 4),
    ],
)
def test_a_purge_deletes_what_it_is_told(desk: Desk, options: list[object], left: int) -> None:
    _, out, _ = desk.run("purge", *options, "--yes")
    assert out.startswith(f"{DAYS - left} records are gone")
    assert desk.left() == left


def test_a_text_may_come_from_standard_input(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("day 4\n"))
    desk.run("purge", "--text", "-", "--yes")
    assert desk.left() == DAYS - 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["purge", "--yes"], "by one option"),
        (["purge", "--before", "2026-01-01", "--text", "x"], "by one option"),
        (["purge", "--before", "yesterday"], "neither a date nor a time"),
        (["purge", "--text-sha256", "abc"], "no SHA-256"),
        (["query", "--route", "nobody"], "no such one"),
        (["export", "--output", "/nowhere/at/all"], "No such file"),
    ],
)
def test_what_makes_no_sense_is_refused(desk: Desk, options: list[object], word: str) -> None:
    status, _, err = desk.run(*options)
    assert status == 2
    assert word in err
    assert desk.left() == DAYS


def test_where_there_are_no_records_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings_file(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        cli.main(["records", "query", "--config", str(config)])
    assert leaving.value.code == 2
    assert "there are no records" in capsys.readouterr().err
    assert not (tmp_path / "records.db").exists()


def test_a_purge_works_beside_a_writer(desk: Desk, database: str | Path) -> None:
    engine = open_database(database)
    writer = RecordWriter(engine)
    for number in range(200):
        writer.answered(at(NOON + number, text="new"))
    status, out, _ = desk.run("purge", "--text", "day 0", "--yes")
    assert (status, out) == (0, "1 records are gone, with their audits\n")
    writer.close(SOON)
    engine.dispose()
    assert writer.records == Account(offered=200, stored=200, dropped=0)


def test_the_password_of_a_url_is_never_printed(
    tmp_path: Path,
    cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = cluster.new_database().replace("understudy@", "understudy:hunter2@")
    monkeypatch.setenv("UNDERSTUDY_RECORDS_URL", url)
    config = settings_file(tmp_path)
    for command in (["check"], ["check", "--json"], ["records", "query"]):
        with pytest.raises(SystemExit) as leaving:
            cli.main([*command, "--config", str(config)])
        assert not leaving.value.code
    monkeypatch.setenv("UNDERSTUDY_RECORDS_URL", url.replace("/test", "/no_such"))
    with pytest.raises(SystemExit) as leaving:
        cli.main(["records", "query", "--config", str(config)])
    assert leaving.value.code == 2
    said = "".join(capsys.readouterr())
    assert "records.url" in said
    assert "hunter2" not in said

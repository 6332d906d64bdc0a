"""What was served before a restart counts after it, by SQLite and PostgreSQL alike."""

from __future__ import annotations

import asyncio
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update
from structlog.testing import capture_logs

from gateway import recall, settings
from gateway.assembly import Gateway, open_gateway
from gateway.shadow.account import Audited, Served
from gateway.shadow.served import ServedQuality
from gateway.store import history, intake, tables
from gateway.store.database import writing
from gateway.store.records import Selection
from gateway.types import Answer, Coin, Instance, Terms
from tests.factories import CONFIDENT, UNSURE, settings_file, tiny_bundle
from tests.gateway.telemetry.answers import TICKETS, audit, confident, escalated, prediction

WRONG = "fraud is what it says"  # the teacher of these tests says refund to all
TEXTS = (CONFIDENT, WRONG, UNSURE, CONFIDENT, "maybe fraud", WRONG)
NOW = 1_700_000_100.0  # after the answers of the factory


async def served(gateway: Gateway, rows: int) -> Served:
    """What is known once so many rows are counted or void."""
    while True:
        found = gateway.quality.served("tickets")
        assert found is not None
        if found.whole.rows + found.void >= rows:
            return found
        await asyncio.sleep(0.01)


def figures(found: Served) -> tuple[list[Any], list[float]]:
    """All numbers, in the order of their names."""
    parts: dict[tuple[str, str], Any] = {("", ""): found.whole}
    parts |= {("head", name): rate for name, rate in found.heads.items()}
    for slices in (found.labels, found.fields):
        parts |= {(name, value): each for name, of in slices.items() for value, each in of.items()}
    rates = [number for place in sorted(parts) for number in astuple(parts[place])]
    numbers = [0.0 if each is None else each for each in rates]
    return [*sorted(parts), found.unmeasured, found.since], numbers


def test_the_figures_after_a_restart_are_those_before_it(
    database: str | Path, tmp_path: Path
) -> None:
    key = "path" if isinstance(database, Path) else "url"
    path = settings_file(
        tmp_path,
        teacher={"scripted": {"labels": {"intent": "refund"}}},
        tickets={"audit": {"share": 0.3, "targeted": 0.5, "slices": ["tier"]}},
        records={key: str(database), "text": "full"},
    )

    async def work() -> None:
        async with open_gateway(settings.load(path)) as gateway:
            for number in range(120):
                instance = Instance(TEXTS[number % 6], {"tier": f"tier {number % 2}"})
                await gateway.answer(None, [instance], Terms())
                await gateway.successions["tickets"].auditor.close()
            before = await served(gateway, 120)
        assert before.whole.audits > 10
        assert before.whole.upper is not None
        async with open_gateway(settings.load(path)) as gateway:
            after = await served(gateway, 120)
            assert figures(after)[0] == figures(before)[0]
            assert figures(after)[1] == pytest.approx(figures(before)[1])
            await gateway.answer(None, [Instance(UNSURE)], Terms())
            assert (await served(gateway, 121)).since == before.since

    asyncio.run(work())


def test_a_swap_and_a_restart_with_another_student_begin_alike(tmp_path: Path) -> None:
    new = tiny_bundle(tmp_path / "bundles", seed=1)

    def load(student: Path | None = None) -> settings.Settings:
        return settings.load(
            settings_file(tmp_path, student=student, tickets={"audit": {"share": 0.5}})
        )

    async def asked(gateway: Gateway, rows: int) -> None:
        for _ in range(rows):
            await gateway.answer(None, [Instance(CONFIDENT)], Terms())
        await gateway.successions["tickets"].auditor.close()

    async def work() -> None:
        async with open_gateway(load()) as gateway:
            await asked(gateway, 20)
            await served(gateway, 20)
            succession = gateway.successions["tickets"]
            await asyncio.to_thread(succession.registry.keep, new)
            await succession.swap(new.name, by="test")
            assert (await served(gateway, 0)).since is None
            await asked(gateway, 7)
            before = await served(gateway, 7)
        async with open_gateway(load()) as gateway:  # who serves goes on, and no other
            after = await served(gateway, 7)
            assert figures(after)[0] == figures(before)[0]
            assert figures(after)[1] == pytest.approx(figures(before)[1])
            assert after.whole.rows + after.void == 7
        third = tiny_bundle(tmp_path / "bundles", seed=3)
        async with open_gateway(load(third)) as gateway:
            await asked(gateway, 1)
            assert (await served(gateway, 1)).whole.rows <= 1
            recalled = [each for each in asyncio.all_tasks() if "recall" in repr(each)]
            await asyncio.gather(*recalled)
            found = await served(gateway, 1)
            assert found.whole.rows + found.void == 1

    asyncio.run(work())


def timed(answer: Answer) -> Answer:
    """The answer by a name that has its time in it, as real ones do."""
    digits = f"{round(answer.at * 1000):012x}"
    return replace(answer, id=f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000")


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """A database of seven answers: the third was drawn and is wrong, the sixth drawn in vain."""
    drawn = timed(confident(3, coin=Coin.UNIFORM, audit_propensity=0.5))
    rest = [timed(confident(number, audit_propensity=0.5)) for number in (1, 2, 4)]
    skipped = timed(confident(6, coin=Coin.UNIFORM, audit_propensity=0.5))
    taught = [
        timed(escalated(number, student=prediction(), teacher=prediction())) for number in (5, 7)
    ]
    answers = [*rest, drawn, skipped, *taught]
    with writing(engine).begin() as connection:
        intake.keep(connection, answers, [audit(drawn, prediction("login"))], text="hash")
    return engine


def counted(engine: Engine, *, now: float = NOW) -> Served:
    """What is found of that database."""
    quality = ServedQuality([TICKETS])
    quality.follow("tickets", Audited(any=True, fields={"tier": ()}))
    asyncio.run(recall.recall(engine, quality, ["tickets"], now=now))
    found = quality.served("tickets")
    assert found is not None
    return found


def test_rows_drawn_and_judged_count_and_those_of_a_skipped_audit_are_void(filled: Engine) -> None:
    found = counted(filled)
    assert (found.whole.rows, found.whole.audits, found.void) == (4, 1, 3)
    assert found.whole.estimate == pytest.approx((3 * 0.28 + 0.72 / 0.5) / 4)
    assert found.heads["intent"].estimate == pytest.approx((3 * 0.1 + 0.9 / 0.5) / 4)
    assert found.fields == {"tier": {}}  # fields are kept with the text alone
    assert found.since == 1_700_000_001.0


def test_what_is_older_than_a_week_counts_no_more(filled: Engine) -> None:
    week = 7 * 86_400.0
    assert counted(filled, now=1_700_000_005.0 + week).whole.rows == 1  # and two are void
    assert counted(filled, now=1_700_000_008.0 + week).since is None


def test_rows_of_a_version_that_kept_less_and_all_before_them_are_left_out(filled: Engine) -> None:
    with writing(filled).begin() as connection:
        old = tables.records.c.at == 1_700_000_004.0
        connection.execute(update(tables.records).where(old).values(auditable=None))
    found = counted(filled)
    assert (found.whole.rows, found.whole.audits, found.void) == (1, 0, 2)


def test_the_newest_are_read_when_there_are_too_many_and_in_pages(filled: Engine) -> None:
    wanted = Selection(task="tickets")
    read = [
        [each.answer.at % 10 for each in page]
        for page in history.pages(filled, wanted, most=5, page=2)
    ]
    assert read == [[3, 4], [5, 6], [7]]
    assert list(history.pages(filled, Selection(task="mails"), most=5)) == []


def test_where_the_records_cannot_be_read_the_figures_begin_anew(filled: Engine) -> None:
    with writing(filled).begin() as connection:
        connection.exec_driver_sql("DROP TABLE audits")
    with capture_logs() as logs:
        assert counted(filled).whole.rows == 0
    assert [(line["event"], line["task"]) for line in logs] == [
        ("the served error begins anew", "tickets")
    ]

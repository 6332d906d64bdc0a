"""What was served before the start counts in the served error after it.

The records keep every coin, every propensity and every audit, so the figures of the time before are
found again, in the background and a little at a time. Nothing waits for that: until it is done, and
where the database does not give the records, the figures are of the time since the start, and the
log says so. What is found is of the student that serves, back to the newest answer of another one.
Replicas share their records, so it is what all of them served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

import structlog

from gateway.shadow.served import Past, ServedQuality
from gateway.store import history
from gateway.store.database import Database
from gateway.store.history import Remembered
from gateway.store.records import Selection

_WINDOW_S = 7 * 86_400.0  # one week: each day of it has the traffic of its kind
_MOST = (
    200_000  # answers of a task, some 4,000 audits at the default share: more bounds little more
)
_PAUSE_S = 0.02  # between two pages of some milliseconds: most of the time is for those who ask

_log = structlog.get_logger(__name__)


async def recall(
    engine: Database, quality: ServedQuality, tasks: Iterable[str], *, now: float
) -> None:
    """Count what was served of these tasks in the week up to `now`, in seconds since the epoch."""
    for task in tasks:
        try:
            await _recall(engine, quality, task, now)
        except Exception as error:  # noqa: BLE001  figures cost nobody an answer
            _log.warning("the served error begins anew", task=task, error=type(error).__name__)


async def _recall(engine: Database, quality: ServedQuality, task: str, now: float) -> None:
    past, answers = quality.past(task), 0
    wanted = Selection(task=task, since=now - _WINDOW_S, until=now)
    pages = history.pages(engine, wanted, most=_MOST)
    while counted := await asyncio.to_thread(_count, pages, past):
        answers += counted
        await asyncio.sleep(_PAUSE_S)
    quality.absorb(past)
    if answers:
        _log.info("the served error goes on", task=task, answers=answers)


def _count(pages: Iterator[Sequence[Remembered]], past: Past) -> int:
    """Count the answers of one page; returns how many they are."""
    page = next(pages, ())
    for each in page:
        if each.whole:
            past.answered(each.answer, each.audit, fields=each.fields)
        else:
            past.forget()
    return len(page)

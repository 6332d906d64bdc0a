"""A teacher that is asked for each text of the data: by the classes and the guard that serve.

What it says is kept as it comes, so that a killed run asks nothing twice; what it costs is summed,
and a limit ends the asking in order. An answer that cannot be used is counted and its text left
out. It refuses to go on with a teacher that stays down, or that it cannot pay for.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, Self

import orjson

from distill.data.deduplicate import deduplicate
from distill.data.sources import Corpus
from distill.progress import Advance, Narrator
from distill.recipe import Recipe
from distill.run import Run
from distill.workspace import Workspace
from gateway.contract.examples import Example, Label
from gateway.contract.manifest import HeadKind
from gateway.errors import (
    RecipeError,
    StageFailed,
    TeacherError,
    TeacherGarbled,
    TeacherLimited,
    TeacherRefused,
    UnderstudyError,
)
from gateway.rungs import open_teacher
from gateway.settings import BreakerSettings, TeacherSettings
from gateway.teachers.base import Said
from gateway.teachers.guard import Guard
from gateway.telemetry.pricing import Prices, micro_usd
from gateway.types import Instance, Prediction

ANSWERS = "answers.jsonl"  # in the run's folder: a line for each text that was asked

_TRIES = 9  # of one text at a teacher that is down: two minutes in all
_LONGEST_PAUSE_S = 30.0  # between two of them
_HOPELESS = 20  # answers, the first ones, of which none can be used: the rest would be no better
_WRONG = frozenset({401, 403, 404})  # how servers refuse a key, an account or a model
_DIGITS = 4  # of a stored probability
_MICRO = 1_000_000  # micro-USD in a USD

Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the teacher said of a text; `labels` is None where that could not be used.

    `cost` is in micro-USD, failed attempts included; None: not known.
    """

    labels: Mapping[str, Label] | None
    scores: Mapping[str, Mapping[str, float]]
    cost: int | None


@dataclass(frozen=True, slots=True)
class Interview:
    """What came of asking: the teacher's name, and its answers by `key` of the row."""

    teacher: str
    answers: Mapping[str, Answer] = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of all that was said."""
        said = [[key, each.labels, each.scores] for key, each in sorted(self.answers.items())]
        return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def taught(self, corpus: Corpus) -> Corpus:
        """The corpus with what was said, without the texts of which nothing usable was said.

        Labels that are there stay, and the teacher's scores stand beside them.
        """
        labelled = corpus.labels is not None
        return replace(
            corpus,
            examples=tuple(self._taught(corpus.examples, labelled=labelled)),
            test=tuple(self._taught(corpus.test, labelled=labelled)),
        )

    def _taught(self, rows: Sequence[Example], *, labelled: bool) -> Iterator[Example]:
        for row in rows:
            answer = self.answers.get(key(row))
            if answer is None:
                yield row
            elif answer.labels is not None and (labelled or row.labels):
                yield replace(row, scores=answer.scores)
            elif answer.labels is not None:
                yield replace(row, labels=answer.labels, scores=answer.scores, source="teacher")


def key(row: Example) -> str:
    """What a text and its fields are called in the book of answers."""
    asked = orjson.dumps([row.text, dict(row.fields)], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(asked).hexdigest()[:24]


def hold(
    recipe: Recipe,
    corpus: Corpus,
    workspace: Workspace,
    narrator: Narrator,
    *,
    sleep: Sleep = asyncio.sleep,
) -> Interview:
    """Ask the recipe's `teacher.ask` for all texts of which no teacher has said anything yet.

    Raises SettingsError for a teacher that cannot be opened, StageFailed where it is down or the
    money is spent: started again, it goes on where it ended.
    """
    rows = [
        row
        for part in (corpus.examples, corpus.test)
        for row in deduplicate(part)[0]
        if not row.scores and not (row.labels and row.source == "teacher")
    ]
    return asyncio.run(_hold(recipe, corpus, rows, workspace, narrator, sleep))


async def _hold(
    recipe: Recipe,
    corpus: Corpus,
    rows: Sequence[Example],
    workspace: Workspace,
    narrator: Narrator,
    sleep: Sleep,
) -> Interview:
    ask = recipe.teacher.ask
    if ask is None:
        raise RecipeError("teacher.ask names no teacher", mend="name one as understudy.yaml does")
    guard = await open_teacher(_unhurried(ask.anchored(recipe.folder)), corpus.task)
    inputs: dict[str, object] = {
        "teacher": guard.name,
        "task": corpus.task.model_dump(mode="json"),
        "script": ask.scripted and ask.scripted.model_dump(mode="json"),  # its name says nothing
    }
    prices = Prices(recipe.prices.teacher_usd_per_1000)
    limit = None if recipe.teacher.max_usd is None else micro_usd(recipe.teacher.max_usd)
    try:
        with Run.open(workspace.runs, "answers", inputs=inputs) as run, Book(run.folder) as book:
            with narrator.bar("the teacher is asked") as bar:
                session = _Session(guard, book, prices.teacher_call, limit, sleep)
                await session.ask({key(row): row for row in rows}, ask.concurrency, bar)
            narrator.note(_told(book, rows))
            wanted = {key(row) for row in rows}
            return Interview(guard.name, {k: v for k, v in book.answers.items() if k in wanted})
    finally:
        await guard.close()


def _unhurried(ask: TeacherSettings) -> TeacherSettings:
    """The teacher without a breaker, unless the recipe sets one.

    Online it spares those who wait; here nobody does, and the session knows when to give up.
    """
    if "breaker" in ask.model_fields_set:
        return ask
    patient = BreakerSettings(failures=10**6, calls=1024, error_ratio=1.0, slow_ratio=1.0)
    return ask.model_copy(update={"breaker": patient})


def _told(book: Book, rows: Sequence[Example]) -> str:
    found = [book.answers[key(row)] for row in rows]
    unusable = sum(each.labels is None for each in found)
    parts = [f"  {len(found):,} texts answered"]
    if unusable:
        parts.append(f"{unusable:,} of them unusable, and left out")
    parts.append(f"all that was asked so far {book.bill}")
    return "; ".join(parts)


class Book:
    """The answers of one teacher on disk, a line each, written as they come.

    A line that a kill cut short is cut off; its text is asked again.
    """

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, Answer] = {}
        path = folder / ANSWERS
        whole = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                self._read(line, path)
                whole += len(line)
        self._file: IO[bytes] = path.open("ab")
        self._file.truncate(whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def keep(self, name: str, answer: Answer) -> None:
        """Write an answer; it is with the system when this returns."""
        line = {"key": name, "labels": answer.labels, "scores": answer.scores, "cost": answer.cost}
        self._file.write(orjson.dumps(line) + b"\n")
        self._file.flush()
        self.answers[name] = answer

    @property
    def cost(self) -> int:
        """The sum of the known costs, in micro-USD."""
        return sum(each.cost or 0 for each in self.answers.values())

    @property
    def bill(self) -> str:
        """What all answers cost, in words."""
        unknown = sum(each.cost is None for each in self.answers.values())
        if unknown == len(self.answers) > 0:
            return "cost an amount that is not known"
        dark = f", and {unknown:,} calls of unknown cost" if unknown else ""
        return f"cost ${self.cost / _MICRO:.4f}{dark}"

    def _read(self, line: bytes, path: Path) -> None:
        try:
            row: dict[str, Any] = orjson.loads(line)
            labels = row["labels"]
            self.answers[row["key"]] = Answer(
                labels=None
                if labels is None
                else {k: tuple(v) if isinstance(v, list) else v for k, v in labels.items()},
                scores=row["scores"],
                cost=row["cost"],
            )
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise StageFailed(
                f"{path}: a line is no answer", mend="remove the line; its text is asked again"
            ) from error


class _Session:
    """Asks what the book does not have, many texts at once.

    What ends it lets the calls that run come to their end: they are paid for. With a `limit`, in
    micro-USD, the first call goes alone, so that it is known what one costs before many begin.
    """

    def __init__(
        self, guard: Guard, book: Book, price: int | None, limit: int | None, sleep: Sleep
    ) -> None:
        self._guard = guard
        self._book = book
        self._price = price
        self._limit = limit
        self._sleep = sleep
        self._running = 0
        self._usable = any(each.labels is not None for each in book.answers.values())
        self._dearest = max((each.cost or 0 for each in book.answers.values()), default=0)
        self._ended: UnderstudyError | None = None
        self._spent = False

    async def ask(self, rows: Mapping[str, Example], at_once: int, advance: Advance) -> None:
        """Ask all rows that are not answered, then raise what ended it, if anything did."""
        left = [(name, row) for name, row in rows.items() if name not in self._book.answers]
        queue = iter(left)
        done = len(rows) - len(left)

        async def work(most: int) -> None:
            nonlocal done
            for name, row in islice(queue, most):
                if not self._may_go_on():
                    return
                await self._one(name, row)
                done += 1
                advance(done, len(rows))

        if self._limit is not None:
            await work(1)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(left))):
                group.create_task(work(len(left)))
        self._check_ended((self._limit or 0) / _MICRO)

    def _may_go_on(self) -> bool:
        if self._limit is not None:
            booked = self._book.cost + (self._running + 1) * self._dearest
            self._spent = self._spent or booked > self._limit
        return self._ended is None and not self._spent

    def _check_ended(self, limit: float) -> None:
        """Raise what ended it before all was asked, if anything did. `limit` is in USD."""
        if self._ended is not None:
            raise self._ended
        if self._spent:
            raise StageFailed(
                f"teacher.max_usd is ${limit:.4f}, and what was asked so far {self._book.bill}",
                mend="raise teacher.max_usd and run the command again: answers are kept",
            )

    async def _one(self, name: str, row: Example) -> None:
        self._running += 1
        try:
            answer = await self._insist(row)
        except UnderstudyError as error:
            self._ended = self._ended or error
            return
        finally:
            self._running -= 1
        self._book.keep(name, answer)
        self._usable = self._usable or answer.labels is not None
        self._dearest = max(self._dearest, answer.cost or 0)
        if self._limit is not None and answer.cost is None:
            self._ended = self._ended or RecipeError(
                f"teacher.max_usd cannot be kept: what a call of {self._guard.name} costs is not "
                "known",
                mend="set prices.teacher_usd_per_1000, or the prices of its tokens in teacher.ask",
            )

    async def _insist(self, row: Example) -> Answer:
        """Ask until there is an answer, usable or not. Raises StageFailed where there is none."""
        spent: int | None = 0
        last: TeacherError | None = None
        for attempt in range(_TRIES):
            if last is not None:
                await self._sleep(_pause(last, attempt - 1))
            try:
                said = await self._guard.answer(Instance(row.text, row.fields))
            except TeacherError as error:
                spent = _sum(spent, error.bill(self._price))
                if _is_about_the_text(error):
                    return self._unusable(error, spent)
                if isinstance(error, TeacherRefused):
                    raise StageFailed(error.message, mend=f"{error.mend}; {_AGAIN}") from error
                last = error
            else:
                return _answer(said, _sum(spent, said.bill(self._price)))
        told = "" if last is None else f": {last.message}"
        raise StageFailed(f"the teacher stays down{told}", mend=f"see why; {_AGAIN}") from last

    def _unusable(self, error: TeacherError, spent: int | None) -> Answer:
        if not self._usable and len(self._book.answers) >= _HOPELESS:
            raise StageFailed(
                f"none of the first {_HOPELESS} answers can be used: {error.message}",
                mend=error.mend or "mend teacher.ask",
            ) from error
        return Answer(None, {}, spent)


_AGAIN = "then run the command again: answers are kept"


def _is_about_the_text(error: TeacherError) -> bool:
    """Whether other texts may well be answered."""
    if isinstance(error, TeacherRefused):
        return not error.lasting and error.status not in _WRONG
    return isinstance(error, TeacherGarbled)


def _pause(error: TeacherError, attempt: int) -> float:
    """Seconds until the next try: as the teacher says, or twice as long as before."""
    asked = error.retry_after if isinstance(error, TeacherLimited) else None
    return min(_LONGEST_PAUSE_S, 2.0**attempt) if asked is None else asked


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _answer(said: Said, cost: int | None) -> Answer:
    prediction = said.prediction
    kinds = {head.name: head.kind for head in prediction.asked}
    labels: dict[str, Label] = {
        each.head: each.labels[0] if kinds[each.head] is HeadKind.CHOICE else each.labels
        for each in prediction.heads
    }
    return Answer(labels, _scores(prediction), cost)


def _scores(prediction: Prediction) -> dict[str, dict[str, float]]:
    """Head -> label -> its probability; those that round to 0 are left out."""
    rounded = {
        each.head: {
            label: round(float(share), _DIGITS)
            for label, share in zip(head.labels, each.probabilities, strict=True)
        }
        for head, each in zip(prediction.asked, prediction.heads, strict=True)
    }
    return {
        head: {label: share for label, share in shares.items() if share > 0.0}
        for head, shares in rounded.items()
    }

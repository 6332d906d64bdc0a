"""A teacher that is asked for each text of the data: by the classes and the guard that serve.

What it says is kept as it comes, so that a killed run asks nothing twice; what it costs is summed,
failed tries included, and a limit ends the asking in order. An answer that cannot be used is
counted, and its text left out unless it has gold labels. It refuses to go on with a teacher that
stays down, or that it cannot pay for.
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
from gateway.bill import Billed
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
from gateway.settings import BreakerSettings, TeacherSettings
from gateway.succession.teachers import open_teacher
from gateway.teachers.base import Said
from gateway.teachers.destination import destination
from gateway.teachers.guard import Guard
from gateway.telemetry.pricing import Prices, micro_usd
from gateway.types import Instance, Prediction

ANSWERS = "answers.jsonl"  # in the run's folder: a line for each text that was asked

_TRIES = 9  # of one text at a teacher that is down: two minutes in all
_LONGEST_PAUSE_S = 30.0  # between two of them
_SHORTEST_REST_S = 1.0  # where a teacher that takes no more says how long: it may say 0, for ever
_LONGEST_REST_S = 60.0  # the guard believes no more either
_PATIENCE_S = 600.0  # of a text's pauses at one that takes no more, while no other is answered
_HOPELESS = 20  # answers, the first ones, of which none can be used: the rest would be no better
_WRONG = frozenset({401, 403, 404})  # how servers refuse a key, an account or a model
_DIGITS = 4  # of a stored probability
_MICRO = 1_000_000  # micro-USD in a USD

Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the teacher said of a text; `labels` is None where that could not be used.

    `cost` is the known part of what it cost, in micro-USD, and `unknown` the calls beside it whose
    cost nobody knows. What the guard asked again is in it; tries that failed as a whole are not.
    """

    labels: Mapping[str, Label] | None
    scores: Mapping[str, Mapping[str, float]]
    cost: int
    unknown: int = 0


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
        """The corpus with what was said, without the texts of which nothing usable is known.

        Labels that are there stay, and the teacher's scores stand beside them, where it gave any.
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
            if answer is None or (answer.labels is None and row.labels):
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
        "at": _destinations(ask),
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


def _destinations(ask: TeacherSettings) -> list[str]:
    """The servers that are asked, by their URLs: a model's name says nothing of where it runs."""
    members = [ask] if ask.ensemble is None else ask.ensemble.members.values()
    found = [each.openai or each.oip for each in members]
    return [str(destination(each.url)) for each in found if each is not None]


def _unhurried(ask: TeacherSettings) -> TeacherSettings:
    """The teacher without a breaker, unless the recipe sets one.

    Online it spares those who wait; here nobody does, and the session knows when to give up.
    """
    if "breaker" in ask.model_fields_set:
        return ask
    patient = BreakerSettings(failures=10**6, calls=1024, error_ratio=1.0, slow_ratio=1.0)
    return ask.model_copy(update={"breaker": patient})


def _told(book: Book, rows: Sequence[Example]) -> str:
    unusable = [row for row in rows if book.answers[key(row)].labels is None]
    gold = sum(bool(row.labels) for row in unusable)
    parts = [f"  {len(rows):,} texts answered"]
    if left_out := len(unusable) - gold:
        parts.append(f"{left_out:,} of them unusable, and left out")
    if gold:
        parts.append(f"{gold:,} of them unusable, whose gold labels stay")
    parts.append(f"all that was asked so far {book.bill}")
    return "; ".join(parts)


class Book:
    """The answers of one teacher on disk, a line each, written as they come.

    So are tries without an answer that may be billed. A line that a kill cut short is cut off; its
    text is asked again.
    """

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, Answer] = {}
        self.cost = 0  # all known costs, in micro-USD
        self.unknown = 0  # calls of unknown cost
        self.dearest = 0  # of one line, in micro-USD
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
        said = {"key": name, "labels": answer.labels, "scores": answer.scores}
        self._write(said | {"cost": answer.cost, "unknown": answer.unknown})
        self._add(name, answer)

    def charge(self, cost: int, unknown: int) -> None:
        """Write what a try without an answer cost: known micro-USD, and calls of unknown cost."""
        if cost or unknown:
            self._write({"key": None, "cost": cost, "unknown": unknown})
            self._add(None, Answer(None, {}, cost, unknown))

    @property
    def bill(self) -> str:
        """What all that was asked cost, in words."""
        if self.unknown and not self.cost:
            return "cost an amount that is not known"
        dark = f", and {self.unknown:,} calls of unknown cost" if self.unknown else ""
        return f"cost ${self.cost / _MICRO:.4f}{dark}"

    def _write(self, line: Mapping[str, object]) -> None:
        self._file.write(orjson.dumps(line) + b"\n")
        self._file.flush()

    def _add(self, name: str | None, answer: Answer) -> None:
        self.cost += answer.cost
        self.unknown += answer.unknown
        self.dearest = max(self.dearest, answer.cost)
        if name is not None:
            self.answers[name] = answer

    def _read(self, line: bytes, path: Path) -> None:
        try:
            row: dict[str, Any] = orjson.loads(line)
            labels = row.get("labels")
            answer = Answer(
                labels=None
                if labels is None
                else {k: tuple(v) if isinstance(v, list) else v for k, v in labels.items()},
                scores=row.get("scores", {}),
                cost=int(row["cost"]),
                unknown=int(row["unknown"]),
            )
            self._add(row["key"], answer)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise StageFailed(
                f"{path}: a line is no answer", mend="remove the line; its text is asked again"
            ) from error


class _Session:
    """Asks what the book does not have, many texts at once.

    What ends it lets the calls that run come to their end: they are paid for. With a `limit`, in
    micro-USD, calls go alone until it is known what one costs; and one whose cost nobody knows
    counts as much as the dearest that is known.
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

        for _ in left if self._limit is not None else ():
            await work(1)
            if self._knows_costs:
                break
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(left))):
                group.create_task(work(len(left)))
        self._check_ended((self._limit or 0) / _MICRO)

    @property
    def _knows_costs(self) -> bool:
        return self._price is not None or any(
            not each.unknown for each in self._book.answers.values()
        )

    def _may_go_on(self, more: int = 1) -> bool:
        """Whether so many calls may be begun beside those that run."""
        if self._limit is not None:
            dark = self._book.unknown + self._running + more
            booked = self._book.cost + dark * self._book.dearest
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
        if answer is None:
            return
        self._book.keep(name, answer)
        self._usable = self._usable or answer.labels is not None

    async def _insist(self, row: Example) -> Answer | None:
        """Ask until there is an answer, usable or not; None: the session has ended before.

        Each try that failed is booked at once. Raises StageFailed where there is no answer.
        """
        patience = _Patience(self._book)
        while True:
            try:
                said = await self._guard.answer(Instance(row.text, row.fields))
            except TeacherError as error:
                if _is_about_the_text(error):
                    return self._unusable(error)
                cost, unknown = _billed(error, self._price)
                self._book.charge(cost, unknown)
                if isinstance(error, TeacherRefused):
                    raise StageFailed(error.message, mend=f"{error.mend}; {_AGAIN}") from error
                pause = patience.pause(error)
            else:
                return self._usable_answer(said)
            if not self._may_go_on(0):
                return None
            await self._sleep(pause)
            if not self._may_go_on(0):  # others have asked meanwhile
                return None

    def _usable_answer(self, said: Said) -> Answer:
        """What was said. A limit on calls that do not say what they cost ends the session."""
        if self._limit is not None and said.asked and said.cost is None and self._price is None:
            self._ended = self._ended or RecipeError(
                f"teacher.max_usd cannot be kept: what a call of {self._guard.name} costs is not "
                "known",
                mend="set prices.teacher_usd_per_1000, or the prices of its tokens in teacher.ask",
            )
        return _answer(said, *_billed(said, self._price))

    def _unusable(self, error: TeacherError) -> Answer:
        cost, unknown = _billed(error, self._price)
        if not self._usable and len(self._book.answers) >= _HOPELESS:
            self._book.charge(cost, unknown)
            raise StageFailed(
                f"none of the first {_HOPELESS} answers can be used: {error.message}",
                mend=error.mend or "mend teacher.ask",
            ) from error
        return Answer(None, {}, cost, unknown)


class _Patience:
    """How often, and how long, one text is asked again at a teacher that gives no answer.

    A teacher that is down has a number of tries. One that only takes no more for now is not down:
    it is given up where no text at all is answered while this one waits.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._failed = 0  # tries, limits among them
        self._down = 0  # tries at a teacher that was down
        self._rested = 0.0  # seconds since a text was last answered, as far as this one waited
        self._answered = len(book.answers)

    def pause(self, error: TeacherError) -> float:
        """Seconds until the next try. Raises StageFailed where there is none."""
        limited = isinstance(error, TeacherLimited)
        if self._answered != len(self._book.answers):
            self._answered, self._rested = len(self._book.answers), 0.0
        self._down += not limited
        if self._down >= _TRIES or (limited and self._rested >= _PATIENCE_S):
            what = "takes no more" if limited else "stays down"
            raise StageFailed(
                f"the teacher {what}: {error.message}", mend=f"see why; {_AGAIN}"
            ) from error
        seconds = _pause(error, self._failed)
        self._failed += 1
        self._rested += seconds
        return seconds


_AGAIN = "then run the command again: answers are kept"


def _is_about_the_text(error: TeacherError) -> bool:
    """Whether other texts may well be answered."""
    if isinstance(error, TeacherRefused):
        return not error.lasting and error.status not in _WRONG
    return isinstance(error, TeacherGarbled)


def _pause(error: TeacherError, attempt: int) -> float:
    """Seconds until the next try: as the teacher says, or twice as long as before."""
    asked = error.retry_after if isinstance(error, TeacherLimited) else None
    if asked is None:
        return min(_LONGEST_PAUSE_S, 2.0 ** min(attempt, _TRIES))
    return min(_LONGEST_REST_S, max(_SHORTEST_REST_S, asked))


def _billed(word: Billed, price: int | None) -> tuple[int, int]:
    """The known part of a bill, in micro-USD, and the calls beside it of unknown cost."""
    whole = word.bill(price)
    if whole is not None:
        return whole, 0
    return word.cost or 0, word.unpriced + (word.cost is None)


def _answer(said: Said, cost: int, unknown: int) -> Answer:
    prediction = said.prediction
    kinds = {head.name: head.kind for head in prediction.asked}
    labels: dict[str, Label] = {
        each.head: each.labels[0] if kinds[each.head] is HeadKind.CHOICE else each.labels
        for each in prediction.heads
    }
    return Answer(labels, _scores(prediction), cost, unknown)


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

"""How often the answer that was served is not what the teacher says: the served error.

Measured on all that was served and could be looked at: what the teacher answered is right here by
definition, and a confident answer of the student is looked at when a coin of known probability fell
(gateway/shadow/coins.py). What nobody could look at (an answer that a caller wished from the
student, a fallback, an answer while audits are off or the teacher has no room for one) is counted
apart, and never as right. Whether there is room is known before the coin falls.

The estimate is AIPW, mean[m + A / pi (e - m)]: m = 1 - score is a guess for every row, and the
other term corrects it where the teacher looked. It is unbiased whatever the score is worth (Robins,
Rotnitzky and Zhao 1994; Zrnic and Candes 2024, arXiv 2403.03208).

The bounds use the uniform coin alone, without the score. Nothing is assumed of traffic; they bound
the error of the very rows that are counted, at all times at once, because the coins are ours. Each
row has the share that held when it came, so that estimate and bound speak of the same rows however
often a reload changes it (gateway/shadow/weighted.py). Rows that only the targeted coin could have
drawn are in the upper bound as wrong, and in the lower one as right.

Beside the error stands the disagreement: the share in which the student said something else than
the teacher, whoever of them was served. There the teacher's own answers count as what they show.

A drawn answer stands for the rows since the one before it, and they wait for its audit together. If
the audit is skipped they are void together: to leave out the drawn one alone would count the others
as if they had been looked at. That keeps both unbiased as long as a skip depends neither on what
the text says nor on how long ago the draw before was. A teacher that fails on certain texts hides
its errors on them here, and the count of void rows shows how many that may be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from gateway.contract.manifest import Task
from gateway.shadow.account import Account, Audited, Part, Served
from gateway.types import Answer, Audit, Prediction, Reason


class ServedQuality:
    """An observer that measures. May be used from several threads.

    The auditor tells `skipped` of the answers that were drawn in vain.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._lock = threading.Lock()
        self._students: dict[str, str | None] = {}  # who serves each task, where that is told
        self._tasks = {
            task.name: Account([head.name for head in task.heads], Audited()) for task in tasks
        }

    def follow(self, task: str, audited: Audited) -> None:
        """From now on, that is what is audited of the task."""
        with self._lock:
            self._tasks[task].follow(audited)

    def serves(self, task: str, student: str | None) -> None:
        """From now on the bundle of that id serves the task; None: no student does.

        The figures are of the student that serves: with another one they begin anew.
        """
        with self._lock:
            if self._students.get(task, student) != student:
                self._tasks[task] = self._tasks[task].anew()
            self._students[task] = student

    def answered(self, answer: Answer) -> None:
        """Count an answer that was served."""
        with self._lock:
            if answer.task in self._tasks and not self._of_another(answer):
                self._tasks[answer.task].answered(answer)

    def audited(self, audit: Audit) -> None:
        """The teacher has looked at an answer."""
        with self._lock:
            if audit.answer.task in self._tasks:
                self._tasks[audit.answer.task].judged(audit.answer, audit.teacher)

    def skipped(self, answer: Answer) -> None:
        """The teacher will not look at this answer, although it was drawn."""
        with self._lock:
            if answer.task in self._tasks:
                self._tasks[answer.task].judged(answer, None)

    def served(self, task: str) -> Served | None:
        """What is known of a task; None: it is not one of ours."""
        with self._lock:
            if task not in self._tasks:
                return None
            taken = self._tasks[task].taken()
        return taken.served()

    def parts(self) -> list[Part]:
        """The rates of all tasks and their heads, and of the values that the settings name."""
        with self._lock:
            taken = {name: task.taken() for name, task in self._tasks.items()}
        return [part for name, each in taken.items() for part in each.parts(name)]

    def past(self, task: str) -> Past:
        """An empty account of what was served before; the account of a task is one's own."""
        with self._lock:
            return Past(task, self._tasks[task], self._of_another)

    def absorb(self, past: Past) -> None:
        """What was served before the first answer that is counted here counts too.

        Unless another student has begun to serve since.
        """
        with self._lock:
            if self._tasks[past.task] is past.present:
                past.present.absorb(past.account)

    def _of_another(self, answer: Answer) -> bool:
        """Whether another student had its say, or none where one serves: it ends after a swap."""
        if answer.task not in self._students:
            return False
        student, said = self._students[answer.task], answer.student
        if said is not None:
            return said.bundle != student
        return student is not None and Reason.NO_STUDENT in answer.decision.reasons


class Past:
    """What was served of a task before `present`, told by one thread, the oldest first.

    It ends where another student served.
    """

    def __init__(self, task: str, present: Account, another: Callable[[Answer], bool]) -> None:
        self.task = task
        self.present = present
        self.account = present.anew()
        self._another = another

    def answered(self, answer: Answer, teacher: Prediction | None, *, fields: bool) -> None:
        """Count an answer, and what its audit said: None where there is none, or was skipped.

        `fields`: those of its instance are known.
        """
        if self._another(answer):
            self.forget()
            return
        self.account.answered(answer, fields=fields)
        self.account.judged(answer, teacher)

    def forget(self) -> None:
        """Begin anew: what came so far cannot be counted."""
        self.account = self.account.anew()

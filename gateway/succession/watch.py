"""The watch over a task: alarms of its student, drift of its traffic, while both go on.

It hears every answer and every audit, and calls when a student is to go. Until a stream is calm
again, and as long as traffic drifts, the audit share is doubled. What it knows outlives the process
in a file beside the roles, written aside and now and then; without that file it begins anew. Drift
calls nobody: it makes the certificate stale, and that is all. Another student, or other settings,
make no stale certificate fresh: only what was proved after traffic had moved is.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from gateway.errors import DataError
from gateway.shadow.alarm import Level
from gateway.shadow.drift import Drift
from gateway.shadow.streams import Reading, Streams, Terms
from gateway.shadow.window import State
from gateway.succession.footing import Footing
from gateway.types import Answer, Audit, Coin, Instance, Prediction, Reason, Route

# A risk rule or a safety net speaks of a text, and not of how sure the student is of it.
_NO_DOUBT = frozenset({Reason.CONFIDENT, Reason.NO_CERTIFICATE, Reason.HIGH_RISK})
_EVERY_S = 10.0  # seconds of traffic that a crash may lose
# Seconds between two answers that are heard for drift: texts of one request are of one kind, and a
# busy gateway has more to do than to listen to each.
_APART_S = 0.01
_VERSION = 2
_FOOTINGS = 8  # of students that may come back; each has some ten kilobytes
_NOTHING = Terms(limits={})
_NOBODY = ("", "")  # whose footing it is before anybody has served

Ring = Callable[[str, Reading], None]

_log = structlog.get_logger(__name__)


def _none(_instance: Instance) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Duty:
    """What is watched: the student that serves, by the id of its bundle; None: there is none.

    `certificate` names the one that holds for it, and `issued` is when that was, in seconds since
    the epoch: if traffic has not moved since, the traffic of the moment is what it should be.
    `policy` is a fingerprint of what makes the student's answer doubtful, and `threshold` what it
    is certified for, however strict its policy is while that is stale. `least`: how far a signal
    has to move, see `Traffic`. `share` is the probability of the uniform coin, and `elsewhere` says
    which instances another student answers; both are asked when needed.
    """

    student: str | None
    terms: Terms
    certificate: str = ""
    issued: float = 0.0
    policy: str = ""
    threshold: float | None = None
    drift: bool = True
    least: float = 0.0
    share: Callable[[], float] = float
    elsewhere: Callable[[Instance], bool] = _none


class Watch:
    """An observer of one task. It is told things on the event loop.

    `ring` is called once where the student of that id is to go, with the stream that says so.
    `file`: where the state is kept; None: nowhere.
    """

    def __init__(self, task: str, *, ring: Ring, file: Path | None, random: random.Random) -> None:
        self._task = task
        self._ring = ring
        self._file = file
        self._random = random
        self._duty = Duty(None, _NOTHING)
        self._streams = Streams(_NOTHING)
        self._rung = False
        self._warned = False
        self._stale = False
        self._heard_at = 0.0  # as answers tell the time
        self._saved_at = 0.0  # as answers tell the time
        self._saving: asyncio.Task[None] | None = None
        self._kept = _read(file)
        self._footings = _footings(self._kept)  # of the last that held first
        self._footing = _held(self._footings)

    @property
    def stale(self) -> bool:
        """Whether traffic has moved away from what the student was certified on."""
        return self._stale

    @property
    def alert(self) -> bool:
        """Whether something wants a closer look: audits are doubled."""
        return self._stale or self._warned

    def readings(self) -> tuple[Reading, ...]:
        """The streams of the student that serves; none where there is no student."""
        return self._streams.readings() if self._duty.student else ()

    def drift(self) -> Drift:
        """What traffic does, as the student that serves sees it."""
        return self._footing.traffic.drift()

    def follow(self, duty: Duty) -> None:
        """From now on, that is to be watched. The alarms of the same student go on.

        Another student, or another certificate, has another footing. What it is proved for is the
        traffic of the moment, unless that has moved since.
        """
        before, self._duty = self._duty, duty
        if before.student != duty.student:
            self._streams, self._rung = self._alarms(self._kept), False
        elif before.terms != duty.terms:
            self._streams, self._rung = self._alarms(self._state()), False
        if duty.student is not None:
            self._stand((duty.student, duty.certificate), before)
        self._kept = {}
        self._look()

    def begin_anew(self) -> None:
        """Somebody has looked at what rang: the alarms count from nothing, and may ring again."""
        self._streams.reset()
        self._rung = False
        self._look()

    def answered(self, answer: Answer) -> None:
        """An answer was given."""
        duty, said = self._duty, answer.student
        if duty.student is None:
            return
        if said.bundle != duty.student if said else duty.elsewhere(answer.instance):
            return  # of a student that serves no more, or not yet
        taught = answer.teacher is not None and answer.auditable
        sampled = taught and self._random.random() < duty.share()
        self._streams.answered(answer, sampled=sampled)
        # A clock that is set back costs neither of these more than a moment.
        if said and duty.drift and abs(answer.at - self._heard_at) >= _APART_S:
            self._heard_at = answer.at
            sure = Reason.CONFIDENT in answer.decision.reasons
            self._footing.traffic.answered(
                score=said.score,
                familiarity=said.familiarity,
                escalated=self._doubted(answer, said),
                at=answer.at,
                heads=said.heads,
                served=sure and answer.route is Route.STUDENT,
            )
            self._footing.heard()
        self._look()
        if abs(answer.at - self._saved_at) >= _EVERY_S:
            self._saved_at = answer.at
            self._save()

    def audited(self, audit: Audit) -> None:
        """The teacher's view of a confident answer has come."""
        said = audit.answer.student
        if said and said.bundle == self._duty.student:
            self._streams.audited(audit.answer, audit.teacher)
            if audit.answer.coin is Coin.UNIFORM and self._duty.drift:
                self._footing.traffic.audited(said.score, right=said.agrees(audit.teacher))
            self._look()

    async def close(self) -> None:
        """Keep what is known by now."""
        if self._saving is not None:
            await self._saving
        if self._file is not None:
            await asyncio.to_thread(_write, self._file, self._state())

    def _doubted(self, answer: Answer, said: Prediction) -> bool | None:
        """Whether the student's answer would be escalated; None: that was not its to decide.

        A certificate that is stale may escalate more, or everything. It must not keep itself stale
        by that.
        """
        reasons, bar = set(answer.decision.reasons), self._duty.threshold
        void = Reason.NO_CERTIFICATE in reasons and not self._stale
        if void or Reason.REQUESTED in reasons:
            return None
        if bar is not None and said.score >= bar:
            reasons.discard(Reason.LOW_CONFIDENCE)  # it was sure enough, but for what is stale
        return not _NO_DOUBT.issuperset(reasons)

    def _look(self) -> None:
        """See what the last row has changed, say so, and ring."""
        self._say(
            warned=self._streams.loudest is not Level.CALM,
            stale=self._duty.drift and self._footing.since is not None,
        )
        student, reading = self._duty.student, self._streams.ringing()
        if reading is not None and student is not None and not self._rung:
            self._rung = True
            _log.error("alarm", task=self._task, student=student, **in_numbers(reading))
            self._ring(student, reading)

    def _say(self, *, warned: bool, stale: bool) -> None:
        if (warned, stale) == (self._warned, self._stale):
            return
        if warned != self._warned:
            _log.warning("alarms warn" if warned else "alarms are calm", task=self._task)
        if stale != self._stale:
            moved = [
                each.signal.value
                for each in self._footing.traffic.movements
                if each.state is State.DRIFTING
            ]
            words = "traffic drifts: the certificate is stale" if stale else "traffic is as it was"
            _log.warning(words, task=self._task, signals=moved)
        self._warned, self._stale = warned, stale

    def _alarms(self, kept: Mapping[str, Any]) -> Streams:
        """The streams of the student, as far as what was kept is of the same one."""
        streams = Streams(self._duty.terms)
        if self._duty.student is None or kept.get("student") != self._duty.student:
            return streams
        found = kept.get("streams")
        try:
            return streams.restore(found if isinstance(found, dict) else {})
        except DataError as error:
            _log.warning("alarms begin anew", task=self._task, error=error.message)
            return Streams(self._duty.terms)

    def _stand(self, of: tuple[str, str], before: Duty) -> None:
        """Take the footing of who is to be watched: the one that holds, his of before, or a new."""
        duty, old = self._duty, self._footing
        if old.of == of and before.least == duty.least:
            old.decides_by(duty.policy)
            return
        self._footings, moved = self._all(), old.moved
        self._footing = self._remembered(of, moved)
        if moved is not None and duty.issued < moved:
            self._footing.doubt(moved)

    def _remembered(self, of: tuple[str, str], moved: float | None) -> Footing:
        """The footing as far as it was kept."""
        duty = self._duty
        fresh = Footing(of, policy=duty.policy, least=duty.least, norm=moved)
        kept = next((each for each in self._footings if tuple(each["of"]) == of), None)
        if kept is None:
            return fresh
        try:
            return Footing(of, policy=duty.policy, least=duty.least).restore(kept)
        except DataError as error:
            _log.warning("drift begins anew", task=self._task, error=error.message)
            return fresh

    def _all(self) -> list[dict[str, Any]]:
        """All footings as plain numbers, the one that holds first."""
        held = self._footing
        if held.of == _NOBODY:
            return self._footings
        others = [each for each in self._footings if tuple(each["of"]) != held.of]
        return [held.saved(), *others[: _FOOTINGS - 1]]

    def _save(self) -> None:
        if self._file is None or (self._saving is not None and not self._saving.done()):
            return
        work = asyncio.to_thread(_write, self._file, self._state())
        self._saving = asyncio.get_running_loop().create_task(work)

    def _state(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "student": self._duty.student,
            "streams": self._streams.saved(),
            "footings": self._all(),
        }


def in_numbers(reading: Reading) -> dict[str, Any]:
    """A reading as a log and the log of changes show it."""
    return {
        "stream": reading.stream.value,
        "limit": reading.limit,
        "mean": reading.mean,
        "rows": reading.rows,
        "statistic": reading.statistic,
        "bar": reading.bar,
    }


def _read(file: Path | None) -> dict[str, Any]:
    """What was kept; nothing where there is no such file, or none of this version."""
    if file is None:
        return {}
    try:
        found = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError) as error:
        _log.warning("alarms begin anew", file=file.name, error=str(error))
        return {}
    return found if isinstance(found, dict) and found.get("version") == _VERSION else {}


def _footings(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The footings that were kept, as far as it can be seen whose they are."""
    found = kept.get("footings")
    if not isinstance(found, list):
        return []
    return [each for each in found if isinstance(each, dict) and _has_owner(each.get("of"))]


def _held(footings: Iterable[dict[str, Any]]) -> Footing:
    """The one that held last: as far as it makes no sense, nobody's."""
    for kept in footings:
        first, second = kept["of"]
        try:
            fresh = Footing((first, second), policy=str(kept.get("policy")), least=0.0)
            return fresh.restore(kept)
        except DataError:
            break  # it is said where somebody takes it up
    return Footing(_NOBODY, policy="", least=0.0)


def _has_owner(of: object) -> bool:
    return isinstance(of, list) and len(of) == 2 and all(isinstance(each, str) for each in of)


def _write(file: Path, state: Mapping[str, Any]) -> None:
    """Replace the file as a whole. A disk that takes nothing costs the state, and no answer."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".watch-", delete=False) as new:
            new.write(orjson.dumps(state))
            new.flush()
            os.fsync(new.fileno())
        Path(new.name).replace(file)
    except OSError as error:
        _log.warning("alarms are not kept", file=file.name, error=str(error))

"""The acts of the story, in their order. Each waits for what the gateway says, and checks its end.

What an act does is what a person would: it types commands and looks at figures. Promotions, steps,
alarms and rollbacks are the gateway's own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

import orjson

from distill.recipe import FILE_NAME
from distill.story import cast, forecast
from distill.story import weather as winds
from distill.story.chronicle import Stretch
from distill.story.forecast import Delay
from distill.story.play import Play, check
from distill.story.weather import FAIR, Weather
from gateway.contract.bundle import open_bundle
from gateway.students.vacancy import NO_STUDENT

_FEW = 600  # answers from which an accuracy is told: its error is then about 1 %
_TRIAL = 12_000  # answers within which a candidate is judged
_LOOKED_AT = 400  # comparisons before somebody looks at a candidate
_LADDER = 15_000  # within which a canary climbs
_FALL = 12_000  # within which an alarm rings
_LESSON = 2400  # answers of the teacher from which the next student learns
_REHEARSED = 1200  # tickets of each weather on which rates are foretold
_QUIET = 0.15  # share of the rate while a student is distilled: it has the machine to itself
_STORM = Weather(lost=0.5)
_CRATES = Weather(crate=0.4)

PROMOTE, HOLD, REJECT = 0, 3, 4  # exit statuses of `understudy shadow status`

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Act:
    """One act: its name in figures, its headline, what it is about, and how it is played."""

    name: str
    title: str
    about: str
    played: Callable[[Play, Figures], Awaitable[Figures]]


async def refuse(play: Play, _: Figures) -> Figures:
    """A worse student is rejected."""
    async with play.traffic():
        await play.answers(_FEW)
        verdict = await _tried(play, cast.WORSE, REJECT)
        failed = [each["gate"] for each in verdict["gates"] if each["standing"] == "failed"]
        await play.asks("students", "remove", play.name(cast.WORSE))
    play.telling.concluded(f"rejected: the opposite of {', '.join(failed)} is proved")
    return {"decision": verdict["decision"], "refuted": failed, "compared": _compared(verdict)}


async def hold(play: Play, _: Figures) -> Figures:
    """An equal student is proved to do no harm, and stays where it is."""
    async with play.traffic():
        verdict = await _tried(play, cast.EQUAL, PROMOTE)
        roles = await play.desk.roles()
        check(roles["canary"] is None, "nobody asked for a promotion, and there is a canary")
        await play.asks("students", "remove", play.name(cast.EQUAL))
    play.telling.concluded(
        "it may be promoted, and is held: promotion.automatic is false, and nobody gains by it"
    )
    return {"decision": verdict["decision"], "promoted": False, "compared": _compared(verdict)}


async def promote(play: Play, _: Figures) -> Figures:
    """A better student climbs the steps of a canary, and serves."""
    name = play.name(cast.BETTER)
    before = play.chronicle.answers
    async with play.traffic():
        verdict = await _tried(play, cast.BETTER, PROMOTE)
        old = play.chronicle.stretch(before)
        steps = await _climbed(play, name)
        first = play.chronicle.answers
        await play.answers(2 * _FEW)
        new = play.chronicle.stretch(first)
    play.telling.stretches("What the customers saw", {"before": old, "now": new})
    play.telling.concluded(
        f"it answers {1 - new.escalated:.0%} of the requests itself; the one before, "
        f"{1 - old.escalated:.0%}"
    )
    return {
        "decision": verdict["decision"],
        "compared": _compared(verdict),
        "steps": steps,
        "before": _shown(old),
        "after": _shown(new),
    }


async def storm(play: Play, _: Figures) -> Figures:
    """Strange messages come: drift is heard without a label, and nobody is sent away."""
    name = play.name(cast.BETTER)
    first = play.chronicle.answers
    play.weather = _STORM
    async with play.traffic():

        async def stale() -> Mapping[str, Any] | None:
            watch: Mapping[str, Any] = (await play.desk.stats())["watch"]
            return watch if watch["certificate_stale"] else None

        watch = await play.until("a stale certificate", stale, within=_FALL)
        heard = play.chronicle.answers - first
        play.chronicle.happened("drift", "the certificate is stale")
        await play.answers(2 * _FEW)
        roles = await play.desk.roles()
    check(roles["serving"] == name, "drift alone has sent a student away")
    seen = play.chronicle.stretch(first)
    moved = {signal: each for signal, each in watch["drift"].items() if each["before"] is not None}
    play.telling.table(
        "What has drifted, without a label",
        ("signal", "before", "now"),
        [(each, f"{m['before']:.2f}", f"{m['mean']:.2f}") for each, m in moved.items()],
    )
    play.telling.concluded(
        f"after {heard:,} answers the certificate is stale and audits are doubled; "
        f"{seen.escalated:.0%} go to the teacher and {seen.accuracy:.1%} are right: nobody goes"
    )
    return {"answers": heard, "signals": sorted(moved), "seen": _shown(seen)}


async def fall(play: Play, _: Figures) -> Figures:
    """Ordinary looking messages mean something else: the alarm sends one after the other away."""
    better, first = play.name(cast.BETTER), play.name(cast.FIRST)
    play.weather = FAIR
    async with play.traffic():
        await play.answers(_FEW)
    rates = await asyncio.to_thread(_foretold, play)
    reading = (await play.desk.stats())["watch"]["alarms"]["error"]
    calm = (reading["rows"], rates[FAIR, better].rate)
    begun, known = play.chronicle.answers, len(await play.desk.log())
    play.weather = _CRATES
    play.chronicle.happened("crate", "the Glow crate is sold")
    async with play.traffic():
        for leaving in (better, first):
            await _sent_away(play, leaving)
    fallen = play.chronicle.stretch(begun)
    log = (await play.desk.log())[known:]
    backs = [row for row in log if row["what"] == "rollback"]
    check([row["who"] for row in backs] == ["alarm", "alarm"], "two rollbacks by the alarm")
    found = []
    for row, rows in zip(backs, (calm, (0, 0.0)), strict=True):
        evidence, (before, at) = row["evidence"], rows
        terms = forecast.Terms(evidence["limit"], evidence["bar"], before, at)
        now = rates[_CRATES, row["old"]]
        due = forecast.delay(terms, now, seed=play.seed)
        role = play.role(row["old"])
        found.append(_Rung(role, evidence["rows"] - before, due, now.rate, row["why"]))
    play.telling.table(
        "When the alarm rang, in audited rows since the first crate",
        ("sent away", "its error now", "expected", "99.9 % within", "it took"),
        [each.row() for each in found],
    )
    for each in found:
        check(
            each.due.holds(each.rows), f"{each.student} was sent away only after {each.rows} rows"
        )
    since = backs[-1]["at"]
    play.telling.concluded(
        f"the alarm let the first student serve again, and when that was as bad the teacher alone; "
        f"in between {fallen.accuracy:.1%} were right. Promotion is frozen"
    )
    return {
        "rollbacks": [each.figures() for each in found],
        "seen": _shown(fallen),
        "since": since,
    }


async def learn(play: Play, figures: Figures) -> Figures:
    """The teacher's answers are handed over, and the next student learns from them."""
    project, first = play.desk.folder / cast.NEXT, play.chronicle.answers
    async with play.traffic():
        await play.answers(_LESSON)
    alone = math.ceil(figures["fall"]["since"])  # from then on the teacher has seen every text
    since = datetime.fromtimestamp(alone, UTC).isoformat()
    words = ("improve", "--recipe", str(project / FILE_NAME), "--since", since)
    play.telling.say(
        "  what live traffic has taught goes into the next student: that takes longest"
    )
    async with play.traffic(share=_QUIET):
        ran = await play.asks(*words)
    (added,) = project.glob("rounds/*/added.json")
    name: str = orjson.loads(added.read_bytes())["bundle"]
    for line in ran.out.splitlines()[:4]:
        play.telling.say(f"  {line.strip()}", style="dim")
    seen = play.chronicle.stretch(first)
    play.telling.concluded(f"{name} is a candidate; meanwhile the teacher answered all")
    return {"candidate": name, "seen": _shown(seen)}


async def win_back(play: Play, figures: Figures) -> Figures:
    """The next student proves itself, somebody unfreezes, and it wins back what was lost."""
    name = figures["learn"]["candidate"]
    async with play.traffic():
        verdict = await _judged(play, name, PROMOTE)
        why = "the crate is understood, and the next student has learnt it"
        await play.asks("students", "unfreeze", "--why", why)
        steps = await _climbed(play, name)
        first = play.chronicle.answers
        await play.answers(3 * _FEW)
    now = play.chronicle.stretch(first)
    before, fallen = figures["promote"]["after"], figures["fall"]["seen"]
    play.telling.stretches("What the customers saw at last", {"now": now})
    gained = (1 - now.escalated) / before["by_student"]
    check(gained >= 0.5, f"the student answers only {gained:.0%} of what the one before did")
    check(now.accuracy > fallen["right"], "no more is right than while quality fell")
    play.telling.concluded(
        f"it answers {1 - now.escalated:.0%} itself, {gained:.0%} of what was answered before the "
        f"fall, and {now.accuracy:.1%} are right"
    )
    ran = await play.types("changes", "verify")
    play.telling.say(f"  {ran.out.splitlines()[0]}", style="dim")
    return {
        "decision": verdict["decision"],
        "steps": steps,
        "after": _shown(now),
        "won_back": gained,
    }


ACTS = (
    Act("refuse", "A worse student", "It knows a tenth of what the one that serves knows.", refuse),
    Act("hold", "An equal student", "It has seen the same, and learnt it at another pace.", hold),
    Act("promote", "A better student", "It has seen three times as much.", promote),
    Act(
        "storm",
        "Strange messages",
        "Half of what comes is meant for an airline of the same name.",
        storm,
    ),
    Act(
        "fall",
        "A new thing is sold",
        "All mail about the Glow crate is its maker's, a product question, whatever it asks.",
        fall,
    ),
    Act("learn", "The next student", "The teacher has answered all of it since.", learn),
    Act("win_back", "What was lost is won back", "The same traffic, another student.", win_back),
)


async def _tried(play: Play, role: str, status: int) -> Mapping[str, Any]:
    """A candidate under test, until its verdict is this one."""
    await play.asks("students", "add", str(play.bundles[role]))
    return await _judged(play, play.name(role), status)


async def _judged(play: Play, name: str, status: int) -> Mapping[str, Any]:
    """The verdict of a candidate, once it is promote or reject, as the command shows it.

    A bound that has just come below its limit may rise above it again with the next row, so that
    nobody looks before some hundred comparisons.
    """

    async def decided() -> tuple[int, Mapping[str, Any]] | None:
        for each in await play.desk.shadow():
            enough = each["whole"]["compared"] >= _LOOKED_AT
            if each["name"] == name and enough and each["verdict"]["decision"] != "hold":
                found = await play.desk.verdict(name)
                return found if found[0] != HOLD else None
        return None

    found, candidate = await play.until(f"the verdict on {name}", decided, within=_TRIAL)
    play.telling.typed("shadow", "status", "--candidate", name)
    verdict: Mapping[str, Any] = candidate["verdict"]
    compared = candidate["whole"]["compared"]
    play.telling.gates(f"{name} after {compared:,} comparisons: {verdict['decision']}", verdict)
    play.chronicle.judged(name, verdict["gates"])
    play.chronicle.happened(verdict["decision"], name)
    check(found == status, f"the verdict on {name} is {verdict['decision']}")
    return {**verdict, "compared": compared}


async def _climbed(play: Play, name: str) -> list[float]:
    """A candidate is promoted and climbs to its end; the shares of its steps."""
    await play.asks("students", "promote", name)
    seen: list[float] = []

    async def serves() -> bool | None:
        roles = await play.desk.roles()
        canary = roles["canary"]
        if canary is not None and canary["share"] not in seen:
            seen.append(canary["share"])
            play.chronicle.happened("step", f"{canary['share']:.0%}")
            play.telling.say(f"  the canary answers {canary['share']:.0%}")
        return True if roles["serving"] == name else None

    await play.until(f"{name} to serve", serves, within=_LADDER)
    play.chronicle.happened("takeover", name)
    log = await play.desk.log()
    begun = max(place for place, row in enumerate(log) if row["what"] == "promote")
    steps = [row["evidence"]["share"] for row in log[begun:] if "share" in row["evidence"]]
    play.telling.say(f"  {name} serves")
    return steps


async def _sent_away(play: Play, leaving: str) -> None:
    async def gone() -> str | None:
        roles = await play.desk.roles()
        serving: str = roles["serving"]
        return serving if serving != leaving else None

    heir = await play.until(f"the alarm on {leaving}", gone, within=_FALL)
    words = "the teacher alone answers" if heir == NO_STUDENT else f"{heir} serves again"
    play.chronicle.happened("rollback", words)
    play.telling.say(f"  the alarm rings: {words}", style="red")


@dataclass(frozen=True, slots=True)
class _Rung:
    """A student that was sent away: after how many audited rows, and when that was due."""

    student: str
    rows: int
    due: Delay
    error: float  # of its audited answers by now, as gold has it
    why: str

    def row(self) -> tuple[str, ...]:
        """As a table shows it."""
        due = self.due
        return self.student, f"{self.error:.1%}", f"{due.median}", f"{due.late}", f"{self.rows}"

    def figures(self) -> Figures:
        """As JSON."""
        return {
            "student": self.student,
            "rows": self.rows,
            "expected": self.due.median,
            "late": self.due.late,
            "error": self.error,
            "why": self.why,
        }


def _foretold(play: Play) -> dict[tuple[Weather, str], forecast.Seen]:
    """By weather and student: how often an audit would say that it is wrong. Blocks."""
    found = {}
    for weather, role in ((FAIR, cast.BETTER), (_CRATES, cast.BETTER), (_CRATES, cast.FIRST)):
        drawn = winds.traffic(seed=play.seed + 1, weather=partial(_always, weather))
        texts = [each.text for each in islice(play.clerk.meet(drawn), _REHEARSED)]
        bundle = open_bundle(play.bundles[role])
        found[weather, bundle.name] = forecast.audited_error(bundle, texts, play.clerk.label)
    return found


def _always(weather: Weather) -> Weather:
    return weather


def _compared(verdict: Mapping[str, Any]) -> int:
    return int(verdict["compared"])


def _shown(seen: Stretch) -> Figures:
    return {
        "answers": seen.answers,
        "right": seen.accuracy,
        "by_student": 1.0 - seen.escalated,
        "undetected": seen.undetected,
    }

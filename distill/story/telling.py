"""How the story is told on a terminal: headlines, what is typed, tables of gates, conclusions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from distill.story.chronicle import Chronicle, Stretch

_EVERY_S = 5.0  # between two lines while an act waits
_WINDOW = 400  # answers that such a line speaks of
_STANDING = {"passed": "green", "failed": "red", "open": "yellow", "inconclusive": "yellow"}
_SHOWN = 100  # characters of a typed word; a path may be longer


class Telling:
    """Tells the story on a console as it happens."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._said_at = 0.0

    def act(self, number: int, title: str, what: str) -> None:
        """An act begins."""
        self.console.print()
        self.console.print(Rule(f"[bold green]{number}. {title}", align="left", style="green"))
        self.say(what)

    def say(self, words: str, *, style: str = "") -> None:
        """A sentence."""
        self.console.print(words, style=style or None, markup=False, soft_wrap=True)

    def typed(self, *words: str) -> None:
        """What is typed at the desk."""
        shown = " ".join(f"'{word}'" if " " in word else word[-_SHOWN:] for word in words)
        self.say(f"$ understudy {shown}", style="cyan")

    def concluded(self, words: str) -> None:
        """How an act has ended, and why."""
        self.say(f"→ {words}", style="bold")

    def meanwhile(self, what: str, chronicle: Chronicle) -> None:
        """A line now and then, while something is waited for."""
        now = time.monotonic()
        if now - self._said_at < _EVERY_S:
            return
        self._said_at = now
        last = chronicle.stretch(max(0, chronicle.answers - _WINDOW))
        self.say(
            f"  {chronicle.answers:,} answers; of the last {last.answers:,} {last.accuracy:.1%} "
            f"right by gold, {last.escalated:.1%} by the teacher; waiting for {what}",
            style="dim",
        )

    def gates(self, title: str, verdict: Mapping[str, Any]) -> None:
        """Where the gates of a candidate stand."""
        shown = _table()
        for name in ("gate", "standing", "seen", "surely between", "limit", "rows"):
            shown.add_column(name, justify="left" if name in {"gate", "standing"} else "right")
        for each in verdict["gates"]:
            shown.add_row(
                each["gate"],
                Text(each["standing"], style=_STANDING[each["standing"]]),
                "-" if each["value"] is None else f"{each['value']:+.1%}",
                f"{each['lower']:+.1%} … {each['upper']:+.1%}",
                f"{each['limit']:+.1%}",
                f"{each['pairs']:,}",
            )
        self._show(title, shown)

    def stretches(self, title: str, stretches: Mapping[str, Stretch]) -> None:
        """What the customers saw, time by time."""
        shown = _table()
        shown.add_column("by gold")
        for name in ("answers", "right", "by the student", "and wrong"):
            shown.add_column(name, justify="right")
        for name, each in stretches.items():
            own = 1.0 - each.escalated
            shown.add_row(
                name,
                f"{each.answers:,}",
                f"{each.accuracy:.1%}",
                f"{own:.1%}",
                f"{each.undetected:.1%}",
            )
        self._show(title, shown)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Any small table; the first column is words, the others are numbers."""
        shown = _table()
        for place, name in enumerate(columns):
            shown.add_column(name, justify="right" if place else "left")
        for row in rows:
            shown.add_row(*row)
        self._show(title, shown)

    def _show(self, title: str, shown: Table) -> None:
        self.console.print()
        self.say(f" {title}", style="bold")
        self.console.print(shown)

    def finale(self, found: Mapping[str, Any]) -> None:
        """All of it on one screen."""
        acts = found["acts"]
        served = {
            "first student": acts["promote"]["before"],
            "better student": acts["promote"]["after"],
            "strange messages": acts["storm"]["seen"],
            "the Glow crate": acts["fall"]["seen"],
            "teacher alone": acts["learn"]["seen"],
            "next student": acts["win_back"]["after"],
        }
        self.table(
            "The story",
            ("by gold", "answers", "right", "by the student", "and wrong"),
            [
                (
                    name,
                    f"{each['answers']:,}",
                    f"{each['right']:.1%}",
                    f"{each['by_student']:.1%}",
                    f"{each['undetected']:.1%}",
                )
                for name, each in served.items()
            ],
        )
        self.table(
            "Rollbacks by the alarm, in audited rows",
            ("sent away", "expected", "99.9 % within", "it took"),
            [
                (each["student"], f"{each['expected']}", f"{each['late']}", f"{each['rows']}")
                for each in acts["fall"]["rollbacks"]
            ],
        )
        traffic = found["traffic"]
        lost = traffic["failed"] + traffic["turned_away"]
        self.say(
            f"{traffic['answers']:,} answers, {lost} requests without one; "
            f"{found['seconds']['all']:.0f} s in all"
        )


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD)

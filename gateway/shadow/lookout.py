"""The lookout of a canary: how many texts it has answered, and whether it is worse than it may be.

It looks at what the canary answers itself, by the same streams as the watch over the student that
serves (gateway/shadow/streams.py): where the teacher says something else in an audit, what of that
was critical, texts that it fails on, and how late it is. Each rings soon after its rate has risen.
The lookout rings; what then happens others decide.
"""

from __future__ import annotations

from gateway.routing.canary import Canary
from gateway.shadow.streams import Reading, Stream, Streams, Terms
from gateway.types import Answer, Audit

_WORDS = {
    Stream.ERROR: "disagrees with the teacher in more than",
    Stream.CRITICAL: "misses what is critical in more than",
    Stream.FAILURES: "fails on more than",
    Stream.LATENCY: "is late with more than",
}
_NOTHING = Terms(limits={})


class Lookout:
    """An observer that counts what the canary answers. Used on the event loop alone."""

    def __init__(self) -> None:
        self.rows = 0  # texts that the canary has answered here since its step began
        self._canary: Canary | None = None
        self._since: float | None = None
        self._streams = Streams(_NOTHING)

    def follow(self, canary: Canary | None, since: float | None, terms: Terms) -> None:
        """Look at this canary from now on, whose step began at `since`, on these terms.

        A step is a new count, another student a new watch. Of terms that change while a canary is
        watched, those streams go on that have the same limit as before, and are of the same thing.
        """
        before, self._canary = self._canary, canary
        same = before is not None and canary is not None and before.rung.name == canary.rung.name
        if not same or self._since != since:
            self.rows = 0
        self._since = since
        if not same:
            self._streams = Streams(terms if canary else _NOTHING)
        elif self._streams.terms != terms:
            self._streams = Streams(terms).restore(self._streams.saved())

    def begin_anew(self) -> None:
        """Somebody has looked at what rang: it counts from nothing, and may ring again."""
        self._streams.reset()

    @property
    def ringing(self) -> Reading | None:
        """What rings; None: nothing does."""
        return self._streams.ringing()

    @property
    def why(self) -> str | None:
        """The same in words."""
        found = self.ringing
        if found is None or self._canary is None:
            return None
        rows = "audits" if found.stream in {Stream.ERROR, Stream.CRITICAL} else "seconds"
        return (
            f"{self._canary.rung.name} {_WORDS[found.stream]} {found.limit:.1%} of its texts: "
            f"an alarm after {found.rows} {rows}"
        )

    def answered(self, answer: Answer) -> None:
        """Count an answer, if it is the canary's."""
        if self._takes(answer):
            self.rows += answer.student is not None
            self._streams.answered(answer, sampled=False)

    def audited(self, audit: Audit) -> None:
        """Hear what the teacher says of an answer, if it is the canary's."""
        if audit.answer.student is not None and self._takes(audit.answer):
            self._streams.audited(audit.answer, audit.teacher)

    def _takes(self, answer: Answer) -> bool:
        """Whether the canary answered; who failed left no name, but the hash knows who it was."""
        if self._canary is None or not self._canary.takes(answer.instance):
            return False
        bundle, student = self._canary.rung.bundle, answer.student
        return student is None or (bundle is not None and student.bundle == bundle.id)

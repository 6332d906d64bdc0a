"""The cast of one task: the students that are loaded, each in its seat, and those that leave.

One serves, one served before and stays loaded, so that going back takes no time, and one may be a
canary. A seat that nobody needs any more is closed when its callers are done. Whom roles.json names
is not known here.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.succession.seat import Seat


class Cast:
    """Who is loaded. `launched`: under which the seat that serves stands; None: it is no new one.

    `moves` counts those of the pointers. `leaving` are things that end, and are waited for.
    """

    def __init__(self, serving: Seat, launched: float | None) -> None:
        self.serving = serving
        self.launched = launched
        self.before: Seat | None = None  # the previous student, while it is loaded
        self.canary: Seat | None = None
        self.moves = 0
        self.leaving: set[asyncio.Task[None]] = set()

    def all(self) -> list[Seat]:
        """Those that are loaded."""
        return [each for each in (self.serving, self.before, self.canary) if each is not None]

    def named(self, name: str) -> Seat | None:
        """The seat of that student; None: it is not loaded."""
        return next((each for each in self.all() if each.name == name), None)

    def take(self, serving: Seat, canary: Seat | None) -> bool:
        """From now on, these answer; returns whether another student serves. Nothing here waits."""
        old, self.serving = self.serving, serving
        gone, self.canary = [self.canary], canary
        another = old.rung.student is not serving.rung.student
        if another:
            gone.append(self.before)
            self.before = old
        for each in gone:
            if each is not None:
                self.leave(each)
        return another

    def keep(self, seat: Seat) -> None:
        """Have the previous student loaded, though another one played before this one did."""
        gone, self.before = self.before, seat
        if gone is not None:
            self.leave(gone)

    def leave(self, seat: Seat) -> None:
        """Close a seat that nobody needs any more, when its callers are done."""
        loaded = self.all()
        if any(each.rung.student is seat.rung.student for each in loaded):
            return
        alone = all(each.teacher is not seat.teacher for each in loaded)
        self.see_off(asyncio.get_running_loop().create_task(_ended(seat, teacher=alone)))

    def see_off(self, task: asyncio.Task[None]) -> None:
        """Wait at the close for something that nobody waits for any more."""
        self.leaving.add(task)
        task.add_done_callback(self.leaving.discard)

    @contextmanager
    def left_on_error(self, *seats: Seat | None) -> Iterator[None]:
        """Seats that were made ready and then cannot be taken are closed."""
        try:
            yield
        except BaseException:
            for each in reversed(seats):
                if each is not None:
                    self.leave(each)
            raise

    async def close(self) -> None:
        """Finish what waits, and end the threads of all."""
        for seat in (self.canary, self.serving, self.before):
            if seat is not None:
                await seat.close(teacher=seat is not self.canary)
        if self.leaving:
            await asyncio.wait(self.leaving)


async def _ended(seat: Seat, *, teacher: bool) -> None:
    """Close a seat and give its memory back, which hangs on rings of references."""
    await seat.close(teacher=teacher)
    del seat
    gc.collect()  # left to itself the collector comes so rarely that many students would pile up

"""Generator processes that start at one moment: each connects, says so, and waits for the word.

One process works in the caller's own; more are spawned, because one Python process sends no more
than some ten thousand requests a second. They share the clock (CLOCK_MONOTONIC is the machine's).
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TypeVar

from gateway.errors import StageFailed, UnderstudyError
from loadtests.tally import Tally

_LEAD_S = 0.05  # from the word to the start: far more than the word takes to reach everybody

Plan = TypeVar("Plan")
Start = Callable[[], float]  # blocks until all are ready; gives the moment of the start
Generate = Callable[[Plan, Start], Tally]


def together(generate: Generate[Plan], plans: Sequence[Plan]) -> Tally:
    """Run `generate` for every plan, each in its own process, and add up what they counted.

    Raises what a generator raises.
    """
    if len(plans) == 1:
        return _undisturbed(generate, plans[0], _soon)
    context = multiprocessing.get_context("spawn")
    total = Tally()
    members = []
    try:
        for plan in plans:
            ours, theirs = context.Pipe()
            member = context.Process(target=_work, args=(generate, plan, theirs), daemon=True)
            member.start()
            theirs.close()
            members.append((member, ours))
        for _, pipe in members:
            _heard(pipe)
        start = _soon()
        for _, pipe in members:
            pipe.send(start)
        for _, pipe in members:
            found = _heard(pipe)
            total.add(found if found is not None else Tally())
    finally:
        for member, pipe in members:
            member.terminate()
            member.join()
            pipe.close()
    return total


def _work(generate: Generate[Plan], plan: Plan, pipe: Connection) -> None:
    def start() -> float:
        pipe.send(None)
        moment: float = pipe.recv()
        return moment

    try:
        pipe.send(_undisturbed(generate, plan, start))
    except UnderstudyError as error:
        pipe.send((type(error), error.message, error.mend))


def _heard(pipe: Connection) -> Tally | None:
    """What a process says: ready (None), or its tally. Raises what it could not do."""
    try:
        said: Tally | tuple[type[UnderstudyError], str, str] | None = pipe.recv()
    except EOFError as error:
        raise StageFailed(
            "a generator process ended without its figures", mend="read what it wrote"
        ) from error
    if isinstance(said, tuple):
        kind, message, mend = said
        raise kind(message, mend=mend)
    return said


def _undisturbed(generate: Generate[Plan], plan: Plan, start: Start) -> Tally:
    with _no_collections():
        return generate(plan, start)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Without garbage collections, which would stop the schedule for milliseconds."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _soon() -> float:
    return time.monotonic() + _LEAD_S

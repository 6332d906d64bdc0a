"""A student in a process of its own: its interpreter is not the event loop's, nor is its crash.

    python -m gateway.students.process BUNDLE ID THREADS CALL_TOKENS [apart]

reads batches of texts from the socket that is its standard input and writes logits to it, until the
parent says no more. Two threads of one interpreter cannot both run Python: with a student in a
thread the event loop and the student wait for each other at every call, and two cores serve hardly
more than one. Frames are a length of four bytes and a pickle, and only pass between parent and
child.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from gateway import errors
from gateway.contract.bundle import open_bundle
from gateway.errors import BundleError, BundleMismatch, StudentFailed
from gateway.students.rehearsal import warm
from gateway.students.student import Raw, Student
from gateway.students.workers import Ran
from gateway.types import Prediction

_MODULE = "gateway.students.process"
_LENGTH = struct.Struct("!I")
_READ = 1 << 16  # bytes
# A worker has a core and no more: threads beside its own would take those of the others.
_ALONE = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_NICENESS = 19  # the most that there is
_NANO = 1e9  # nanoseconds in a second
_SMALL = 4096  # bytes: more than a line of /proc has
_APART = "apart"  # the argument of a child that is to run its texts one after the other
_ENDS_S = 10.0  # seconds that a child has to end: it only has to leave its loop


class ProcessWorker:
    """The parent's end of a student's process. It belongs to the event loop it was made on.

    `student` is the same bundle, opened here: it turns logits into predictions. `environment` is
    that of the child. `aside`: it only gets the processor that nobody else wants, and runs texts
    one after the other, so that each has a time of its own.
    """

    ahead = 2  # the child goes on with the next batch while the loop is busy with this one's

    def __init__(
        self,
        student: Student,
        *,
        environment: Mapping[str, str],
        aside: bool = False,
    ) -> None:
        self._student = student
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._over = asyncio.Event()  # the child has closed its end
        ours, theirs = socket.socketpair()
        bundle = student.bundle
        command = [
            _MODULE,
            str(bundle.path),
            bundle.id,
            str(student.threads),
            str(student.call_tokens),
            *([_APART] if aside else []),
        ]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-P", "-m", *command],  # nothing of the working folder
                stdin=theirs.fileno(),  # a socket has both directions
                stdout=subprocess.DEVNULL,
                env={**environment, **_ALONE},
            )
        self._waits = Waits(Path(f"/proc/{self._process.pid}"))
        if aside:  # before it has made a thread, so that all of them will be
            _stand_aside(self._process.pid)
        self._line = _Line(self._heard, self._lost)
        self._begun = self._loop.create_task(self._loop.connect_accepted_socket(self._given, ours))

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._over.is_set() and self._process.poll() is None

    def follow(self, ran: Callable[[Ran], None], ended: Callable[[], None]) -> None:
        """Say who is told of each batch and of the end."""
        self._ran, self._ended = ran, ended

    async def ready(self) -> None:
        """Wait until the child has opened the bundle. Raises what it raised."""
        await asyncio.shield(self._ready)  # one who gives up waiting ends nothing of ours

    def send(self, texts: Sequence[str]) -> None:
        """Run these texts next."""
        self._line.say(list(texts))

    def kept_s(self) -> float:
        """Seconds in which it wanted a processor and had none; 0 where the system does not say."""
        return self._waits.seconds

    def kill(self) -> None:
        """End the child at once, whatever it does; `close` sees the rest."""
        self._process.kill()

    async def close(self) -> None:
        """Let the child end, and see that it does."""
        await asyncio.shield(self._begun)
        self._line.end()
        await asyncio.to_thread(self._wait)
        await self._over.wait()  # no open socket is left to the loop

    def _given(self) -> _Line:
        return self._line

    def _wait(self) -> None:
        try:
            self._process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _heard(self, frame: Any) -> None:
        if self._ready.done():
            self._ran(self._read(frame))
        elif frame is None:
            self._ready.set_result(None)
        else:
            self._fail(_raised(frame))

    def _read(self, frame: Any) -> Ran:
        raw, failures, started, ended, apart = frame
        said: Sequence[Prediction | Exception] | None = None
        if not failures:
            with contextlib.suppress(Exception):  # of some row: the others are not to suffer
                said = self._student.interpret(raw)
        if said is None:
            said = [
                self._one(raw.row(place), failures.get(place))
                for place in range(len(raw.truncated))
            ]
        return Ran(said, started, ended, apart)

    def _one(self, raw: Raw, failure: str | None) -> Prediction | Exception:
        if failure is not None:
            return StudentFailed(f"the student failed: {failure}")
        try:
            return self._student.interpret(raw)[0]
        except Exception as error:  # noqa: BLE001  the loop must outlive a bad row
            return error

    def _lost(self) -> None:
        """The child has ended."""
        self._over.set()
        self._fail(StudentFailed("the student's process ended as it began", mend="see the log"))
        self._ended()

    def _fail(self, error: Exception) -> None:
        """It will not be ready."""
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # looked at: who waits for another worker may never ask


class _Line(asyncio.Protocol):
    """Frames over a socket, on the event loop."""

    def __init__(self, heard: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._buffer = bytearray()
        self._early: list[bytes] = []  # said before the line was there
        self._transport: asyncio.Transport | None = None

    def say(self, content: object) -> None:
        """Send a frame; never waits."""
        frame = _framed(content)
        if self._transport is None:
            self._early.append(frame)
        else:
            self._transport.write(frame)

    def end(self) -> None:
        """Send no more: the child reads the end of its input, and leaves."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The line is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.writelines(self._early)

    def data_received(self, data: bytes) -> None:
        """A piece of a frame, or several frames."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer)
            end = _LENGTH.size + size
            if len(buffer) < end:
                return
            frame = pickle.loads(bytes(buffer[_LENGTH.size : end]))  # noqa: S301  our own child's
            del buffer[:end]
            self._heard(frame)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The child has closed its end."""
        self._lost()


def _stand_aside(process: int) -> None:
    """Let whoever wants its processor have it at once.

    A niced process keeps its turn, some milliseconds, from whoever wakes up; one of the class
    SCHED_IDLE gives way (sched(7)), but not every system has it.
    """
    os.setpriority(os.PRIO_PROCESS, process, _NICENESS)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))


class Waits:
    """How long the first thread of a process wanted a processor and had none.

    The system counts a wait when it is over (sched-stats.rst), and that of a child that stands
    aside may last longer than a batch may take. So of who waits or runs now the time counts in
    which it did not run since it was last seen asleep: what it slept meanwhile is in it too, until
    it is seen asleep again. `folder` is that of the process in /proc; `clock` gives seconds and
    never goes back.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stat, self._times = str(folder / "stat"), str(folder / "schedstat")
        self._clock = clock
        self._asleep = clock()  # the time by the clock without what it ran and waited

    @property
    def seconds(self) -> float:
        """Until now; 0 where the system does not say."""
        awake = self._is_awake()  # before the times: who falls asleep since has waited no longer
        ran, kept = _ran_and_kept_s(self._times)
        if not ran and not kept:
            return 0.0
        passed = self._clock() - ran
        if not awake:
            self._asleep = passed - kept
        return max(kept, passed - self._asleep)

    def _is_awake(self) -> bool:
        """Whether it runs, or would if it had a processor (proc_pid_stat(5))."""
        try:  # the name, in parentheses, may hold anything
            state = _read(self._stat).rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return state == b"R"


def _kept_s(process: str) -> float:
    """Seconds in which its first thread wanted a processor and had none, as far as that is over."""
    return _ran_and_kept_s(f"/proc/{process}/schedstat")[1]


def _ran_and_kept_s(times: str) -> tuple[float, float]:
    """Seconds in which the first thread ran, and in which it waited to run (sched-stats.rst)."""
    try:
        ran, kept, _ = _read(times).split()
    except (OSError, ValueError):
        return 0.0, 0.0
    return int(ran) / _NANO, int(kept) / _NANO


def _read(path: str) -> bytes:
    """A small file of /proc, without what a file object costs on the event loop."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _SMALL)
    finally:
        os.close(file)


def _raised(frame: Mapping[str, str]) -> Exception:
    kind = getattr(errors, frame["kind"], BundleMismatch)
    error: Exception = kind(frame["message"], mend=frame["mend"])
    return error


def _framed(content: object) -> bytes:
    body = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def work(
    line: socket.socket,
    folder: Path,
    identity: str,
    threads: int,
    call_tokens: float,
    *,
    apart: bool = False,
) -> None:
    """The child: open the bundle, say so, answer batches until the parent says no more."""
    try:
        student = _opened(folder, identity, threads, call_tokens)
    except BundleError as error:
        told = {"kind": type(error).__name__, "message": error.message, "mend": error.mend}
        line.sendall(_framed(told))
        return
    line.sendall(_framed(None))
    with line.makefile("rb", _READ) as reader:
        while (texts := _received(reader)) is not None:
            line.sendall(_framed(_answer(student, texts, apart=apart)))


def _received(reader: io.IOBase) -> list[str] | None:
    """The next batch; None when the parent has said its last, be it in the midst of a frame."""
    head = reader.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    body = reader.read(size)
    if len(body) < size:
        return None
    texts: list[str] = pickle.loads(body)  # noqa: S301  our parent's
    return texts


def _opened(folder: Path, identity: str, threads: int, call_tokens: float) -> Student:
    bundle = open_bundle(folder)
    if bundle.id != identity:
        raise BundleMismatch(
            f"{folder} holds another bundle than a moment ago", mend="swap to it by its name"
        )
    student = Student(bundle, threads=threads, call_tokens=call_tokens)
    warm(student)
    return student


def _answer(
    student: Student, texts: list[str], *, apart: bool = False
) -> tuple[Raw, dict[int, str], float, float, list[float] | None]:
    """What each text gave; one that the model fails on has a row of zeros, and why."""
    started = time.perf_counter()
    failures: dict[int, str] = {}
    seconds: list[float] = []
    raw = None
    if not apart:
        with contextlib.suppress(Exception):  # found below
            raw = student.raw(texts)
    if raw is None:
        raw = _singly(student, texts, failures, seconds)
    return raw, failures, started, time.perf_counter(), seconds if apart else None


def _worked() -> float:
    """A clock of this process, in seconds, that stands while others have its processor."""
    return time.perf_counter() - _kept_s("self")


def _singly(
    student: Student, texts: list[str], failures: dict[int, str], seconds: list[float]
) -> Raw:
    count = len(texts)
    raw = Raw(
        np.zeros((count, student.task.outputs), np.float32),
        [False] * count,
        np.zeros(count, np.int64),
        np.zeros(count, np.float32) if student.familiarity else None,
    )
    for place, text in enumerate(texts):
        began = _worked()
        try:
            one = student.raw([text])
        except Exception as error:  # noqa: BLE001  the process must outlive a bad text
            failures[place] = f"{type(error).__name__}: {error}"
            continue
        finally:
            seconds.append(_worked() - began)
        raw.logits[place], raw.lengths[place] = one.logits[0], one.lengths[0]
        raw.truncated[place] = one.truncated[0]
        if raw.distances is not None and one.distances is not None:
            raw.distances[place] = one.distances[0]
    return raw


def _main(arguments: Sequence[str]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the parent, who ends our input in time
    folder, identity, threads, call_tokens, *how = arguments
    # A parent that has died hears nothing, and there is nobody to tell.
    with socket.socket(fileno=0) as line, contextlib.suppress(ConnectionError):
        apart = _APART in how
        work(line, Path(folder), identity, int(threads), float(call_tokens), apart=apart)


if __name__ == "__main__":
    _main(sys.argv[1:])

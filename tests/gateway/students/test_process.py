"""A student in a child process: the answers of one in this process, and an end for every batch."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gateway.contract.bundle import open_bundle
from gateway.errors import BundleCorrupt, Draining, ServingError, StudentFailed
from gateway.settings import environment_without_keys
from gateway.students import process
from gateway.students.batching import Batcher, Timed
from gateway.students.process import ProcessWorker, _Line
from gateway.students.student import Raw, Student
from gateway.students.workers import Ran
from gateway.types import Prediction
from tests.factories import CONFIDENT, UNSURE, tiny_bundle

SOON = 120.0  # seconds; far beyond what any wait here takes
LONG = "word " * 30  # more than the 16 tokens that are read
TEXTS = [CONFIDENT, UNSURE, "urgent: my lawyer says fraud", "hello", LONG]


@pytest.fixture(autouse=True)
def _no_child_is_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that leaves by itself may take its time: on a busy machine it needs that."""
    monkeypatch.setattr(process, "_ENDS_S", SOON)


@pytest.fixture
def student(tmp_path: Path) -> Student:
    return Student(open_bundle(tiny_bundle(tmp_path)))


class Heard:
    """What a worker tells."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Ran] = asyncio.Queue()
        self.ends = 0

    def end(self) -> None:
        """Count the end."""
        self.ends += 1

    async def batch(self) -> Ran:
        """The next batch."""
        async with asyncio.timeout(SOON):
            return await self.batches.get()


def followed(student: Student) -> tuple[ProcessWorker, Heard]:
    """A worker with a child of its own, and what it tells."""
    worker, heard = ProcessWorker(student, environment=environment_without_keys()), Heard()
    worker.follow(heard.batches.put_nowait, heard.end)
    return worker, heard


def workers(student: Student, count: int) -> list[ProcessWorker]:
    """So many workers that run this student."""
    environment = environment_without_keys()
    return [ProcessWorker(student, environment=environment) for _ in range(count)]


@contextmanager
def standing_still(worker: ProcessWorker) -> Iterator[None]:
    """The child runs nothing meanwhile."""
    worker._process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker._process.send_signal(signal.SIGCONT)


def shown(said: Sequence[Prediction | Exception]) -> list[tuple[object, ...]]:
    """Predictions as what can be compared; none of them may be a failure."""
    found = [each for each in said if isinstance(each, Prediction)]
    assert len(found) == len(said)
    return [
        (
            each.bundle,
            each.score,
            each.truncated,
            *((head.head, head.labels, head.probabilities.tolist()) for head in each.heads),
        )
        for each in found
    ]


def answers(results: Sequence[Timed | StudentFailed]) -> list[tuple[object, ...]]:
    """The predictions of a request, as what can be compared."""
    return shown([each.prediction if isinstance(each, Timed) else each for each in results])


def test_a_child_answers_as_this_process_does_and_leaves_when_it_is_closed(
    student: Student,
) -> None:
    async def work() -> None:
        worker, heard = followed(student)
        worker.send(TEXTS)  # before the child is there
        await worker.ready()
        worker.send(["fraud"])
        assert worker.alive
        first, second = await heard.batch(), await heard.batch()
        assert shown(first.outcomes) == shown(student.predict(TEXTS))
        assert [each.truncated for each in student.predict(TEXTS)] == [False] * 4 + [True]
        assert shown(second.outcomes) == shown(student.predict(["fraud"]))
        assert first.started <= first.ended <= second.started <= second.ended
        assert heard.ends == 0
        await worker.close()
        assert (worker._process.returncode, heard.ends) == (0, 1)
        assert not worker.alive
        await worker.close()  # a second time does no harm

    asyncio.run(work())


def test_signals_that_are_for_the_parent_do_not_end_the_child(student: Student) -> None:
    async def work() -> None:
        worker, heard = followed(student)
        await worker.ready()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(worker._process.pid, number)
        worker.send(["refund"])
        assert shown((await heard.batch()).outcomes) == shown(student.predict(["refund"]))
        await worker.close()
        assert worker._process.returncode == 0

    asyncio.run(work())


def test_a_bundle_that_changed_since_it_was_opened_is_refused_and_nothing_is_left(
    student: Student, tmp_path: Path
) -> None:
    other = tiny_bundle(tmp_path / "others", seed=1)
    folder = student.bundle.path
    shutil.rmtree(folder)
    shutil.copytree(other, folder)

    async def work() -> None:
        batcher = Batcher(student, workers(student, 2))
        with pytest.raises(BundleCorrupt, match="the folder is called"):
            await batcher.ready()
        await batcher.close()
        assert not batcher.alive

    asyncio.run(work())


def test_a_child_that_ends_as_it_begins_is_a_failed_student_and_closes(
    student: Student, tmp_path: Path
) -> None:
    site = tmp_path / "site"  # with this the child stands still before it begins
    site.mkdir()
    (site / "sitecustomize.py").write_text("import signal; signal.pause()")

    async def work() -> None:
        heard, environment = Heard(), environment_without_keys() | {"PYTHONPATH": str(site)}
        worker = ProcessWorker(student, environment=environment)
        worker.follow(heard.batches.put_nowait, heard.end)
        worker._process.kill()
        with pytest.raises(StudentFailed, match="ended as it began"):
            await worker.ready()
        await worker.close()
        assert heard.ends == 1

    asyncio.run(work())


def test_a_child_that_does_not_leave_is_ended(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_ENDS_S", 0.01)

    async def work() -> None:
        worker, heard = followed(student)
        await worker.ready()
        worker._process.send_signal(signal.SIGSTOP)
        await worker.close()
        assert (worker._process.returncode, heard.ends) == (-signal.SIGKILL, 1)

    asyncio.run(work())


def test_one_who_stops_waiting_for_a_child_does_not_keep_it_from_getting_ready(
    student: Student,
) -> None:
    async def work() -> None:
        worker, heard = followed(student)
        waiting = asyncio.create_task(worker.ready())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await worker.ready()
        worker.send(["fraud"])
        assert shown((await heard.batch()).outcomes) == shown(student.predict(["fraud"]))
        await worker.close()

    asyncio.run(work())


def test_a_busy_child_is_given_its_next_batch_when_four_texts_wait(student: Student) -> None:
    async def work() -> None:
        (worker,) = workers(student, 1)
        batcher = Batcher(student, [worker])
        (place,) = batcher._places
        await batcher.ready()
        with standing_still(worker):
            jobs = [batcher.submit([text]) for text in ("first", "a", "b", "c")]
            assert ([len(each) for each in place.batches], batcher.depth) == ([1], 3)
            jobs.append(batcher.submit(["fraud"]))  # the fourth that waits
            assert ([len(each) for each in place.batches], batcher.depth) == ([1, 4], 0)
            jobs += [batcher.submit(["refund"] * 4)]  # two batches are all that it holds
            assert ([len(each) for each in place.batches], batcher.depth) == ([1, 4], 4)
        *_, fraud, refunds = await asyncio.gather(*jobs)
        assert answers(fraud) == shown(student.predict(["fraud"]))
        assert answers(refunds) == shown(student.predict(["refund"] * 4))
        await batcher.close()

    asyncio.run(work())


def test_a_child_that_is_killed_costs_its_own_batches_and_no_others(student: Student) -> None:
    seen: list[int] = []

    async def work() -> None:
        killed, left = workers(student, 2)
        batcher = Batcher(
            student, [killed, left], max_rows=1, observe=lambda rows, _: seen.append(rows)
        )
        await batcher.ready()
        with standing_still(left):
            killed._process.send_signal(signal.SIGSTOP)
            lost = batcher.submit(["lost"])  # the first worker has it
            other = batcher.submit(["fraud"])
            waiting = batcher.submit(["refund", "hello"])
            killed._process.kill()
            async with asyncio.timeout(SOON):
                (failed,) = await lost
            assert isinstance(failed, StudentFailed)
            assert "ended" in failed.message
            assert not batcher.alive
            assert not other.done()
            assert not waiting.done()
        assert answers(await other) == shown(student.predict(["fraud"]))
        assert answers(await waiting) == shown(student.predict(["refund", "hello"]))
        assert answers(await batcher.submit(["later"])) == shown(student.predict(["later"]))
        async with asyncio.timeout(SOON):
            await batcher.close()

    asyncio.run(work())
    assert seen == [1, 1, 1, 1]  # the lost batch has no time to be told of


def test_a_batcher_that_closes_does_not_wait_for_a_child_that_is_killed_meanwhile(
    student: Student,
) -> None:
    async def work() -> None:
        held, idle = workers(student, 2)
        batcher = Batcher(student, [held, idle])
        await batcher.ready()
        held._process.send_signal(signal.SIGSTOP)
        lost = batcher.submit(["lost"])
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            batcher.submit(["late"])
        held._process.kill()
        async with asyncio.timeout(SOON):
            (failed,) = await lost
            await closing
        assert isinstance(failed, StudentFailed)
        assert idle._process.returncode == 0

    asyncio.run(work())


def test_after_the_last_child_nobody_waits_for_an_answer(student: Student) -> None:
    async def work() -> None:
        (worker,) = workers(student, 1)
        batcher = Batcher(student, [worker], max_rows=1)
        await batcher.ready()
        worker._process.send_signal(signal.SIGSTOP)
        held = batcher.submit(["held"])
        waiting = batcher.submit(["waiting"])
        worker._process.kill()
        async with asyncio.timeout(SOON):
            (failed,) = await held
            assert isinstance(failed, StudentFailed)
            with pytest.raises(ServingError, match="every worker of the student has ended"):
                await waiting
        assert batcher.depth == 0
        with pytest.raises(ServingError, match="every worker"):
            batcher.submit(["later"])
        await batcher.close()

    asyncio.run(work())


class Frames:
    """The parent's words over a socket, to a child's `work` in a thread of this process."""

    def __init__(self, student: Student, *, identity: str | None = None) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(SOON)
        bundle = student.bundle

        def work() -> None:
            with theirs:
                process.work(theirs, bundle.path, identity or bundle.id, 1, student.call_tokens)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def read(self) -> Any:
        """The next frame that the child says."""
        (size,) = struct.unpack("!I", self.ours.recv(4, socket.MSG_WAITALL))
        return pickle.loads(self.ours.recv(size, socket.MSG_WAITALL))  # noqa: S301  our own

    def ask(self, texts: list[str]) -> Any:
        """What the child says of a batch."""
        self.ours.sendall(process._framed(texts))
        return self.read()

    def end(self) -> None:
        """Say no more; the child ends."""
        self.ours.shutdown(socket.SHUT_WR)
        self._thread.join(SOON)
        assert not self._thread.is_alive()
        assert self.ours.recv(1) == b""
        self.ours.close()


def test_a_child_says_that_it_is_ready_then_logits_then_leaves(student: Student) -> None:
    frames = Frames(student)
    assert frames.read() is None
    raw, failures, started, ended, apart = frames.ask(TEXTS)
    here = student.raw(TEXTS)
    np.testing.assert_array_equal(raw.logits, here.logits)
    np.testing.assert_array_equal(raw.lengths, here.lengths)
    assert (raw.truncated, raw.distances, failures) == ([False] * 4 + [True], None, {})
    assert started <= ended
    assert apart is None
    frames.end()


@pytest.mark.parametrize("kept", [2, 9], ids=["of its length", "of its texts"])
def test_a_parent_that_dies_in_the_midst_of_a_frame_ends_the_child(
    student: Student, kept: int
) -> None:
    frames = Frames(student)
    assert frames.read() is None
    frames.ours.sendall(process._framed(["half"])[:kept])
    frames.end()


def test_a_child_that_finds_another_bundle_says_so_and_leaves(student: Student) -> None:
    frames = Frames(student, identity="0" * 64)
    assert frames.read() == {
        "kind": "BundleMismatch",
        "message": f"{student.bundle.path} holds another bundle than a moment ago",
        "mend": "swap to it by its name",
    }
    frames.end()


def test_what_kept_the_child_from_opening_is_raised_here_as_it_was_there() -> None:
    error = process._raised({"kind": "BundleMissing", "message": "gone", "mend": "put it back"})
    assert (type(error).__name__, str(error.args[0])) == ("BundleMissing", "gone")
    assert getattr(error, "mend", "") == "put it back"


def poisoned(student: Student) -> Callable[[Sequence[str]], Raw]:
    """Logits as ever, but no batch with "poison" has any, and "nan" has one that is no number."""
    plain = student.raw

    def raw(texts: Sequence[str]) -> Raw:
        if "poison" in texts:
            raise ValueError("no such thing")
        said = plain(texts)
        for place, text in enumerate(texts):
            if text == "nan":
                said.logits[place, 0] = np.nan
        return said

    return raw


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poison", "the student failed: ValueError: no such thing"),
        ("nan", "the model gave a number that is not finite"),
    ],
)
def test_a_text_that_the_model_fails_on_in_the_child_fails_alone(
    student: Student, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    texts = ["fraud", text, LONG]
    alone = shown(student.predict(["fraud", LONG]))
    monkeypatch.setattr(student, "raw", poisoned(student))

    async def work() -> Ran:
        worker, _ = followed(student)
        await worker.close()
        return worker._read(process._answer(student, texts))

    first, failed, last = asyncio.run(work()).outcomes
    assert shown([first, last]) == alone
    assert isinstance(failed, StudentFailed)
    assert failed.message == message


def test_texts_that_are_run_apart_have_times_of_their_own_without_those_of_others(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two seconds others had half a one, and of the next four three."""
    alone = shown(student.predict(["fraud"])), shown(student.predict([LONG]))
    times, kept = iter([0.0, 1.0, 3.0, 3.0, 7.0, 9.0]), iter([0.0, 0.5, 0.5, 3.5])
    monkeypatch.setattr(process, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    monkeypatch.setattr(process, "_kept_s", lambda _process: next(kept))
    answered = process._answer(student, ["fraud", LONG], apart=True)
    monkeypatch.undo()

    async def work() -> Ran:
        worker, _ = followed(student)
        await worker.close()
        return worker._read(answered)

    ran = asyncio.run(work())
    assert (ran.started, ran.ended, ran.seconds) == (0.0, 9.0, [1.5, 1.0])
    assert (shown([ran.outcomes[0]]), shown([ran.outcomes[1]])) == alone


def test_frames_may_come_in_pieces_and_several_in_one_piece() -> None:
    heard: list[object] = []
    line = _Line(heard.append, lambda: heard.append("lost"))
    one, two, three = map(process._framed, ([1, "a"], None, "x" * 70_000))
    for byte in one[:-1]:
        line.data_received(bytes([byte]))
    assert heard == []
    line.data_received(one[-1:] + two + three[:100])
    assert heard == [[1, "a"], None]
    line.data_received(three[100:] + two)
    assert heard == [[1, "a"], None, "x" * 70_000, None]
    line.connection_lost(None)
    assert heard[-1] == "lost"


def test_the_command_of_the_child_leaves_the_signals_of_the_parent_alone(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    ignored: dict[int, object] = {}
    monkeypatch.setattr("gateway.students.process.signal.signal", ignored.__setitem__)
    monkeypatch.setattr(
        "gateway.students.process.socket.socket", lambda fileno: {0: theirs}[fileno]
    )
    ours.shutdown(socket.SHUT_WR)
    bundle = student.bundle
    process._main([str(bundle.path), bundle.id, "1", str(student.call_tokens)])
    with ours:
        assert ours.recv(100) == process._framed(None)
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    assert ignored == dict.fromkeys(wanted, signal.SIG_IGN)
    assert theirs.fileno() == -1


def aside(student: Student) -> tuple[ProcessWorker, Heard]:
    """A worker that stands aside, and what it tells."""
    worker, heard = (
        ProcessWorker(student, environment=environment_without_keys(), aside=True),
        Heard(),
    )
    worker.follow(heard.batches.put_nowait, heard.end)
    return worker, heard


def test_a_child_that_is_aside_gives_way_to_all_others(student: Student) -> None:
    async def play() -> None:
        worker, _ = aside(student)
        child = worker._process.pid  # it is not waited for: on a busy machine it has no turn
        assert os.sched_getscheduler(child) == os.SCHED_IDLE
        assert os.getpriority(os.PRIO_PROCESS, child) == 19
        worker.kill()
        await worker.close()

    asyncio.run(play())


def test_a_child_that_is_aside_tells_what_each_text_took_and_how_long_it_was_kept(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_stand_aside", lambda _child: None)  # else it may have no turn

    async def play() -> None:
        worker, heard = aside(student)
        await worker.ready()
        worker.send(TEXTS)
        apart = (await heard.batch()).apart  # so that no text has a part of another's time
        assert apart is not None
        assert len(apart) == len(TEXTS)
        assert worker.kept_s() > 0.0  # it has waited for a processor, if only for microseconds
        await worker.close()
        assert worker.kept_s() == 0.0

    asyncio.run(play())

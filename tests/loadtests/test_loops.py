"""The open and the closed loop against a real gateway, and against a server that stalls."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from gateway.api.auth import new_key
from gateway.errors import StageFailed, UsageError
from loadtests import bodies, closed_loop, open_loop
from loadtests.crew import Start, together
from loadtests.exchange import Exchange, shares
from loadtests.open_loop import Arrivals, Schedule
from loadtests.tally import Tally
from loadtests.wire import Lines, connected
from tests.acceptance.process import Process
from tests.factories import CONFIDENT, UNSURE, settings_file
from tests.loadtests.canned import Said, canned

pytestmark = pytest.mark.acceptance

# A busy machine must not refuse what is not about punctuality, nor end what is not about time.
_open = partial(open_loop.run, late_ms=60_000.0, timeout_s=60.0)
_closed = partial(closed_loop.run, seconds=120.0, timeout_s=60.0)
_PATIENT = ("--seconds", "120", "--timeout", "60")  # likewise, for the command of the closed loop
_LABELS = {"intent": "refund", "flags": []}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A gateway in a process of its own, without keys."""
    process = Process(settings_file(tmp_path_factory.mktemp("gateway")))
    yield process
    process.close()


@pytest.fixture
def url(gateway: Process) -> str:
    return f"{gateway.url}/v1/predict"


def test_a_closed_loop_sends_just_as_many_as_asked_for(gateway: Process, url: str) -> None:
    before = gateway.metric('understudy_requests_total{code="200",route="student",task="tickets"}')
    result = _closed(url, bodies.of_texts([CONFIDENT]), connections=4, count=50)
    after = gateway.metric('understudy_requests_total{code="200",route="student",task="tickets"}')
    assert (result.loop, result.requests, result.statuses) == ("closed", 50, {200: 50})
    assert result.errors == 0
    assert after - before == 50
    assert result.latency is not None
    assert result.latency.count == 50
    assert result.punctuality is None


def test_a_closed_loop_ends_with_its_time(url: str) -> None:
    result = _closed(url, bodies.of_texts([CONFIDENT]), connections=2, seconds=0.2)
    assert result.requests == result.succeeded > 0
    assert result.seconds >= 0.19


def test_an_open_loop_sends_its_whole_schedule(url: str) -> None:
    result = _open(url, bodies.of_texts([CONFIDENT]), rate=200, seconds=0.3, connections=8)
    assert (result.loop, result.requests, result.statuses) == ("open", 60, {200: 60})
    assert result.punctuality is not None
    assert result.punctuality.intended_per_s == 200
    assert result.refusal == ""


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_several_processes_share_the_work_and_start_together(url: str, loop: str) -> None:
    sent = bodies.of_texts([CONFIDENT, UNSURE])
    if loop == "open":
        result = _open(url, sent, rate=100, seconds=0.31, connections=3, processes=2)
    else:
        result = _closed(url, sent, connections=3, processes=2, count=31)
    assert (result.requests, result.succeeded, result.processes) == (31, 31, 2)


def test_a_mistake_in_another_process_is_raised_here() -> None:
    with pytest.raises(UsageError, match="nothing answers there"):
        closed_loop.run("http://127.0.0.1:9/", [b"{}"], connections=2, processes=2, count=2)


def _ends_at_once(plan: int, start: Start) -> Tally:
    start()
    os._exit(plan)


def test_a_generator_process_that_dies_is_no_result() -> None:
    with pytest.raises(StageFailed, match="ended without its figures"):
        together(_ends_at_once, [0, 1])


@contextmanager
def one_line(url: str) -> Iterator[tuple[Exchange, Lines]]:
    """An exchange on one connection, whose requests leave when a test says so."""
    (share,) = shares(
        url,
        [b"{}"],
        connections=1,
        processes=1,
        headers=None,
        timeout_s=60.0,
        check=None,
        timing=False,
    )
    with connected(share.target, 1) as lines:
        yield Exchange(share, lines, time.monotonic()), lines


def test_a_connection_that_was_closed_while_idle_is_opened_again() -> None:
    with canned(lambda _: Said(close=True)) as url, one_line(url) as (exchange, lines):
        for number in range(3):
            assert exchange.send(lines.all[0], number, 0.0)
            while lines.by_number:  # until it is closed, behind its reply
                exchange.collect(lines.wait(1.0), time.monotonic())
    assert (exchange.tally.statuses(), exchange.tally.failures) == ({200: 3}, {})


def test_a_connection_that_was_idle_for_long_is_not_trusted() -> None:
    """Its server may close it while the request is under way, and then nobody answers it."""
    with canned(lambda _: Said()) as url, one_line(url) as (exchange, lines):
        (line,) = lines.all
        used = []
        for idle_s in (0.0, 60.0, 0.0):
            line.idle_since = time.monotonic() - idle_s
            assert exchange.send(line, 0, 0.0)
            used.append(line._socket)
            while exchange.in_flight:
                exchange.collect(lines.wait(1.0), time.monotonic())
    assert used[0] is not used[1] is used[2]
    assert (exchange.tally.statuses(), exchange.tally.failures) == ({200: 3}, {})


def test_replies_are_checked_against_the_labels_that_were_expected(url: str) -> None:
    sent = bodies.of_texts([CONFIDENT, "fraud"], task="tickets")
    right = bodies.ExpectedLabels([_LABELS, {"intent": "fraud", "flags": []}])
    wrong = bodies.ExpectedLabels([_LABELS, _LABELS])
    assert _closed(url, sent, connections=2, count=10, check=right).wrong == 0
    result = _closed(url, sent, connections=2, count=10, check=wrong)
    assert (result.succeeded, result.wrong, result.errors) == (10, 5, 5)
    assert _open(url, sent, rate=100, seconds=0.1, check=wrong).wrong == 5


def test_the_replies_to_many_texts_are_checked_in_their_order(url: str) -> None:
    sent = bodies.of_texts([CONFIDENT, "fraud", CONFIDENT], rows=2)
    fraud = {"intent": "fraud", "flags": []}
    check = bodies.ExpectedLabels([[_LABELS, fraud], [_LABELS, _LABELS]])
    result = _closed(url, sent, connections=1, count=4, check=check)
    assert (result.succeeded, result.wrong) == (4, 0)


def test_refusals_are_counted_by_status_and_code(url: str) -> None:
    result = _closed(url, bodies.of_texts(["x"], task="nothing"), connections=1, count=3)
    assert (result.statuses, result.codes) == ({404: 3}, {"unknown_task": 3})
    assert (result.succeeded, result.errors, result.latency) == (0, 3, None)
    assert result.by_status[404].count == 3


def test_the_gateways_own_time_is_read_from_its_replies(url: str) -> None:
    result = _open(url, bodies.of_texts([CONFIDENT]), rate=100, seconds=0.2, timing=True)
    assert result.overhead is not None
    inside, outside = result.overhead.inside, result.overhead.outside
    assert inside.count == outside.count == 20
    assert 0 < inside.p50 < outside.p50  # a client also sees HTTP and sockets


def test_a_server_that_stalls_once_shows_in_the_p99_of_an_open_loop() -> None:
    # 200 requests, one every 5 ms. The 100th stalls everything for 0.5 s: the 100 that were due in
    # that time waited from 0.5 s down to nothing, so at least 60 of them for 0.2 s or more.
    with canned(lambda number: Said(stall_s=0.5 if number == 99 else 0.0)) as url:
        result = _open(url, [b"{}"], rate=200, seconds=1.0, arrivals=Arrivals.CONSTANT)
    assert (result.requests, result.succeeded) == (200, 200)
    assert result.latency is not None
    assert result.latency.p99 >= 450
    assert result.latency.mean >= 60  # 100 x 0.25 s over 200 requests is 125 ms; a busy start less


def test_a_stall_is_charged_to_those_who_had_to_wait_for_a_connection_too() -> None:
    with canned(lambda number: Said(stall_s=0.4 if number == 0 else 0.0)) as url:
        result = _open(
            url, [b"{}"], rate=100, seconds=0.5, connections=2, arrivals=Arrivals.CONSTANT
        )
    assert result.punctuality is not None
    assert result.punctuality.starved >= 30  # 40 were due in the stall, and 2 had a connection
    assert result.latency is not None
    assert result.latency.p50 >= 100


def test_a_generator_that_could_not_keep_its_schedule_refuses_the_result(url: str) -> None:
    # No send can be earlier than its moment, and 0 ms after it is late here.
    result = _open(url, bodies.of_texts([CONFIDENT]), rate=50, seconds=0.2, late_ms=0.0)
    assert "could not hold 50 requests/s" in result.refusal
    assert result.latency is None
    assert result.succeeded == 10


def test_requests_that_cannot_be_sent_in_time_are_errors() -> None:
    with canned(lambda _: Said([])) as url:
        result = _open(url, [b"{}"], rate=20, seconds=0.5, connections=1, timeout_s=0.1)
    assert (result.requests, result.succeeded, result.errors) == (10, 0, 10)
    assert set(result.failures) <= {"timeout", "unsent"}
    assert sum(result.failures.values()) == 10


def test_constant_arrivals_are_evenly_apart() -> None:
    assert Schedule(4.0, 3, Arrivals.CONSTANT, 0).times() == [0.0, 0.25, 0.5]


def test_random_arrivals_are_the_same_for_the_same_seed_and_keep_their_rate() -> None:
    times = Schedule(100.0, 10_000, Arrivals.POISSON, 1).times()
    assert times == Schedule(100.0, 10_000, Arrivals.POISSON, 1).times()
    assert times != Schedule(100.0, 10_000, Arrivals.POISSON, 2).times()
    assert times == sorted(times)
    assert times[-1] == pytest.approx(100.0, rel=0.05)  # five times its standard error


@pytest.mark.parametrize(
    ("rate", "seconds"), [(0.0, 1.0), (100.0, -1.0), (1e6, 1e6), (float("nan"), 1.0)]
)
def test_an_open_loop_that_makes_no_run_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(UsageError, match="no run"):
        open_loop.run("http://127.0.0.1:9", [b"{}"], rate=rate, seconds=seconds)


def test_a_process_without_a_connection_is_refused() -> None:
    with pytest.raises(UsageError, match="each needs a connection"):
        open_loop.run("http://127.0.0.1:9", [b"{}"], rate=1.0, connections=1, processes=2)


def test_a_closed_loop_that_makes_no_run_is_refused() -> None:
    with pytest.raises(UsageError, match="no run"):
        closed_loop.run("http://127.0.0.1:9", [b"{}"], count=0)
    with pytest.raises(UsageError, match="no body"):
        closed_loop.run("http://127.0.0.1:9", [])


def test_the_commands_print_a_table_for_people(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    five = [url, "--count", "5", "--connections", "1", *_PATIENT]
    assert closed_loop.main([*five, "--task", "nothing"]) == 0
    assert "code unknown_task" in capsys.readouterr().out
    assert closed_loop.main([*five, "--timing"]) == 0
    assert "gateway's own time" in capsys.readouterr().out
    given = [url, "--rate", "50", "--timing", "--late-ms", "60000", "--timeout", "60"]
    assert open_loop.main([*given, "--seconds", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "gateway's own time" in printed
    assert "50.0/s intended" in printed


def test_the_command_ends_with_3_when_the_result_is_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(f"{CONFIDENT}\n")
    given = [url, "--texts", str(texts), "--rate", "50", "--seconds", "0.2", "--late-ms", "0"]
    assert open_loop.main([*given, "--json"]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["latency"] is None
    assert printed.err.startswith("refused: the generator could not hold 50 requests/s")


def test_the_command_checks_labels_of_a_file_and_sends_its_headers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, digest = new_key("load")
    process = Process(settings_file(tmp_path / "g", keys=[{"name": "load", "sha256": digest}]))
    sent, labels = tmp_path / "bodies.jsonl", tmp_path / "labels.jsonl"
    sent.write_bytes(b"\n".join(bodies.of_texts([CONFIDENT, "fraud"])))
    labels.write_text('{"intent": "refund", "flags": []}\n{"intent": "other", "flags": []}\n')
    given = [f"{process.url}/v1/predict", "--bodies", str(sent), "--expect", str(labels)]
    given += ["--count", "4", "--connections", "1", "--json", *_PATIENT]
    try:
        assert closed_loop.main(given) == 0
        assert json.loads(capsys.readouterr().out)["codes"] == {"unauthorized": 4}
        assert closed_loop.main([*given, "--api-key", key]) == 0
        assert json.loads(capsys.readouterr().out)["wrong"] == 2
        assert closed_loop.main([*given, "--header", f"X-Api-Key: {key}"]) == 0
        assert json.loads(capsys.readouterr().out)["succeeded"] == 4
    finally:
        process.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--header", "nothing"], "no header"),
        (["--header", "a: b\r\nc: d"], "no header"),
        (["--rows", "2"], "not possible here"),
        (["--texts", "missing.txt"], "cannot be read"),
        (["--bodies", "broken.jsonl"], "broken.jsonl:2: not JSON"),
        (["--texts", "empty.txt"], "nothing in it"),
        (["--texts", "one.txt", "--expect", "two.jsonl"], "2 lines for 1 bodies"),
    ],
)
def test_a_mistake_in_the_options_is_said_with_exit_status_2(
    given: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "one.txt").write_text("text\n")
    (tmp_path / "two.jsonl").write_text('"a"\n"b"\n')
    (tmp_path / "broken.jsonl").write_text("{}\n{\n")
    assert closed_loop.main(["http://127.0.0.1:9", *given]) == 2
    assert said in capsys.readouterr().err

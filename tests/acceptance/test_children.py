"""A student in processes of its own: who ends them, and what is left of them. Nothing is."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.acceptance.conftest import Starter
from tests.acceptance.process import GATEWAY, TIMEOUT_S, Process
from tests.factories import CONFIDENT, settings_file

pytestmark = pytest.mark.acceptance

TWO = {"student": {"workers": 2}}


@contextmanager
def children(process: Process) -> Iterator[Sequence[int]]:
    """A descriptor of each child of a gateway, which turns readable when that child has ended."""
    with ExitStack() as stack:
        found = []
        for child in pids(process):
            found.append(os.pidfd_open(child))
            stack.callback(os.close, found[-1])
        yield found


def pids(process: Process) -> list[int]:
    """The children of a gateway: those of its first thread, as no other one starts any."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(each) for each in children.read_text().split()]


def all_end(found: Sequence[int]) -> bool:
    """Whether every one of these children ends; waits for it."""
    return all(select.select([each], [], [], TIMEOUT_S)[0] for each in found)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_no_child_outlives_its_gateway_however_that_ends(
    start: Starter, number: signal.Signals, status: int
) -> None:
    process = start(tickets=TWO)
    with children(process) as found:
        assert len(found) == 2
        process.ask(CONFIDENT)
        assert process.leave(number) == status
        assert all_end(found)
    assert "Traceback" not in process.log


def test_a_child_that_is_killed_is_seen_and_the_others_go_on_answering(start: Starter) -> None:
    process = start(tickets=TWO)
    assert httpx2.get(f"{process.url}/livez", timeout=TIMEOUT_S).status_code == 200
    with children(process) as found:
        signal.pidfd_send_signal(found[0], signal.SIGKILL)
        assert all_end(found[:1])
        answers = [process.ask(CONFIDENT) for _ in range(20)]
    # One that met the child's end may have gone to the teacher; none was lost.
    assert [each["route"] for each in answers].count("student") >= len(answers) - 1
    assert httpx2.get(f"{process.url}/livez", timeout=TIMEOUT_S).status_code == 503
    assert process.leave() == 0


def test_a_gateway_without_any_child_left_says_so_and_still_ends_in_order(start: Starter) -> None:
    process = start(tickets=TWO)
    with children(process) as found:
        for each in found:
            signal.pidfd_send_signal(each, signal.SIGKILL)
        assert all_end(found)
    process.post({"inputs": [CONFIDENT] * 8})
    reply = process.post({"input": CONFIDENT})
    assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")
    assert httpx2.get(f"{process.url}/livez", timeout=TIMEOUT_S).status_code == 503
    assert process.leave() == 0


def test_a_check_of_the_settings_leaves_no_child(tmp_path: Path) -> None:
    config = settings_file(tmp_path, run_in="processes", tickets=TWO)
    check = subprocess.Popen([*GATEWAY, "check", "--config", str(config)], start_new_session=True)
    assert check.wait(TIMEOUT_S) == 0
    with pytest.raises(ProcessLookupError):  # its children were of the same group
        os.killpg(check.pid, 0)

"""The Locust file drives a real gateway process and counts answers by route."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import CONFIDENT, UNSURE, settings_file
from tests.house.pages import ROOT

pytestmark = pytest.mark.acceptance

_SECONDS = 240  # far more than any of these processes takes


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway in a process of its own; yields its address, then drains it."""
    command = [sys.executable, "-m", "gateway", "serve", "--port", "0"]
    command += ["--config", str(settings_file(tmp_path_factory.mktemp("gateway")))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        try:
            yield ready[3]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(_SECONDS) == 0


def _locust(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless"]
    # Bounded by count: a time that is short enough for a test may pass without one answer.
    command += ["--host", url, "-u", "2", "-r", "2", "-t", "180s", "--json"]
    command += ["--answers", "20", *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=_SECONDS
    )


def _counts(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[int, int]]:
    """Name -> (requests, failures), as Locust prints them."""
    rows = json.loads(done.stdout)
    return {row["name"]: (row["num_requests"], row["num_failures"]) for row in rows}


def test_answers_to_a_file_of_texts_are_counted_by_route(url: str, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(f"{CONFIDENT}\n\n{UNSURE}\n")
    done = _locust(url, "--texts", str(texts))
    assert done.returncode == 0, done.stderr
    counts = _counts(done)
    assert 20 <= sum(requests for requests, _ in counts.values()) < 60  # some are under way then
    assert set(counts) == {"/v1/predict student", "/v1/predict teacher"}
    assert all(requests > 0 and failures == 0 for requests, failures in counts.values())


def test_tickets_are_sent_where_no_file_is_named(url: str) -> None:
    done = _locust(url, "--seed", "1")
    assert done.returncode == 0, done.stderr
    counts = _counts(done)
    # Most tickets are longer than the tiny student reads, so the teacher is among those who answer.
    assert counts["/v1/predict teacher"][0] > 0
    assert all(failures == 0 for _, failures in counts.values())


def test_a_refusal_is_a_failure_with_its_code(url: str) -> None:
    done = _locust(url, "--task", "unknown")
    assert done.returncode == 1
    counts = _counts(done)["/v1/predict"]
    assert counts[0] == counts[1] > 0
    assert "HTTP 404: unknown_task" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"), [("\n \n", "no text in it"), (None, "cannot be read")]
)
def test_a_file_without_texts_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    texts = tmp_path / "texts.txt"
    if content is not None:
        texts.write_text(content)
    done = _locust("http://127.0.0.1:9", "--texts", str(texts))
    assert done.returncode == 2
    assert said in done.stderr

"""Log lines: their form, their level, and what they never hold."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway.errors import SettingsError
from gateway.telemetry.logs import configure


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail() -> None:
    raise ValueError("bad\x1bvalue")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_machine_gets_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", json=True)
    structlog.get_logger("room").info("the gateway\nis ready", port=8080)
    (line,) = lines(capsys)
    entry = json.loads(line)
    assert entry.pop("at").endswith("Z")
    assert entry == {
        "event": "the gateway\nis ready",
        "level": "info",
        "logger": "room",
        "port": 8080,
    }


def test_lines_of_libraries_look_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", json=True)
    logging.getLogger("library").warning("slow %s", "disk", extra={"body": "secret"})
    entry = json.loads(lines(capsys)[0])
    assert (entry["event"], entry["level"], entry["logger"], entry["body"]) == (
        "slow disk",
        "warning",
        "library",
        "[6 long]",
    )


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning", json=True)
    structlog.get_logger("room").info("quiet")
    logging.getLogger("library").info("quiet")
    assert lines(capsys) == []


@pytest.mark.parametrize("json_lines", [True, False])
def test_request_text_is_replaced_by_its_length(
    capsys: pytest.CaptureFixture[str], *, json_lines: bool
) -> None:
    configure("info", json=json_lines)
    structlog.get_logger("room").info("answered", text="my card is 4111", fields=12)
    (line,) = lines(capsys)
    assert "4111" not in line
    assert "[15 long]" in line
    assert "[not logged]" in line


def test_control_characters_cannot_forge_a_line_or_steer_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("info", json=False)
    structlog.get_logger("room").info("seen", task="a\nb\x1b[31m\u2028")
    (line,) = lines(capsys)
    assert "\x1b" not in line
    assert "a\\x0ab\\x1b[31m\\x2028" in line


def test_a_stack_trace_for_people_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", json=False)
    try:
        fail()
    except ValueError:
        structlog.get_logger("room").exception("failed")
    shown = lines(capsys)
    assert "Traceback (most recent call last):" in shown
    assert "ValueError: bad\\x1bvalue" in shown


def test_values_that_are_no_text_are_left_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", json=False)
    structlog.get_logger("room").info("listening", port=8080)
    assert "port=8080" in lines(capsys)[0]


def test_an_unknown_level_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(SettingsError, match=r"logging\.level: 'loud'") as caught:
        configure("loud", json=True)
    assert "debug, info, warning, error" in caught.value.mend

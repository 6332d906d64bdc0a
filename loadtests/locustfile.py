"""Drives POST /v1/predict over HTTP: texts of a file, or tickets of the ticket world without end.

    locust -f loadtests/locustfile.py --headless --host http://127.0.0.1:8080 -u 20 -r 20 -t 30s

Each answer is counted under who gave it (`/v1/predict student`, `/v1/predict teacher`, ...), so
that the latency of each route stands in a row of its own. The load is closed-loop: README.md says
what its figures do not show. It knows the gateway only by its HTTP interface.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import orjson
from locust import FastHttpUser, constant, events, task

from distill.demo.traffic import traffic
from gateway.errors import DataError

_PATH = "/v1/predict"
_HEADERS = {"content-type": "application/json"}


class Client(FastHttpUser):
    """Sends the next text as soon as the answer to the one before is there."""

    wait_time = constant(0)

    @task
    def predict(self) -> None:
        """Send one text; the route that answered becomes part of the request's name."""
        environment = self.environment
        with self.client.post(
            _PATH, data=next(environment.bodies), headers=environment.headers, catch_response=True
        ) as response:
            route = (response.headers or {}).get("x-understudy-route")
            if route:
                response.request_meta["name"] = f"{_PATH} {route}"
            if response.status_code != 200:
                response.failure(f"HTTP {response.status_code}: {_code(response.text)}")


def bodies(texts: Path | None, task_name: str | None, seed: int) -> Iterator[bytes]:
    """Request bodies without end: the lines of a file in turn, or tickets.

    Raises DataError when the file cannot be read or has no line with text.
    """
    common = {"task": task_name} if task_name else {}
    if texts is not None:
        return cycle([orjson.dumps(common | {"input": text}) for text in _lines(texts)])
    return (
        orjson.dumps(common | {"input": ticket.text, "fields": {"amount": ticket.amount}})
        for ticket in traffic(seed=seed)
    )


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: Any) -> None:
    parser.add_argument("--texts", type=Path, help="a file with one text a line; else tickets")
    parser.add_argument("--task", help="the task to ask, where the gateway serves several")
    parser.add_argument("--seed", type=int, default=0, help="of the tickets")
    parser.add_argument("--answers", type=int, help="stop after so many; else at the end of -t")
    parser.add_argument(
        "--api-key", env_var="UNDERSTUDY_API_KEY", is_secret=True, help="where the gateway has keys"
    )


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    try:
        environment.bodies = bodies(options.texts, options.task, options.seed)
    except DataError as error:
        sys.stderr.write(f"locustfile: {error}\n")
        sys.exit(error.exit_status)
    key = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    environment.headers = _HEADERS | key
    if options.answers is not None:
        _stop_after(environment, options.answers)


def _stop_after(environment: Any, answers: int) -> None:
    """A greenlet of its own ends the run: a client that did would end itself on the way."""
    ending = gevent.event.Event()

    def look(**_: Any) -> None:
        if environment.stats.total.num_requests >= answers:
            ending.set()

    def end() -> None:
        ending.wait()
        environment.runner.quit()

    environment.events.request.add_listener(look)
    gevent.spawn(end)


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--texts {path}: cannot be read: {error}", mend="name a UTF-8 file, one text a line"
        ) from error
    texts = [line for line in lines if line]
    if not texts:
        raise DataError(f"--texts {path}: no text in it", mend="write one text a line")
    return texts


def _code(body: str | None) -> str:
    """The code of a problem document; what is none has no code."""
    try:
        return str(orjson.loads(body or "")["code"])
    except (ValueError, KeyError, TypeError):
        return "no problem document"

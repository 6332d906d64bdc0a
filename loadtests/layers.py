"""What each layer of one request costs: microseconds of processor time, each by itself.

    python -m loadtests.layers --bundle understudy-demo/bundles/student

Unlike its neighbours it looks inside: each part of the path is called as the gateway calls it, on
real texts and a real bundle, with a key, a policy, metrics and records on. The parts are measured
in turns, and the median of the turns counts; on a busy host all of them are too high together.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import uvloop
import yaml
from rich.console import Console
from rich.table import Table
from starlette.types import Message

from distill.demo.traffic import traffic
from gateway import identity, settings
from gateway.api import predict
from gateway.api.auth import Keyring, new_key
from gateway.api.limits import read_body
from gateway.app import build_app
from gateway.assembly import Gateway, open_gateway
from gateway.contract.bundle import open_bundle
from gateway.errors import UnderstudyError
from gateway.routing.rung import Rung
from gateway.students.batching import Batcher
from gateway.students.student import Student
from gateway.students.workers import ThreadWorker
from gateway.telemetry import logs
from gateway.types import Answer, Instance, Prediction
from loadtests import bodies, decision
from loadtests.decision import Costs

_TURNS = 9
_CALLS = 300  # of a part in a turn
_CROWD = 64  # requests at once, where parts wait for each other
_BODY = 1 << 20  # bytes
_MICRO = 1e6  # microseconds in a second
_LOOP, _WORKER, _WRITER = "event loop", "worker", "writer"

Part = Callable[[int], Awaitable[None]]  # does one thing so many times


class _Ready(Student):
    """A student that has its answer ready: what is left is the way to it and back."""

    said: Prediction

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """The same for every text."""
        return [self.said] * len(texts)


class Request:
    """Everything that one request meets, by its parts."""

    def __init__(self, gateway: Gateway, texts: Sequence[str], key: str) -> None:
        (cascade,) = gateway.tasks.values()
        self._gateway = gateway
        student = cascade.rung.student.student
        if student is None:
            raise RuntimeError("the settings name a student, and none serves")
        self._student = student
        self._texts = itertools.cycle(texts)
        self._bodies = itertools.cycle(bodies.of_texts(texts))
        self._keyring = Keyring(lambda: gateway.settings.keys)
        self._headers = [
            (b"host", b"127.0.0.1:8080"),
            (b"content-type", b"application/json"),
            (b"content-length", b"100"),
            (b"authorization", f"Bearer {key}".encode()),
        ]
        ready = _Ready(student.bundle)
        (self._said,) = student.predict([texts[0]])
        ready.said = self._said
        self._policy = cascade.rung.policy
        self._ready = Batcher(ready, [ThreadWorker(ready, name="ready")])
        cascade.rung = Rung(self._ready, self._policy)
        self._app = build_app(gateway)
        self._answer: Answer

    def parts(self) -> dict[str, tuple[str, Part]]:
        """The parts in the order in which a request meets them, and where they run."""
        student, gateway = self._student, self._gateway
        instance = Instance(next(self._texts))
        ids = [each.ids for each in student.encode([next(self._texts) for _ in range(_CALLS)])]
        rows = itertools.cycle(ids)
        raw = student.raw([next(self._texts)])
        said = self._said
        limits = gateway.settings.server
        return {
            "key": (_LOOP, _plain(lambda: self._keyring.check(self._headers))),
            "body": (_LOOP, _plain(lambda: _finish(self._read()))),
            "parse and validate": (
                _LOOP,
                _plain(lambda: predict.parse(next(self._bodies), limits, 0.0)),
            ),
            "queue, there and back": (f"{_LOOP}, {_WORKER}", self._crowd(self._queue)),
            "tokenise": (_WORKER, _plain(lambda: student.encode([next(self._texts)]))),
            "ONNX Runtime, one text": (_WORKER, _plain(lambda: student.session.run([next(rows)]))),
            "calibrate": (_WORKER, _plain(lambda: student.interpret(raw))),
            "policy": (_LOOP, _plain(lambda: self._policy.decide(instance, said))),
            "metrics": (_LOOP, _plain(lambda: gateway.metrics.answered(self._answer))),
            "figures of /v1/stats": (_LOOP, _plain(lambda: gateway.figures.answered(self._answer))),
            "record, to its commit": (f"{_LOOP}, {_WRITER}", self._recorded),
            "reply": (_LOOP, _plain(lambda: orjson.dumps(predict.result(self._answer)))),
            "whole, the student's answer ready, records on": (
                f"{_LOOP}, {_WORKER}, {_WRITER}",
                self._crowd(self._ask),
            ),
        }

    def decision(self, texts: Sequence[str]) -> Costs:
        """What deciding costs where every gate is on."""
        return decision.measured(self._policy, self._student, texts)

    async def begin(self) -> None:
        """One request, whose answer the observers are shown later."""
        (cascade,) = self._gateway.tasks.values()
        (self._answer,) = await cascade.answer([Instance(next(self._texts))])

    async def end(self) -> None:
        """Give back the thread."""
        await self._ready.close()

    async def _recorded(self, calls: int) -> None:
        writer = self._gateway.writer
        if writer is None:
            raise RuntimeError("this gateway keeps no records")
        for _ in range(calls):
            writer.answered(replace(self._answer, id=identity.answer_id()))
        while writer.records.waiting:  # noqa: ASYNC110  another thread works, this sleep does not
            await asyncio.sleep(0.01)

    async def _queue(self) -> None:
        await self._ready.submit([next(self._texts)])

    async def _ask(self) -> None:
        body = next(self._bodies)
        scope = {
            "type": "http",
            "method": "POST",
            "path": predict.PATH,
            "headers": self._headers,
            "query_string": b"",
            "state": {},
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive, _nowhere)

    async def _read(self) -> None:
        body = next(self._bodies)

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await read_body({"headers": self._headers}, receive, limit=_BODY)

    @staticmethod
    def _crowd(one: Callable[[], Awaitable[None]]) -> Part:
        async def many(calls: int) -> None:
            turns = iter(range(calls))

            async def member() -> None:
                for _ in turns:
                    await one()

            await asyncio.gather(*(member() for _ in range(_CROWD)))

        return many


@dataclass(frozen=True, slots=True)
class Found:
    """Name, thread and microseconds of processor time of each part, in the order of a request.

    `decision`: what deciding costs where every gate is on.
    """

    parts: Sequence[tuple[str, str, float]]
    decision: Costs

    def document(self) -> dict[str, Any]:
        """All of it for machines, the whole of a decision and its share of a student run too."""
        costs = self.decision
        whole = {"whole": costs.whole, "share": costs.share}
        return {"parts": self.parts, "decision": asdict(costs) | whole}


async def measured(bundle: Path, texts: Sequence[str]) -> Found:
    """Each part of a request by itself, on this bundle and these texts."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "understudy.yaml"
        key, digest = new_key("layers")
        path.write_text(yaml.safe_dump(_settings(bundle, digest)))
        async with open_gateway(settings.load(path)) as gateway:
            request = Request(gateway, texts, key)
            await request.begin()
            parts = request.parts()
            spent: dict[str, list[float]] = {part: [] for part in parts}
            for _ in range(_TURNS):
                for part, (_, work) in parts.items():
                    started = time.process_time()
                    await work(_CALLS)
                    spent[part].append((time.process_time() - started) / _CALLS)
            decided = request.decision(texts)
            await request.end()
    return Found(
        [
            (part, where, statistics.median(spent[part]) * _MICRO)
            for part, (where, _) in parts.items()
        ],
        decided,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m loadtests.layers", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("understudy-demo/bundles/student"))
    parser.add_argument("--texts", type=Path, help="one text a line; else tickets")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    logs.configure("warning", json=False)
    try:
        texts = (
            bodies.texts(options.texts)
            if options.texts
            else [each.text for each in itertools.islice(traffic(seed=7), bodies.TICKETS)]
        )
        found = uvloop.run(measured(options.bundle.resolve(), texts))
    except UnderstudyError as error:
        print(f"layers: {error}", file=sys.stderr)  # noqa: T201  a command
        return error.exit_status
    if options.json:
        print(orjson.dumps(found.document(), option=orjson.OPT_INDENT_2).decode())  # noqa: T201
        return 0
    table = Table("part", "thread", "µs", title="One text, microseconds of processor time")
    for part, where, microseconds in found.parts:
        table.add_row(part, where, f"{microseconds:.1f}")
    Console().print(table)
    Console().print(str(found.decision), soft_wrap=True)
    return 0


def _settings(bundle: Path, digest: str) -> dict[str, Any]:
    """A gateway with everything on, all gates included, whose student answers all."""
    task = open_bundle(bundle).manifest.task
    head, name = task.heads[0], task.name
    return {
        "version": 1,
        "keys": [{"name": "layers", "sha256": digest}],
        "tasks": {
            name: {
                "student": {"bundle": str(bundle), "run_in": "threads"},  # in one clock
                "teacher": {"scripted": {"labels": {}}},
                "policy": {
                    "threshold": 0.0,
                    "rules": [
                        {"name": "large", "field": "amount", "above": 1000},
                        {"name": "court", "text": r"(?i)\b(court|lawyer)\b"},
                        {"name": "last", "head": head.name, "labels": head.labels[-1:]},
                    ],
                    "severity": {"usd_per_unit": "0.00001"},  # a call is worth 200 mistakes
                    "critical": {"labels": {head.name: head.labels[:1]}, "threshold": 1.0},
                },
                "audit": {"share": 0.0},
                "prices": {"teacher_usd_per_1000": "2", "instance_usd_per_hour": "0.1"},
            }
        },
    }


def _plain(call: Callable[[], object]) -> Part:
    async def many(calls: int) -> None:
        for _ in range(calls):
            call()

    return many


def _finish(coroutine: Any) -> None:
    """Run a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("it waits")


async def _nowhere(_message: Message) -> None:
    """A client that reads at once."""


if __name__ == "__main__":
    raise SystemExit(main())

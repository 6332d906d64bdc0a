"""`understudy stats`: how fast, how dear and how right the gateways are that run now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.remote import Admin, KeyFile, reach
from gateway.cli.terminal import AsJson, Config, print_json, print_tables, table
from gateway.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

Row = Sequence[Any]

_PATH = "/v1/stats"
_WINDOWS = ("1m", "10m", "1h")
_USD = 1e-6  # of a micro-USD
_RATE = ("rows", "audits", "void", "estimate", "lower", "upper", "disagreement",
         "disagreement_upper")  # fmt: skip
_ACCURACY = ("estimated", "audited", "audits", "lower", "upper")


def stats(
    config: Config = Path("understudy.yaml"),
    window: Annotated[str, typer.Option(help="Of the latencies: 1m, 10m or 1h.")] = "1h",
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Latency, escalation, disagreement, cost and served error of the gateways, by task."""
    if window not in _WINDOWS:
        raise UsageError(f"--window {window}: not kept", mend=f"one of: {', '.join(_WINDOWS)}")
    replies = list(reach(config, admin, key_file).each("GET", _PATH))
    if as_json:
        print_json([{"url": url, **reply} for url, reply in replies])
        return
    for url, reply in replies:
        for name, task in reply["tasks"].items():
            print_tables(*_tables(f"{name} at {url}", task, window))
            for line in _remarks(task):
                print(line)


def _tables(title: str, task: Mapping[str, Any], window: str) -> Iterator[Table]:
    yield table(
        f"{title}: latency of the last {window}", "route requests p50_ms p95_ms",
        _latency(task, window),
    )  # fmt: skip
    yield table("Escalation", "reason requests share", _escalation(task))
    yield table(
        "Student against teacher", "head source comparisons disagreements share",
        _disagreement(task),
    )  # fmt: skip
    yield table("Cost", "what usd unknown", _cost(task["cost"]))
    if canary := task.get("canary"):
        yield table(
            "Canary", "bundle step share rows remaining_rows remaining_s", [_climbed(canary)]
        )
    if task.get("budget"):
        yield table("Budget", "window limit spent reserved remaining", _budget(task["budget"]))
    if task.get("served_error"):
        yield table(
            "Served and not what the teacher says, and how often student and teacher differ",
            "of rows audits void estimate lower upper differ differ_upper",
            _served(task["served_error"]),
        )  # fmt: skip
    if watch := task.get("watch"):
        yield table("Alarms", "stream level limit share rows of_the_bar", _alarms(watch))
        yield table("Traffic", "signal state mean before rows", _traffic(watch))
        if watch["mix"]:
            yield table("What the student says", "head state psi limit moved rows", _mix(watch))
        if accuracy := watch["accuracy"]:
            yield table(
                "Accuracy of what it serves",
                "estimated audited audits score_less_right_from to",
                [[accuracy[part] for part in _ACCURACY]],
            )


def _latency(task: Mapping[str, Any], window: str) -> Iterator[Row]:
    for route, windows in task["latency"].items():
        speed = windows[window]
        if speed["requests"] or route == "all":
            yield route, speed["requests"], speed["p50_ms"], speed["p95_ms"]


def _escalation(task: Mapping[str, Any]) -> Iterator[Row]:
    found = task["escalation"]
    for reason, part in found["by_reason"].items():
        yield reason, part["requests"], part["share"]
    yield "all", found["requests"], found["share"]


def _disagreement(task: Mapping[str, Any]) -> Iterator[Row]:
    for head, sources in task["disagreement"].items():
        for source, pairs in sources.items():
            yield head, source, pairs["comparisons"], pairs["disagreements"], pairs["share"]


def _cost(cost: Mapping[str, Any]) -> Iterator[Row]:
    """In USD. What is saved is known where every part of it is."""
    yield "student", _usd(cost["student"]), None
    for part in ("teacher", "audits", "avoided"):
        yield part, _usd(cost[part]["known"]), cost[part]["unknown"]
    yield "total", _usd(cost["total"]), None
    known = cost["student"] is not None and not any(
        cost[part]["unknown"] for part in ("audits", "avoided")
    )
    spared = cost["avoided"]["known"] - cost["audits"]["known"] - (cost["student"] or 0)
    yield "saved: avoided - student - audits", _usd(spared) if known else None, None


def _climbed(canary: Mapping[str, Any]) -> Row:
    said = (canary[part] for part in ("share", "rows", "remaining_rows", "remaining_s"))
    return canary["bundle"], f"{canary['step']} of {canary['steps']}", *said


def _budget(budget: Mapping[str, Any]) -> Iterator[Row]:
    for window, balance in budget["windows"].items():
        parts = ("limit", "spent", "reserved", "remaining")
        yield window, *(_usd(balance[part]) for part in parts)


def _served(served: Mapping[str, Any]) -> Iterator[Row]:
    """All, each head, and whatever part has had an audit."""
    yield "all", *_rate(served["whole"])
    for head, rate in served["heads"].items():
        yield head, *_rate(rate)
    for kind in ("labels", "slices"):
        for name, parts in served[kind].items():
            for value, rate in parts.items():
                if rate["audits"]:
                    yield f"{name}: {value}", *_rate(rate)


def _alarms(watch: Mapping[str, Any]) -> Iterator[Row]:
    for stream, alarm in watch["alarms"].items():
        loud = alarm["statistic"] / alarm["bar"]
        yield stream, alarm["level"], alarm["limit"], alarm["share"], alarm["rows"], loud


def _traffic(watch: Mapping[str, Any]) -> Iterator[Row]:
    for signal, moved in watch["drift"].items():
        yield signal, moved["state"], moved["mean"], moved["before"], moved["rows"]


def _mix(watch: Mapping[str, Any]) -> Iterator[Row]:
    for head, mix in watch["mix"].items():
        yield head, *(mix[part] for part in ("state", "psi", "limit", "moved", "rows"))


def _rate(rate: Mapping[str, Any]) -> Row:
    return tuple(rate[part] for part in _RATE)


def _remarks(task: Mapping[str, Any]) -> Iterator[str]:
    if canary := task.get("canary"):
        when = datetime.fromtimestamp(canary["since"], UTC)
        yield f"the canary is on this step since {when:%Y-%m-%d %H:%M} UTC; by {canary['by']}"
        if canary["absent"]:
            yield f"THE CANARY DOES NOT ANSWER HERE: {canary['absent']}"
    if watch := task.get("watch"):
        yield from _watched(watch)
    served = task.get("served_error")
    if not served:
        return
    if not served["whole"]["audits"]:
        yield "the served error is not known yet: no audit has come"
    else:
        since = datetime.fromtimestamp(served["since"], UTC)
        yield (
            f"of answers since {since:%Y-%m-%d %H:%M} UTC; each bound holds at "
            f"{served['confidence']:.0%}, whenever it is read"
        )
    for key, about in (("void", "void, their audits were skipped"),
                       ("unmeasured", "could not be audited")):  # fmt: skip
        if served[key]:
            yield f"{served[key]} answers are in no rate: {about}"


def _watched(watch: Mapping[str, Any]) -> Iterator[str]:
    if incident := watch["incident"]:
        when = datetime.fromtimestamp(incident["at"], UTC)
        yield f"INCIDENT since {when:%Y-%m-%d %H:%M} UTC, nobody is promoted: {incident['why']}"
    if watch["certificate_stale"]:
        yield "the certificate is stale, for traffic drifts: understudy policy certify"
    if watch["accuracy"] and watch["accuracy"]["recalibrate"]:
        yield "scores are not what audits find: recalibrate, with understudy improve"
    if watch["audits_doubled"]:
        yield "the audit share is doubled until alarms and traffic are calm"


def _usd(micro: int | None) -> float | None:
    return None if micro is None else micro * _USD

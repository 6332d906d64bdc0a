"""The Grafana dashboard, made from the metrics that the gateway exports: `make deploy-files`.

Each metric has a panel, in the row of its name's beginning, with its help as the title; the
overview stands above them. What the gateway does not export cannot come in, and what it does export
is not left out. It writes one file, and talks to no Grafana.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.contract.manifest import Head, HeadKind, Task
from gateway.telemetry.metrics import Metrics

PATH = Path(__file__).parent / "dashboards" / "understudy.json"

# The task that a person has chosen; a metric that knows no task is always shown.
_TASK = 'task=~"$task|"'
_WIDTH = 24  # columns of Grafana's grid
_PANEL = 8  # columns of a panel: three beside each other
_HEIGHT = 8  # rows of the grid, of about 30 pixels
_LOW = 4  # of a single number
_SCHEMA = 39  # of a dashboard's JSON in Grafana 11
_SOURCE = {"type": "prometheus", "uid": "${source}"}

# Title -> how the names begin, without "understudy_". The first row that fits has the metric.
_ROWS: Mapping[str, Sequence[str]] = {
    "Requests": (
        "requests_", "request_", "overhead_", "stage_", "queue_", "inflight_", "shed_",
        "connections_",
    ),
    "Decisions": ("escalations_", "confidence"),
    "Quality": (
        "served_", "comparisons_", "disagreements_", "certificate_", "alarm_", "incident_",
    ),
    "Drift": ("drift_", "label_", "estimated_", "audited_", "score_"),
    "Shadow": ("shadow_",),
    "Cost": ("cost_", "budget_"),
    "Teacher": ("teacher_", "breaker_"),
    "Students": ("bundle_", "canary_", "swaps_", "batch_"),
    "Records": ("records_",),
    "The rest": ("",),
}  # fmt: skip
_UNITS = {
    "_seconds": "s",
    "_usd": "currencyUSD",
    "_usd_total": "currencyUSD",
    "_rate": "percentunit",
    "_share": "percentunit",
    "_accuracy": "percentunit",
}
_ANSWERED = f'understudy_requests_total{{{_TASK},route!="none"}}'
_ESCALATED = f"understudy_escalations_total{{{_TASK}}}"
_DURATION = f"understudy_request_duration_seconds_bucket{{{_TASK}}}"
_P95 = f"histogram_quantile(0.95, sum by (le) (rate({_DURATION}[$__rate_interval])))"
_OVERVIEW = (
    ("Requests a second", "reqps", f"sum(rate({_ANSWERED}[$__rate_interval]))"),
    (
        "p95 of all answers",
        "s",
        _P95,
    ),
    (
        "Share that goes to the teacher",
        "percentunit",
        f"sum(rate({_ESCALATED}[$__rate_interval])) / sum(rate({_ANSWERED}[$__rate_interval]))",
    ),
    (
        "Served error, upper bound",
        "percentunit",
        f'max(understudy_served_error_rate_upper{{{_TASK},head="",field=""}})',
    ),
    (
        "Saved",
        "currencyUSD",
        f"sum(increase(understudy_cost_avoided_usd_total{{{_TASK}}}[$__range]))",
    ),
    ("Certified", "bool_yes_no", f"min(understudy_certificate_valid{{{_TASK}}})"),
)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric as /metrics declares it."""

    name: str
    kind: str
    about: str


def exported() -> list[Family]:
    """Every metric of Understudy's own that a gateway shows, in the order of /metrics."""
    task = Task(name="task", heads=(Head(name="head", kind=HeadKind.CHOICE, labels=("a", "b")),))
    metrics = Metrics([task])
    metrics.follow_records(dict)
    metrics.follow_skips(dict)
    metrics.follow_served(list)
    lines = metrics.render().decode().splitlines()
    abouts = dict(line.split(" ", 3)[2:] for line in lines if line.startswith("# HELP "))
    kinds = dict(line.split(" ", 3)[2:] for line in lines if line.startswith("# TYPE "))
    ours = (name for name in kinds if name.startswith("understudy_"))
    return [Family(name, kinds[name], abouts[name]) for name in ours]


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana's provisioning reads it."""
    return {
        "uid": "understudy",
        "title": "Understudy",
        "schemaVersion": _SCHEMA,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_source(), _tasks()]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(_panels(), 1)],
    }


def write(path: Path = PATH) -> None:
    """Write the dashboard, so that it can be compared line by line."""
    path.write_text(json.dumps(dashboard(), indent=2) + "\n", encoding="utf-8")


def _panels() -> Iterator[dict[str, Any]]:
    width = _WIDTH // len(_OVERVIEW)
    for place, (title, unit, query) in enumerate(_OVERVIEW):
        yield _panel("stat", title, unit, [query], at=(place * width, 0, width, _LOW))
    below = _LOW
    for title, families in _rows().items():
        yield {"type": "row", "title": title, "collapsed": False, "gridPos": _grid(0, below, 24, 1)}
        below += 1
        for place, family in enumerate(families):
            line, column = divmod(place * _PANEL, _WIDTH)
            at = (column, below + line * _HEIGHT, _PANEL, _HEIGHT)
            yield _panel("timeseries", family.about, _unit(family), _queries(family), at=at)
        below += -(-len(families) * _PANEL // _WIDTH) * _HEIGHT


def _rows() -> dict[str, list[Family]]:
    """Row -> its metrics; a row without any is left out."""
    rows: dict[str, list[Family]] = {title: [] for title in _ROWS}
    for family in exported():
        name = family.name.removeprefix("understudy_")
        title = next(title for title, begins in _ROWS.items() if name.startswith(tuple(begins)))
        rows[title].append(family)
    return {title: families for title, families in rows.items() if families}


def _queries(family: Family) -> list[str]:
    """What is worth seeing of a metric of its kind, over all replicas."""
    name = family.name
    if family.kind == "histogram":
        rate = f"rate({name}_bucket{{{_TASK}}}[$__rate_interval])"
        summed = f"sum without (instance, job) ({rate})"
        return [f"histogram_quantile({quantile}, {summed})" for quantile in (0.5, 0.95)]
    if family.kind == "counter":
        return [f"sum without (instance, job) (rate({name}{{{_TASK}}}[$__rate_interval]))"]
    return [f"{name}{{{_TASK}}}"]


def _unit(family: Family) -> str:
    """Grafana's word for the unit, which the name ends with."""
    if family.name.endswith("_timestamp_seconds"):
        return "dateTimeAsIso"
    name = family.name.removesuffix("_upper")
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "short")


def _panel(
    kind: str, title: str, unit: str, queries: Sequence[str], *, at: tuple[int, int, int, int]
) -> dict[str, Any]:
    return {
        "type": kind,
        "title": title,
        "datasource": _SOURCE,
        "gridPos": _grid(*at),
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query}
            for number, query in enumerate(queries)
        ],
    }


def _grid(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}


def _tasks() -> dict[str, Any]:
    query = "label_values(understudy_requests_total, task)"
    return {
        "name": "task",
        "label": "Task",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "tasks"},
        "definition": query,
        "refresh": 2,  # whenever the time range changes
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    write()

"""Metrics of what other rooms count themselves: read when a scrape asks, and kept nowhere.

What they read may be asked on any thread, for that is where a scrape runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.shadow.account import Part
from gateway.shadow.rate import Rate
from gateway.shadow.runner import State
from gateway.shadow.shadow import Candidate

_DOING = {State.STOPPED: 0, State.RESTING: 1, State.STARTING: 2, State.RUNNING: 3}


class Followed(Collector):
    """Counts that another room keeps, by one label; read when they are asked for."""

    def __init__(
        self, name: str, about: str, label: str, counts: Callable[[], Mapping[str, int]]
    ) -> None:
        self._name = name
        self._about = about
        self._label = label
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        family = CounterMetricFamily(f"understudy_{self._name}", self._about, labels=[self._label])
        for value, count in self._counts().items():
            family.add_metric([value], count)
        yield family


class Candidates(Collector):
    """What other rooms count of each candidate; `tasks` are those that were seen last."""

    def __init__(self) -> None:
        self.tasks: Mapping[str, Sequence[Candidate]] = {}

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets: state, rows compared, and rows that were not, by cause."""
        about = "Of a candidate: 0 stopped for good, 1 resting, 2 starting, 3 running"
        state = GaugeMetricFamily("understudy_shadow_state", about, labels=["task", "candidate"])
        about = "Requests that a candidate was compared on"
        compared = CounterMetricFamily(
            "understudy_shadow_compared", about, labels=["task", "candidate"]
        )
        about = "Requests drawn for a candidate and not shown to it"
        shed = CounterMetricFamily(
            "understudy_shadow_shed", about, labels=["task", "candidate", "cause"]
        )
        for task, candidates in self.tasks.items():
            for each in candidates:
                state.add_metric([task, each.name], _DOING[each.runner.state])
                compared.add_metric([task, each.name], each.slices.whole.compared)
                for cause, count in each.runner.shed.items():
                    shed.add_metric([task, each.name, cause.value], count)
        yield from (state, compared, shed)


class FollowedParts(Collector):
    """The served error, measured in another room; read when it is asked for.

    A part has those of the labels `task`, `head`, `field` and `value` that say what it is of.
    """

    def __init__(self, parts: Callable[[], Iterable[Part]]) -> None:
        self._parts = parts

    def describe(self) -> Iterator[Metric]:
        """The families without their samples: what is measured is not asked at the start."""
        for name, about, _ in _SERVED:
            yield GaugeMetricFamily(name, about)

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets; a rate is absent until it is known."""
        parts = [(_labels_of(part), part.rate) for part in self._parts()]
        for name, about, read in _SERVED:
            family = GaugeMetricFamily(name, about)
            for labels, rate in parts:
                if (value := read(rate)) is not None:
                    family.add_sample(name, labels, value)
            yield family


_SERVED: tuple[tuple[str, str, Callable[[Rate], float | None]], ...] = (
    (
        "understudy_served_error_rate",
        "Estimated share of served answers that the teacher would not have given",
        lambda rate: rate.shown,
    ),
    (
        "understudy_served_error_rate_upper",
        "Upper bound of that share, at 95 % at all times together",
        lambda rate: rate.upper,
    ),
    (
        "understudy_served_disagreement_rate",
        "Estimated share of requests on which student and teacher differ, whoever answered",
        lambda rate: rate.disagreement,
    ),
    (
        "understudy_served_disagreement_rate_upper",
        "Upper bound of that share, at 95 % at all times together",
        lambda rate: rate.disagreement_upper,
    ),
    (
        "understudy_served_rows",
        "Served answers that the served error speaks of",
        lambda rate: rate.rows,
    ),
    (
        "understudy_served_audits",
        "Audits that the served error rests on",
        lambda rate: rate.audits,
    ),
    (
        "understudy_served_void_rows",
        "Served answers in no rate, for the audit that was to speak for them was skipped",
        lambda rate: rate.void,
    ),
)


def _labels_of(part: Part) -> dict[str, str]:
    names = {"task": part.task, "head": part.head, "field": part.field, "value": part.value}
    return {name: value for name, value in names.items() if value is not None}

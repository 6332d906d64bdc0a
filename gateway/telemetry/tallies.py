"""Counters and histograms for the tail of every request: a list index and an addition each.

They stand in for prometheus_client's own, which take a lock and walk the buckets: there that is
most of what telling the metrics costs. They are written by the event loop alone; a scrape may read
them from any thread. Names, labels and text format stay the library's business: `collect` hands
over its metric families.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add; `amount` is not negative."""
        self.value += amount


class Distribution:
    """One series of a histogram. A value on a bound counts below it, as Prometheus has it."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Counter(Collector):
    """A counter by its labels' values."""

    def __init__(self, name: str, about: str, labels: Sequence[str]) -> None:
        self._name = name
        self._about = about
        self._labelnames = labels
        self._series: dict[tuple[str, ...], Count] = {} if labels else {(): Count()}

    def labels(self, *values: str) -> Count:
        """The series of these values, in the order of the labels; made when it is new."""
        return self._series.setdefault(values, Count())

    def inc(self, amount: float = 1.0) -> None:
        """Add to the one series of a counter without labels."""
        self.labels().inc(amount)

    def describe(self) -> Iterator[Metric]:
        """The family without its samples: the registry refuses a name that it has."""
        yield CounterMetricFamily(self._name, self._about, labels=self._labelnames)

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        family = CounterMetricFamily(self._name, self._about, labels=self._labelnames)
        for values, count in list(self._series.items()):
            family.add_metric(values, count.value)
        yield family


class Histogram(Collector):
    """A histogram by its labels' values. `bounds` rise; the one at infinity is implied."""

    def __init__(
        self, name: str, about: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self._name = name
        self._about = about
        self._labelnames = labels
        self._bounds = tuple(bounds)
        self._names = [repr(float(bound)) for bound in bounds] + ["+Inf"]
        self._series: dict[tuple[str, ...], Distribution] = {}
        if not labels:
            self.labels()

    def labels(self, *values: str) -> Distribution:
        """The series of these values, in the order of the labels; made when it is new."""
        return self._series.setdefault(values, Distribution(self._bounds))

    def observe(self, value: float) -> None:
        """Count a value in the one series of a histogram without labels."""
        self.labels().observe(value)

    def describe(self) -> Iterator[Metric]:
        """The family without its samples."""
        yield HistogramMetricFamily(self._name, self._about, labels=self._labelnames)

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labelnames)
        for values, series in list(self._series.items()):
            below = 0
            buckets = []
            for name, count in zip(self._names, list(series.counts), strict=True):
                below += count
                buckets.append((name, float(below)))
            family.add_metric(values, buckets, series.total)
        yield family

"""Pooled vectors of a model -> what its texts look like, as `gateway.contract.domain` reads it.

Centres and covariance, or neighbours, come from the texts that it was taught, the distances that
p-values rank among from texts that it was not: only then is a new text's rank among them uniform.
Classes are what the model itself says, so that no labels are needed. It fits; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from gateway.contract.calibration import HeadReading
from gateway.contract.domain import Familiarity, unit
from gateway.contract.manifest import Domain

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Places = NDArray[np.int64]

TAUGHT = 10_000  # texts at most: more move centres and covariance no more
_LEAST_TAUGHT = 100  # rows; fewer give no covariance
_LEAST_KNOWN = 100  # with fewer distances no p-value is below 0.01
_KNOWN = 2000  # distances that are kept: p-values in steps of 0.0005
_DIMENSIONS = 128  # at most: what a text may cost grows with them
_CENTRES = 256  # at most, likewise
_CLASS_ROWS = 3  # a rarer class has no centre of its own
_TEXTS = 2000  # neighbours at most, likewise: 1 MB, and about 60 microseconds a text
_NEIGHBOUR = 3  # so that one odd text of those that were taught makes nothing familiar
_CLASS_SHARE = 1 / 3  # of a class at most: beyond its last text all that is near is another's
_NOTHING = 1e-6  # of the largest variance: a direction in which no text differs
_NONE = np.empty(0, np.float32)  # distances, while what they are measured by is fitted


@dataclass(frozen=True, slots=True)
class Fitted:
    """A domain, and the bytes of its file."""

    domain: Domain
    content: bytes


def classes_of(readings: Sequence[HeadReading]) -> Places:
    """Rows on which a model says the same labels have the same number (n,)."""
    states = [reading.states.reshape(len(reading.states), -1) for reading in readings]
    table = np.concatenate([each.astype(np.int64) for each in states], axis=1)
    numbers: Places = np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
    return numbers


def fit(
    taught: Floats,
    classes: Places,
    apart: Floats,
    *,
    method: Literal["mahalanobis", "knn"] = "mahalanobis",
    seed: int,
) -> Fitted | None:
    """Fit on `taught` (n, hidden) with its `classes` (n,), rank among those of `apart` (m, hidden).

    None where there are too few rows of either, or no vector differs from another.
    """
    if len(taught) < _LEAST_TAUGHT or len(apart) < _LEAST_KNOWN:
        return None
    vectors = taught.astype(np.float64)
    basis = _basis(vectors)
    if basis.shape[1] == 0:
        return None
    if method == "knn":
        familiarity = _neighbours(vectors, classes, basis, seed=seed)
    else:
        familiarity = _centred(vectors, classes, basis)
    kept = np.random.default_rng(seed).permutation(len(apart))[:_KNOWN]
    known = np.sort(familiarity.distances(apart[kept]))
    if not np.isfinite(known).all():
        return None
    return Fitted(
        Domain(
            method=method,
            dimensions=familiarity.projection.shape[1],
            centres=len(familiarity.centres),
            neighbour=familiarity.neighbour,
            rows=len(taught),
            calibration=len(known),
        ),
        replace(familiarity, known=known).content(),
    )


def _centred(vectors: Doubles, classes: Places, basis: Doubles) -> Familiarity:
    """A centre for each class, in the space in which the rows of a class are white."""
    reduced = vectors @ basis
    members = _members(classes)
    centres = np.stack([reduced[rows].mean(axis=0) for rows in members])
    spread = np.concatenate(
        [reduced[rows] - centre for rows, centre in zip(members, centres, strict=True)]
    )
    white = _whitening(spread)
    return Familiarity(
        projection=(basis @ white).astype(np.float32),
        centres=(centres @ white).astype(np.float32),
        known=_NONE,
    )


def _neighbours(vectors: Doubles, classes: Places, basis: Doubles, *, seed: int) -> Familiarity:
    """As many texts of each class as there is room for, by their directions."""
    places = _evenly(classes, seed=seed)
    usual = float(np.median(np.unique(classes[places], return_counts=True)[1]))
    return Familiarity(
        projection=basis.astype(np.float32),
        centres=unit((vectors[places] @ basis).astype(np.float32)),
        known=_NONE,
        neighbour=int(np.clip(usual * _CLASS_SHARE, 1, _NEIGHBOUR)),
    )


def _evenly(classes: Places, *, seed: int) -> Places:
    """The places of rows that are taken from the classes in turns, each in a random order."""
    order = np.random.default_rng(seed).permutation(len(classes))
    turns = np.empty(len(classes), np.int64)
    for number in np.unique(classes):
        rows = order[classes[order] == number]
        turns[rows] = np.arange(len(rows))
    return order[np.argsort(turns[order], kind="stable")[:_TEXTS]]


def _basis(vectors: Doubles) -> Doubles:
    """The directions in which the vectors differ most (hidden, dimensions)."""
    variances, directions = np.linalg.eigh(np.cov(vectors, rowvar=False, ddof=0))
    order = np.argsort(variances)[::-1][:_DIMENSIONS]
    chosen: Doubles = directions[:, order[variances[order] > _NOTHING * variances.max()]]
    return chosen if variances.max() > 0.0 else chosen[:, :0]


def _members(classes: Places) -> list[Places]:
    """The rows of each class that has enough, the largest first; all others are one class."""
    found, counts = np.unique(classes, return_counts=True)
    order = np.argsort(-counts, kind="stable")[: _CENTRES - 1]
    own = [number for number in found[order] if (classes == number).sum() >= _CLASS_ROWS]
    groups = [np.flatnonzero(classes == number) for number in own]
    rest = np.flatnonzero(~np.isin(classes, own))
    return [*groups, rest] if len(rest) else groups


def _whitening(spread: Doubles) -> Doubles:
    """What makes the rows of `spread` white, by the shrunk covariance of Ledoit and Wolf (2004)."""
    covariance = LedoitWolf(assume_centered=True).fit(spread).covariance_
    variances, directions = np.linalg.eigh(covariance)
    floor = max(_NOTHING * float(variances.max()), float(np.finfo(np.float32).tiny))
    white: Doubles = directions / np.sqrt(np.clip(variances, floor, None))
    return white

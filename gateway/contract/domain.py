"""Whether a text is of the kind that a model knows: a distance, and its rank among known ones.

The distance is of the pooled vector, the model's second output, and of either of two kinds:

    mahalanobis  Mahalanobis' to the nearest centre of a class, with one covariance for all of them
                 (Lee et al. 2018, arXiv 1807.03888)
    knn          to the k-th nearest of the texts that it was taught, where all vectors have length
                 1 (Sun et al. 2022, arXiv 2204.06507): 1 - cosine, which ranks as Euclid's does

Its rank is a conformal p-value: for a text drawn like those of the calibration split
P(p < eps) <= eps, whatever the distances look like (Vovk et al. 2005; Laxhammar and Falkman 2010).
It decides nothing: the policy does.

A bundle holds the numbers as `domain.f32`: little-endian float32 without a header, one array after
the other, each row by row. With h the hidden size and d, c, m those of the manifest's `domain`:

    projection (h, d)    pooled @ projection is white within a class; knn: the chosen directions
    centres    (c, d)    knn: known texts, of length 1
    known      (m,)      distances of the calibration texts, ascending
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.contract.manifest import Domain
from gateway.errors import BundleMismatch

Floats = NDArray[np.float32]

_STORED = np.dtype("<f4")
_REBUILD = "build the bundle again"
_SHORTEST = np.float32(1e-12)  # a shorter vector has no direction


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """The numbers of a domain, in the shapes above.

    `neighbour` is which of the nearest counts, from 1 on; None: the distance is Mahalanobis'.
    """

    projection: Floats
    centres: Floats
    known: Floats
    neighbour: int | None = None

    @classmethod
    def read(cls, content: bytes, domain: Domain, *, hidden: int) -> Familiarity:
        """The bytes of `domain.f32` -> its arrays. Raises BundleMismatch for any other bytes."""
        shapes = (
            (hidden, domain.dimensions),
            (domain.centres, domain.dimensions),
            (domain.calibration,),
        )
        sizes = [math.prod(shape) for shape in shapes]
        wanted = sum(sizes) * _STORED.itemsize
        if len(content) != wanted:
            raise BundleMismatch(
                f"domain.f32 has {len(content)} bytes, the manifest's domain wants {wanted}",
                mend=_REBUILD,
            )
        numbers = np.frombuffer(content, _STORED).astype(np.float32)
        parts = np.split(numbers, np.cumsum(sizes)[:-1])
        known = parts[-1]
        if not np.isfinite(numbers).all() or (known < 0).any() or (np.diff(known) < 0).any():
            raise BundleMismatch(
                "domain.f32 holds a number that is not finite, or distances that do not ascend",
                mend=_REBUILD,
            )
        projection, centres, _ = map(np.reshape, parts, shapes)
        return cls(projection, centres, known, neighbour=domain.neighbour)

    def content(self) -> bytes:
        """The bytes of `domain.f32`."""
        arrays = (self.projection, self.centres, self.known)
        return b"".join(np.ascontiguousarray(each, _STORED).tobytes() for each in arrays)

    def distances(self, pooled: Floats) -> Floats:
        """Pooled vectors (rows, hidden) -> distances (rows,). A row's never depends on the others.

        A stack of single rows: one product over all of them rounds by how many there are.
        """
        placed = np.matmul(pooled[:, np.newaxis, :], self.projection)  # (rows, 1, dimensions)
        if self.neighbour is None:
            return _to_centre(placed, self.centres)
        return _to_neighbour(placed, self.centres, self.neighbour)

    def p_values(self, distances: Floats) -> NDArray[np.float64]:
        """(1 + how many known distances are at least as large) / (known + 1), for each (rows,).

        A distance that is not a number is beyond all: it gives the least p-value.
        """
        nearer = np.searchsorted(self.known, distances, side="left")
        beyond = 1 + len(self.known) - nearer.astype(np.float64)
        return np.asarray(beyond / (len(self.known) + 1))


def unit(vectors: Floats) -> Floats:
    """The same directions at length 1, along the last axis; one without a direction stays."""
    lengths = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))[..., np.newaxis]
    directions: Floats = vectors / np.maximum(lengths, _SHORTEST)
    return directions


def _to_centre(placed: Floats, centres: Floats) -> Floats:
    """(rows, 1, dimensions) -> Euclid's distance to the nearest centre (rows,)."""
    gaps = placed - centres  # (rows, centres, dimensions)
    distances: Floats = np.sqrt(np.einsum("rcd,rcd->rc", gaps, gaps).min(axis=1))
    return distances


def _to_neighbour(placed: Floats, texts: Floats, neighbour: int) -> Floats:
    """(rows, 1, dimensions) -> 1 - cosine with the k-th nearest text (rows,), which is below 0."""
    likeness = np.matmul(unit(placed), texts.T)[:, 0, :]  # (rows, texts)
    nearest = np.partition(likeness, -neighbour, axis=1)[:, -neighbour]
    distances: Floats = np.maximum(np.float32(1.0) - nearest, np.float32(0.0))
    return distances

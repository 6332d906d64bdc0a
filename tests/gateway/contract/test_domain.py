"""Distances and p-values worked out by hand, and bytes that are not those of a domain."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from gateway.contract.domain import Familiarity
from gateway.contract.manifest import Domain
from gateway.errors import BundleMismatch

# Two dimensions of three: the third is not looked at, the second counts double.
PLANE = Familiarity(
    projection=np.array([[1, 0], [0, 2], [0, 0]], np.float32),
    centres=np.array([[0, 0], [10, 0]], np.float32),
    known=np.array([1, 2, 2, 4], np.float32),
)
DOMAIN = Domain(dimensions=2, centres=2, rows=9, calibration=4)
# Four known texts of length 1, by their directions; the second nearest counts.
COMPASS = Familiarity(
    projection=np.array([[1, 0], [0, 1], [0, 0]], np.float32),
    centres=np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32),
    known=np.array([0.1, 0.2, 0.3], np.float32),
    neighbour=2,
)


def test_a_distance_is_that_to_the_nearest_centre_in_the_white_space() -> None:
    pooled = np.array([[3, 2, 99], [10, 0, 0], [6, 1.5, 7]], np.float32)
    # (3, 4) is 5 from the origin; (10, 0) is a centre; (6, 3) is 5 from (10, 0), 6.7 from (0, 0).
    np.testing.assert_array_equal(PLANE.distances(pooled), np.array([5, 0, 5], np.float32))


def test_a_p_value_is_the_share_of_distances_at_least_as_large_counting_itself() -> None:
    asked = np.array([0, 1, 1.5, 2, 4, 4.1, np.nan], np.float32)
    # Of four known distances 4, 4, 3, 3, 1, 0 are at least as large; no number is beyond all.
    wanted = np.array([5, 5, 4, 4, 2, 1, 1]) / 5
    np.testing.assert_array_equal(PLANE.p_values(asked), wanted)


def test_by_neighbours_a_distance_is_one_less_the_cosine_with_the_kth_nearest_text() -> None:
    pooled = np.array([[5, 0, 99], [0, 0.5, 0], [-2, 0, 1], [0, 0, 3]], np.float32)
    # East: 1, 0.6 of (0.6, 0.8), 0, -1. North: 1, 0.8, 0, 0. West: 1 and 0 of north. No direction.
    np.testing.assert_allclose(COMPASS.distances(pooled), [0.4, 0.2, 1.0, 1.0], rtol=1e-6)


def test_a_text_that_is_known_k_times_is_at_no_distance_below_zero() -> None:
    twin = np.array([[0.6, 0.8], [0.6, 0.8], [0.6, 0.8]], np.float32)
    known = Familiarity(np.eye(2, dtype=np.float32), twin, np.ones(1, np.float32), neighbour=3)
    (distance,) = known.distances(np.array([[3, 4]], np.float32))
    assert 0.0 <= distance < 1e-6


def test_how_a_distance_is_measured_is_read_with_its_numbers() -> None:
    domain = Domain(method="knn", dimensions=2, centres=4, neighbour=2, rows=9, calibration=3)
    again = Familiarity.read(COMPASS.content(), domain, hidden=3)
    pooled = np.array([[5, 0, 99]], np.float32)
    np.testing.assert_array_equal(again.distances(pooled), COMPASS.distances(pooled))


@pytest.mark.parametrize(
    ("method", "centres", "neighbour", "said"),
    [
        ("knn", 300, None, "names a neighbour where its method is knn"),
        ("mahalanobis", 3, 1, "names a neighbour where its method is knn"),
        ("mahalanobis", 257, None, "at most 256 centres"),
        ("knn", 3, 4, "no neighbour 4 among 3 texts"),
    ],
)
def test_a_domain_that_cannot_be_measured_is_none(
    method: Literal["mahalanobis", "knn"], centres: int, neighbour: int | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Domain(
            method=method,
            dimensions=2,
            centres=centres,
            neighbour=neighbour,
            rows=9,
            calibration=4,
        )


@pytest.mark.parametrize("neighbour", [None, 5])
def test_a_distance_never_depends_on_the_other_rows(neighbour: int | None) -> None:
    random = np.random.default_rng(0)
    wide = Familiarity(
        random.normal(size=(384, 128)).astype(np.float32),
        random.normal(size=(77, 128)).astype(np.float32),
        np.ones(1, np.float32),
        neighbour,
    )
    pooled = random.normal(size=(33, 384)).astype(np.float32)
    alone = np.concatenate([wide.distances(row[np.newaxis]) for row in pooled])
    np.testing.assert_array_equal(wide.distances(pooled), alone)


def test_the_bytes_of_a_domain_are_its_numbers_one_after_the_other() -> None:
    content = PLANE.content()
    assert content[:8] == b"\x00\x00\x80\x3f\x00\x00\x00\x00"  # 1.0 and 0.0, little-endian
    assert len(content) == 4 * (6 + 4 + 4)
    again = Familiarity.read(content, DOMAIN, hidden=3)
    for name in ("projection", "centres", "known"):
        np.testing.assert_array_equal(getattr(again, name), getattr(PLANE, name))


@pytest.mark.parametrize("more", [-4, -1, 1, 4])
def test_bytes_that_are_too_few_or_too_many_are_refused(more: int) -> None:
    content = (PLANE.content() + b"\0" * 4)[: 56 + more]
    with pytest.raises(BundleMismatch, match=f"{56 + more} bytes, .* wants 56"):
        Familiarity.read(content, DOMAIN, hidden=3)


def test_sizes_that_no_machine_word_holds_are_refused() -> None:
    four = DOMAIN.model_copy(update={"dimensions": 4})  # and 4 * 2**62 is 0 in 64 bits
    with pytest.raises(BundleMismatch, match="has 48 bytes"):
        Familiarity.read(b"\0" * 48, four, hidden=2**62)


@pytest.mark.parametrize(
    "known", [[2, 1, 3, 4], [1, 2, 3, np.nan], [1, 2, 3, np.inf], [-1, 2, 3, 4]]
)
def test_distances_that_cannot_be_ranked_among_are_refused(known: list[float]) -> None:
    content = Familiarity(PLANE.projection, PLANE.centres, np.array(known, np.float32)).content()
    with pytest.raises(BundleMismatch, match="not finite, or distances that do not ascend"):
        Familiarity.read(content, DOMAIN, hidden=3)


@pytest.mark.simulation
def test_the_gate_escalates_no_more_than_its_share_of_ordinary_texts() -> None:
    """Over 400 calibrations of 299 distances: P(p < 0.05) <= 0.05, here exactly 14/300."""
    random = np.random.default_rng(7)
    share = []
    for _ in range(400):
        known = np.sort(random.gamma(3.0, size=299)).astype(np.float32)
        gate = Familiarity(PLANE.projection, PLANE.centres, known)
        asked = random.gamma(3.0, size=200).astype(np.float32)
        share.append(float((gate.p_values(asked) < 0.05).mean()))
    # p < 15/300 is one of the 14 lowest ranks of 300; the mean of 400 is known to about 0.0008.
    assert np.mean(share) == pytest.approx(14 / 300, abs=0.003)
    assert np.mean(share) <= 0.05

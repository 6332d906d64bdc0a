"""The fit of a domain: white within a class, ranked among rows that it was not fitted on."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from distill import familiarity
from distill.familiarity import Fitted, classes_of, fit
from gateway.contract.calibration import HeadReading
from gateway.contract.domain import Familiarity

HIDDEN = 12


def drawn(
    rows: int, *, seed: int, classes: int = 3
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Vectors around far centres, of spreads 1 to 3 by dimension, and the class of each row."""
    random = np.random.default_rng(seed)
    of = random.integers(0, classes, rows)
    centres = 20.0 * np.eye(classes, HIDDEN)
    spread = np.linspace(1.0, 3.0, HIDDEN)
    return (centres[of] + random.normal(size=(rows, HIDDEN)) * spread).astype(np.float32), of


def opened(found: Fitted | None) -> Familiarity:
    """As serving reads it."""
    assert found is not None
    return Familiarity.read(found.content, found.domain, hidden=HIDDEN)


def test_distances_are_those_of_white_noise_and_p_values_are_uniform() -> None:
    found = fit(*drawn(4000, seed=0), drawn(1000, seed=1)[0], seed=0)
    read = opened(found)
    assert found is not None
    assert (found.domain.dimensions, found.domain.centres) == (HIDDEN, 3)
    assert (found.domain.rows, found.domain.calibration) == (4000, 1000)
    fresh = read.distances(drawn(4000, seed=2)[0])
    # The mean square of a distance in 12 white dimensions is 12.
    assert float((fresh**2).mean()) == pytest.approx(HIDDEN, rel=0.05)
    p = read.p_values(fresh)
    assert [float((p < share).mean()) for share in (0.05, 0.5)] == pytest.approx(
        [0.05, 0.5], abs=0.05
    )


def test_a_vector_that_none_is_like_is_beyond_all() -> None:
    read = opened(fit(*drawn(2000, seed=0), drawn(500, seed=1)[0], seed=0))
    strange = np.zeros((1, HIDDEN), np.float32)  # between the centres, where no text is
    assert read.p_values(read.distances(strange))[0] == pytest.approx(1 / 501)


def test_no_more_distances_are_kept_than_p_values_need() -> None:
    found = fit(*drawn(300, seed=0), drawn(2500, seed=1)[0], seed=0)
    assert found is not None
    assert found.domain.calibration == 2000


def test_rare_classes_share_one_centre() -> None:
    vectors, of = drawn(300, seed=0)
    of[:4] = [90, 90, 91, 92]  # two rows and one and one
    found = fit(vectors, of, drawn(200, seed=1)[0], seed=0)
    assert found is not None
    assert found.domain.centres == 4


def test_no_more_centres_are_kept_than_a_text_may_cost() -> None:
    vectors, _ = drawn(900, seed=0)
    found = fit(vectors, np.arange(900) // 3, drawn(200, seed=1)[0], seed=0)
    assert found is not None
    assert found.domain.centres == 256


def test_known_texts_are_taken_from_the_classes_in_turns() -> None:
    vectors, _ = drawn(3000, seed=0)
    of = np.zeros(3000, np.int64)
    of[:30], of[30:40] = 1, 2  # two rare classes, all of which are kept
    found = fit(vectors, of, drawn(200, seed=1)[0], method="knn", seed=0)
    read = opened(found)
    assert found is not None
    assert (found.domain.method, found.domain.neighbour) == ("knn", 3)
    assert (found.domain.centres, found.domain.rows) == (2000, 3000)
    np.testing.assert_allclose(np.linalg.norm(read.centres, axis=1), 1.0, rtol=1e-5)
    kept = vectors[:40] @ read.projection
    kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    assert (np.abs(kept @ read.centres.T).max(axis=1) > 1.0 - 1e-5).all()


@pytest.mark.parametrize(("rows", "neighbour"), [(2, 1), (8, 2), (50, 3)])
def test_the_neighbour_that_counts_is_still_of_the_same_class(rows: int, neighbour: int) -> None:
    vectors, _ = drawn(1000, seed=0)
    of = np.arange(1000) // rows
    found = fit(vectors, of, drawn(200, seed=1)[0], method="knn", seed=0)
    assert found is not None
    assert found.domain.neighbour == neighbour  # at most a third of the class


def test_by_neighbours_p_values_are_uniform_and_a_strange_direction_is_beyond_all() -> None:
    found = fit(*drawn(3000, seed=0), drawn(1000, seed=1)[0], method="knn", seed=0)
    read = opened(found)
    p = read.p_values(read.distances(drawn(4000, seed=2)[0]))
    assert [float((p < share).mean()) for share in (0.05, 0.5)] == pytest.approx(
        [0.05, 0.5], abs=0.05
    )
    strange = -20.0 * np.ones((1, HIDDEN), np.float32)  # away from every class
    assert read.p_values(read.distances(strange))[0] == pytest.approx(1 / 1001)


def test_no_more_dimensions_are_kept_than_a_text_may_cost() -> None:
    random = np.random.default_rng(0)
    taught, apart = (random.normal(size=(rows, 150)).astype(np.float32) for rows in (400, 200))
    found = fit(taught, np.zeros(400, np.int64), apart, seed=0)
    assert found is not None
    assert found.domain.dimensions == 128


def test_a_direction_in_which_nothing_differs_is_left_out() -> None:
    vectors, of = drawn(300, seed=0)
    apart = drawn(200, seed=1)[0]
    vectors[:, 3] = apart[:, 3] = 7.0
    found = fit(vectors, of, apart, seed=0)
    assert found is not None
    assert found.domain.dimensions == HIDDEN - 1


@pytest.mark.parametrize(("taught", "apart"), [(99, 200), (200, 99)])
def test_too_few_rows_give_no_domain(taught: int, apart: int) -> None:
    assert fit(*drawn(taught, seed=0), drawn(apart, seed=1)[0], seed=0) is None


def test_vectors_that_do_not_differ_give_no_domain() -> None:
    same = np.ones((200, HIDDEN), np.float32)
    assert fit(same, np.zeros(200, np.int64), same, seed=0) is None


def test_numbers_that_are_not_finite_give_no_domain() -> None:
    apart = drawn(200, seed=1)[0]
    apart[0, 0] = np.nan
    assert fit(*drawn(300, seed=0), apart, seed=0) is None


def test_a_class_is_what_all_heads_say_together() -> None:
    def reading(states: NDArray[np.int64] | NDArray[np.bool_]) -> HeadReading:
        nothing = np.zeros(4, np.float32)
        return HeadReading(states, nothing, nothing)

    kinds = reading(np.array([0, 0, 1, 0]))
    marks = reading(np.array([[True, False], [True, True], [True, False], [True, False]]))
    one, other, third, again = classes_of([kinds, marks]).tolist()
    assert one == again
    assert len({one, other, third}) == 3


@pytest.mark.simulation
def test_fitted_on_few_rows_the_gate_still_escalates_no_more_than_its_share() -> None:
    """A covariance of 150 rows is poor; the rank among other rows is fair all the same."""
    shares = []
    for seed in range(60):
        read = opened(fit(*drawn(150, seed=seed), drawn(199, seed=1000 + seed)[0], seed=seed))
        p = read.p_values(read.distances(drawn(500, seed=2000 + seed)[0]))
        shares.append(float((p < 0.05).mean()))
    # 9/200; the mean of 60 calibrations is known to about 0.002.
    assert float(np.mean(shares)) == pytest.approx(0.045, abs=0.008)
    assert familiarity._LEAST_KNOWN >= 100  # else no p-value is below 0.01

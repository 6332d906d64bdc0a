"""Flips, batch effects and differences, by hand on small arrays and through real sessions."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from distill.networks.encoder import Encoder
from exporters import parity
from gateway.contract.calibration import Calibration
from gateway.contract.encoding import Encoding
from gateway.contract.manifest import Head, HeadCalibration, HeadKind, InputLimits, Task
from gateway.errors import StageFailed
from gateway.students.student import Session

OURS = np.array([[9, 0, 0], [0, 9, 0], [0.1, 0, 0], [0, 0, 1]], np.float32)
THEIRS = np.array([[0, 9, 0], [0, 9, 0], [0, 0.1, 0], [0, 0, 1]], np.float32)


def test_label_flips_are_a_share_of_all_rows(calibration: Calibration) -> None:
    assert parity.label_flips(calibration, OURS, THEIRS) == 0.5  # the first and the third row


def test_confident_flips_count_only_at_or_above_the_threshold(calibration: Calibration) -> None:
    # The first row has softmax 1 / (1 + 2 exp(-9)) = 0.9998, the third about 0.36.
    assert parity.confident_flips(calibration, OURS, THEIRS, 0.9) == 0.25
    assert parity.confident_flips(calibration, OURS, THEIRS, 0.3) == 0.5
    assert parity.confident_flips(calibration, OURS, THEIRS, None) == 0.0


def test_a_flip_of_any_flag_of_any_head_counts_once() -> None:
    heads = (
        Head(name="risk", kind=HeadKind.FLAGS, labels=("fraud", "legal")),
        Head(name="urgency", kind=HeadKind.CHOICE, labels=("low", "high")),
    )
    calibrated = Calibration(
        Task(name="two", heads=heads),
        [HeadCalibration(head=name, temperature=1.0, rows=0) for name in ("risk", "urgency")],
    )
    ours = np.array([[1, -1, 2, 0], [1, 1, 2, 0], [1, 1, 2, 0]], np.float32)
    theirs = np.array([[1, -1, 2, 0], [1, -1, 2, 0], [-1, -1, 0, 2]], np.float32)
    assert parity.flips(calibrated, ours, theirs).tolist() == [False, True, True]


def test_batches_give_each_row_its_own_logits(fp32: bytes, rows: list[list[int]]) -> None:
    session = Session(fp32)
    single = parity.alone(session, rows)
    assert single.shape == (len(rows), 3)
    np.testing.assert_allclose(parity.in_batches(session, rows, size=3), single, atol=1e-5)


def test_an_fp32_graph_is_batch_invariant(
    fp32: bytes, rows: list[list[int]], calibration: Calibration
) -> None:
    effect = parity.batch_effect(Session(fp32), rows, calibration)
    assert effect.flips == 0.0
    assert effect.invariant()


def test_a_flip_or_a_moved_score_ends_invariance() -> None:
    assert not parity.BatchEffect(0.001, 0.0).invariant()
    assert not parity.BatchEffect(0.0, 0.02).invariant()
    assert parity.BatchEffect(0.0, 0.02).invariant(score_difference=0.02)


def test_the_difference_to_torch_is_the_largest_of_any_logit(
    network: Encoder, fp32: bytes, rows: list[list[int]]
) -> None:
    session = Session(fp32)
    assert parity.fp32_difference(network, session, rows, max_tokens=8) <= 1e-4
    before = network.heads.bias.detach().clone()
    try:
        network.heads.bias.data += 0.5  # now torch says half a unit more
        assert parity.fp32_difference(network, session, rows) == pytest.approx(0.5, abs=1e-4)
    finally:
        network.heads.bias.data = before


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_a_graph_that_differs_from_torch_is_refused(difference: float) -> None:
    parity.require_fp32(1e-4, 1e-4)
    with pytest.raises(StageFailed, match="off the torch module"):
        parity.require_fp32(difference, 1e-4)


def test_tokenizers_are_compared_on_odd_texts_too(tokenizer: bytes, limits: InputLimits) -> None:
    encoding = Encoding(tokenizer, limits)
    plain = Tokenizer.from_str(tokenizer.decode())
    assert parity.tokenizers_equal(lambda text: plain.encode(text).ids, encoding, ["my card"])
    odd = parity.ODD_TEXTS[-1]
    assert not parity.tokenizers_equal(
        lambda text: [] if text == odd else plain.encode(text).ids, encoding, ["my card"]
    )

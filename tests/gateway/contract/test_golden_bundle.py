"""A bundle of schema version 1, as it was once written. It is never edited.

If it cannot be opened any more, bundles that people have in production cannot be opened either:
then the schema version has to rise, and version 1 has to stay readable.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.contract.bundle import canonical, open_bundle
from gateway.students.student import Student
from tests.factories import CONFIDENT, UNSURE

(PATH,) = (Path(__file__).parents[2] / "golden" / "bundle-v1").iterdir()
ID = "80dfdc38e4d8d86ccdc55579c7e70512157fdacfce6d1043fef2191a9f0b46d0"


def test_it_opens_under_its_id_and_name() -> None:
    bundle = open_bundle(PATH)
    assert bundle.id == ID
    assert bundle.name == PATH.name == f"tickets-{ID[:12]}"


def test_its_manifest_is_still_written_the_same() -> None:
    assert canonical(open_bundle(PATH).manifest) == (PATH / "manifest.json").read_bytes()


def test_it_answers_as_it_did() -> None:
    confident, unsure = Student(open_bundle(PATH)).predict([CONFIDENT, UNSURE])
    for said in (confident, unsure):
        assert [head.labels for head in said.heads] == [("refund",), ()]
        assert said.bundle == ID
    # By hand: (1 / (1 + e^-6 + e^-12)) * sigmoid(8)^2, and the same with sigmoid(0.5) once.
    assert confident.score == pytest.approx(0.99686, abs=2e-4)
    assert unsure.score == pytest.approx(0.62071, abs=2e-4)

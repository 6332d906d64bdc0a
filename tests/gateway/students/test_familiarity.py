"""A bundle with a domain and a correctness score, opened, rehearsed, packed, run and served."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest

from gateway.contract import archive, bundle
from gateway.contract.bundle import canonical, open_bundle
from gateway.contract.manifest import Manifest
from gateway.errors import BundleError, BundleGolden, BundleMismatch, StudentFailed
from gateway.settings import environment_without_keys
from gateway.students.batching import Batcher, Timed
from gateway.students.process import ProcessWorker, _answer
from gateway.students.rehearsal import rehearse, warm
from gateway.students.student import Student
from gateway.students.workers import ThreadWorker, Worker
from gateway.types import Prediction
from tests.factories import tiny_bundle
from tests.familiar import ALIKE, KNOWN, NEAR, STRANGE, correctness, familiar_bundle

TEXTS = [KNOWN, NEAR, STRANGE, "hello", "refund " * 30]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "bundles")


def shown(said: Prediction) -> tuple[object, ...]:
    """What a prediction says, as values that can be compared."""
    heads = tuple((each.labels, each.confidence) for each in said.heads)
    return heads, said.score, said.truncated, said.familiarity


def test_the_p_value_of_a_text_is_the_one_worked_out_by_hand(tiny: Path) -> None:
    student = Student(open_bundle(familiar_bundle(tiny)))
    known, near, strange, nothing, long = student.predict(TEXTS)
    assert [each.familiarity for each in (known, near, strange)] == [1.0, 10 / 200, 1 / 200]
    assert nothing.familiarity == long.familiarity == 1.0


def test_a_bundle_without_a_domain_says_nothing_of_familiarity(tiny: Path) -> None:
    assert {each.familiarity for each in Student(open_bundle(tiny)).predict(TEXTS)} == {None}


def test_a_domain_alone_leaves_every_score_as_it_was(tiny: Path) -> None:
    before = Student(open_bundle(tiny)).predict(TEXTS)
    after = Student(open_bundle(familiar_bundle(tiny))).predict(TEXTS)
    assert [shown(each)[:3] for each in after] == [shown(each)[:3] for each in before]


def test_the_score_is_the_bundle_s_correctness(tiny: Path) -> None:
    path = familiar_bundle(tiny, score=correctness(distance=3.0))
    known, near, *_ = Student(open_bundle(path)).predict(TEXTS)
    # refund 12, other 6: the margin is 6, and (6 - 4) / 2 is 1; one word too many takes 3 off it.
    assert known.heads[0].confidence == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-4)
    assert near.heads[0].confidence == pytest.approx(1 / (1 + np.exp(2)), abs=1e-4)
    off = 1 / (1 + np.exp(-8))  # of each flag, for "urgent" as well: 16 - 8
    assert known.score == pytest.approx(known.heads[0].confidence * off**2, abs=1e-5)
    assert near.score == pytest.approx(near.heads[0].confidence * off**2, abs=1e-5)
    # Probabilities stay calibrated ones: 1 / (1 + e^-6 + e^-12).
    assert known.heads[0].probabilities[0] == pytest.approx(0.99752, abs=1e-4)


def test_a_score_that_reads_no_distance_needs_no_domain(tiny: Path) -> None:
    path = familiar_bundle(tiny, domain=False, score=correctness())
    (known,) = Student(open_bundle(path)).predict([KNOWN])
    assert known.heads[0].confidence == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-4)
    assert known.familiarity is None


@pytest.mark.parametrize("batch_invariant", [True, False])
def test_a_text_says_the_same_alone_and_in_a_batch(
    tmp_path: Path, *, batch_invariant: bool
) -> None:
    tiny = tiny_bundle(tmp_path, batch_invariant=batch_invariant)
    student = Student(open_bundle(familiar_bundle(tiny, score=correctness(distance=0.5))))
    alone = [shown(student.predict([text])[0]) for text in TEXTS]
    assert [shown(each) for each in student.predict(TEXTS)] == alone


def test_threads_and_processes_say_the_same(tiny: Path) -> None:
    student = Student(open_bundle(familiar_bundle(tiny, score=correctness(distance=0.5))))

    async def asked(*, processes: bool) -> list[tuple[object, ...]]:
        worker: Worker = ThreadWorker(student)
        if processes:
            worker = ProcessWorker(student, environment=environment_without_keys())
        batcher = Batcher(student, [worker])
        async with asyncio.timeout(120.0):
            await batcher.ready()
            answers = await batcher.submit(TEXTS)
            await batcher.close()
        return [shown(each.prediction) for each in answers if isinstance(each, Timed)]

    wanted = [shown(each) for each in student.predict(TEXTS)]
    assert asyncio.run(asked(processes=False)) == wanted
    assert asyncio.run(asked(processes=True)) == wanted


def test_a_text_that_fails_in_a_process_leaves_the_others_their_familiarity(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = Student(open_bundle(familiar_bundle(tiny)))
    plain = student.raw

    def raw(texts: list[str]) -> object:
        if "poison" in texts:
            raise ValueError("no such thing")
        return plain(texts)

    monkeypatch.setattr(student, "raw", raw)
    found, failures, *_ = _answer(student, [NEAR, "poison", STRANGE])
    assert list(failures) == [1]
    assert found.distances is not None
    np.testing.assert_allclose(found.distances, [1.0, 0.0, np.sqrt(3)], rtol=1e-6)
    assert found.lengths.tolist() == [3, 0, 3]
    assert student.interpret(found.row(2))[0].familiarity == 1 / 200


def test_a_distance_that_is_not_finite_is_a_failure(tiny: Path) -> None:
    student = Student(open_bundle(familiar_bundle(tiny)))
    raw = student.raw([KNOWN])
    with pytest.raises(StudentFailed, match="not finite"):
        student.interpret(raw._replace(distances=np.array([np.nan], np.float32)))


def test_a_bundle_with_a_domain_passes_its_rehearsal_and_is_warmed(tiny: Path) -> None:
    path = familiar_bundle(tiny, score=correctness(distance=0.5))
    rehearse(path, environment=environment_without_keys())
    warm(Student(open_bundle(path)))


def test_a_host_that_gives_other_distances_is_refused(tiny: Path) -> None:
    path = familiar_bundle(tiny, golden_off=0.02)
    with pytest.raises(BundleGolden, match=r"another distance .*: 0\.0200 off, 0\.0100 allowed"):
        rehearse(path, environment=environment_without_keys())


def test_a_domain_that_overflows_is_refused_in_the_rehearsal(tiny: Path) -> None:
    numbers = np.frombuffer(ALIKE.content(), "<f4").copy()
    numbers[25] = 3e38  # of a centre: a gap whose square is beyond float32, from one centre only
    numbers[30] = numbers[35] = 3e38
    path = familiar_bundle(tiny, content=numbers.tobytes())
    with pytest.raises(BundleError):
        rehearse(path, environment=environment_without_keys())


def test_a_domain_of_another_size_is_refused(tiny: Path) -> None:
    path = familiar_bundle(tiny, content=ALIKE.content()[:-4])
    with pytest.raises(BundleMismatch, match=r"domain\.f32 has \d+ bytes"):
        Student(open_bundle(path))


def test_a_pooled_vector_of_another_width_than_the_manifests_is_refused(tiny: Path) -> None:
    manifest = open_bundle(tiny).manifest
    files = {entry.name: (tiny / entry.name).read_bytes() for entry in manifest.files}
    wide = manifest.graph.model_copy(update={"hidden": 6})
    path = bundle.write(manifest.model_copy(update={"graph": wide}), files, tiny.parent)
    with pytest.raises(BundleMismatch, match=r"pools a text into \(5,\), the manifest says 6"):
        Student(open_bundle(path))


def test_a_domain_without_its_file_and_a_file_without_its_domain_are_refused(tiny: Path) -> None:
    path = familiar_bundle(tiny)
    manifest = open_bundle(path).manifest
    files = {entry.name: (path / entry.name).read_bytes() for entry in manifest.files}
    lone = bundle.write(manifest.model_copy(update={"domain": None}), files, path.parent)
    with pytest.raises(BundleMismatch, match="belong together"):
        open_bundle(lone)
    del files[bundle.DOMAIN]
    entries = bundle.entries(files)
    bare = bundle.write(manifest.model_copy(update={"files": entries}), files, path.parent)
    with pytest.raises(BundleMismatch, match="belong together"):
        open_bundle(bare)


def test_a_packed_bundle_brings_its_domain_along(tiny: Path, tmp_path: Path) -> None:
    for number, (path, files) in enumerate([(tiny, 4), (familiar_bundle(tiny), 5)]):
        packed, target = io.BytesIO(), tmp_path / str(number)
        archive.pack(path, packed)
        (tmp_path / "archive").write_bytes(packed.getvalue())
        target.mkdir()
        folder = archive.unpack(tmp_path / "archive", target, most=2**30)
        assert sorted(each.name for each in folder.iterdir()) == archive.present(path)
        assert len(archive.present(path)) == files
        assert open_bundle(folder).id == open_bundle(path).id


def test_a_manifest_without_the_new_parts_does_not_name_them(tiny: Path) -> None:
    manifest = open_bundle(tiny).manifest
    raw = canonical(manifest)
    for name in (b"correctness", b"domain", b"distance", b"_plain", b"score_ece"):
        assert name not in raw
    both = open_bundle(familiar_bundle(tiny, score=correctness())).manifest
    assert Manifest.model_validate_json(canonical(both)) == both
    assert b'"domain":{"calibration":199' in canonical(both)
